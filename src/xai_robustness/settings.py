"""Kedro project settings."""

import warnings
from pathlib import Path

from xai_robustness.hooks.mlflow import MlflowHooks
from xai_robustness.hooks.reproducibility import ReproducibilityHooks
from xai_robustness.io.config import PresetConfigLoader
from xai_robustness.session import IncrementalSession

warnings.filterwarnings("ignore", message="register_new_resolver", category=UserWarning)

SESSION_CLASS = IncrementalSession
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-viz",)  # its run status file is for full runs alone
HOOKS = (ReproducibilityHooks(), MlflowHooks())
CONFIG_LOADER_CLASS = PresetConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft"},
    "config_patterns": {"mlflow": ["mlflow*"]},
}
_PACKAGED = Path(__file__).parent / "conf"
CONF_SOURCE = str(_PACKAGED) if _PACKAGED.is_dir() else "conf"
