"""Configuration with presets: base, then the preset of training, then the study, then the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader

from xai_robustness.models.presets import PRESETS, without_defaults


class PresetConfigLoader(OmegaConfigLoader):
    """Kedro's loader; where `training.preset` is set, `conf/base` no longer says what the preset says.

    What remains is what the study's own files and `--params` set, which is explicit and wins over the preset. An
    unknown preset is left for the check of the parameters, whose error lists the choices.
    """

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The configuration `key`, merged."""
        found: dict[str, Any] = super().__getitem__(key)
        training = found.get("training") if key == "parameters" else None
        preset = PRESETS.get(str(training.get("preset"))) if isinstance(training, Mapping) else None
        if preset is None or training is None:
            return found
        return {**found, "training": without_defaults(training, self._explicit(), preset)}

    def _explicit(self) -> Mapping[str, Any]:
        """Training parameters of the study's own files and of the command line."""
        env, given = self.env or self.default_run_env, dict(self.runtime_params or {})
        if env != self.base_env:
            folder = str(Path(self.conf_source) / env)
            given = self.load_and_merge_dir_config(folder, self.config_patterns["parameters"], "parameters", set())
        training = given.get("training")
        return training if isinstance(training, Mapping) else {}
