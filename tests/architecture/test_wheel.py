import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_contains_the_default_configuration(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    wanted = {f"xai_robustness/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").glob("*/*.yml")}
    assert len(wanted) > 15
    assert wanted <= names
    assert "xai_robustness/session.py" in names
