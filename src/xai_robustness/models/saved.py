"""A trained classifier on disk, its weights read at first use."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from xai_robustness.models.checkpoint import load_description, load_model


@dataclass(frozen=True)
class Classifier:
    """A folder with `model.safetensors`, `model.json` and `history.csv`."""

    folder: Path

    @cached_property
    def model(self) -> nn.Sequential:
        """The model in evaluation mode."""
        return load_model(self.folder)

    @property
    def description(self) -> dict[str, Any]:
        """What built the model."""
        return load_description(self.folder)

    @property
    def history(self) -> pd.DataFrame:
        """Training history: epoch, split and metrics; without rows for a given checkpoint."""
        return pd.read_csv(self.folder / "history.csv", float_precision="round_trip")

    @property
    def fingerprint(self) -> str:
        """Hash of the weights' file."""
        return hashlib.blake2b((self.folder / "model.safetensors").read_bytes(), digest_size=16).hexdigest()
