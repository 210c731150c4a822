"""Run the project as `python -m xai_robustness`, also from an installed wheel."""

import sys
from typing import Any

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run the command line of `kedro run` for this package."""
    configure_project("xai_robustness")
    kwargs["standalone_mode"] = not hasattr(sys, "ps1")
    return find_run_command("xai_robustness")(*args, **kwargs)


if __name__ == "__main__":
    main()
