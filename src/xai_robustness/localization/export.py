"""Heatmaps and masks as PNG files, one pair a sample."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float
from PIL import Image


@dataclass(frozen=True)
class PngJob:
    """Writes `<group>/heatmaps/<sample id>.png` and `<group>/masks/<sample id>.png`, 8 bit, one channel.

    A heatmap's positive part is divided by its largest value; masks are 0 and 255. Files that are there are left alone.

    Attributes:
        heatmaps: the store of `localization_job`.
        masks: the store of `binarization_job`.
        export: whether anything is written; the folder is empty otherwise.
    """

    heatmaps: zarr.Group
    masks: zarr.Group
    export: bool = True

    def write(self, folder: Path) -> None:
        """Complete `folder`."""
        listed: Any = self.masks.attrs["groups"] if self.export else []
        for name in listed:
            for kind, store in (("heatmaps", self.heatmaps), ("masks", self.masks)):
                group: Any = store[name]
                target = folder / name / kind
                target.mkdir(parents=True, exist_ok=True)
                for row, sample in enumerate(group["sample_ids"][:].tolist()):
                    path = target / f"{sample}.png"
                    if not path.exists():
                        _save(np.asarray(group[kind][row]), path)


def _save(values: Float[np.ndarray, "h w"] | np.ndarray, path: Path) -> None:
    positive = np.maximum(values.astype(np.float64), 0)
    scaled = positive / max(positive.max(), np.finfo(np.float64).tiny) * 255
    partial = path.with_suffix(".part")
    Image.fromarray(scaled.round().astype(np.uint8), "L").save(partial, format="PNG")
    partial.replace(path)
