"""Corrupted versions of the clean images as data sets of their own, and their export in MedMNIST-C's layout."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from xai_robustness.chunks import ArraysJob, ChunkStream, Compute, Rows
from xai_robustness.corruptions.augment import CorruptionAugmentation
from xai_robustness.corruptions.base import corrupt
from xai_robustness.datasets.base import ImageSet
from xai_robustness.robustness.params import SEVERITIES, RobustnessParams

CHUNK = 256


def corrupted_job(images: Mapping[str, ImageSet], params: RobustnessParams, seed: int) -> ArraysJob:
    """A lazy store of corrupted splits.

    Args:
        images: `<split>/clean` -> clean images.
        params: table, corruptions, and which splits.
        seed: seed of the run.

    Returns:
        Groups `train/corrupted` and `val/corrupted`, one corruption or none a sample at a random constant, for
        fine-tuning, and `test/<corruption>_<severity>` at the table's severities; uint8 images, labels, sample ids.
    """
    streams = {}
    for split in params.corrupted_sets.splits:
        part = images[f"{split}/clean"]
        if split == "test":
            for name in params.chosen:
                for severity in SEVERITIES:
                    compute = _at_severity(part, name, severity, seed, params.table)
                    streams[f"test/{name}_{severity}"] = ChunkStream(len(part), compute, CHUNK)
        else:
            augment = CorruptionAugmentation(params.chosen, params.table)
            streams[f"{split}/corrupted"] = ChunkStream(len(part), _augmented(part, augment, seed), CHUNK)
    info = next(iter(images.values())).info
    return ArraysJob(streams, {"info": asdict(info), "table": params.table}, "write corrupted images")


def _at_severity(part: ImageSet, name: str, severity: int, seed: int, table: str) -> Compute:
    def compute(start: int, stop: int) -> Rows:
        rows = slice(start, stop)
        made = corrupt(name, part.tensor(rows), part.sample_ids[rows].tolist(), severity, seed, table)
        return _rows(part, rows, made)

    return compute


def _augmented(part: ImageSet, augment: CorruptionAugmentation, seed: int) -> Compute:
    def compute(start: int, stop: int) -> Rows:
        rows = slice(start, stop)
        return _rows(part, rows, augment(part.tensor(rows), part.sample_ids[rows].tolist(), seed))

    return compute


def _rows(part: ImageSet, rows: slice, images: Float[Tensor, "n c h w"]) -> Rows:
    return {"images": to_pixels(images), "labels": part.labels[rows], "sample_ids": part.sample_ids[rows]}


def to_pixels(images: Float[Tensor, "n c h w"]) -> UInt8[np.ndarray, "n h w c"]:
    """Images in [0,1] rounded to 8 bits."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


@dataclass(frozen=True)
class ExportJob:
    """Writes `<flag>/<corruption>.npz` with `test_images` uint8 (5N,H,W[,3]), severity by severity, and `test_labels`.

    Attributes:
        images: the clean test images; None writes nothing.
        corruptions: names.
        table: severity table.
        seed: seed of the run.
    """

    images: ImageSet | None
    corruptions: Sequence[str]
    table: str
    seed: int

    def write(self, folder: Path) -> None:
        """Write the files that `folder` lacks, each whole or not at all."""
        if self.images is None:
            return
        target = folder / self.images.info.name
        target.mkdir(parents=True, exist_ok=True)
        labels = self.images.labels.reshape(len(self.images), -1)
        for name in self.corruptions:
            path, partial = target / f"{name}.npz", target / f".{name}.partial.npz"
            if not path.exists():
                made = np.concatenate([self._version(name, severity) for severity in SEVERITIES])
                made = made[..., 0] if made.shape[-1] == 1 else made
                np.savez_compressed(partial, test_images=made, test_labels=np.tile(labels, (len(SEVERITIES), 1)))
                partial.replace(path)

    def _version(self, name: str, severity: int) -> UInt8[np.ndarray, "n h w c"]:
        assert self.images is not None
        parts = []
        for batch in self.images.batches(CHUNK):
            ids = self.images.sample_ids[batch.rows].tolist()
            parts.append(to_pixels(corrupt(name, batch.images, ids, severity, self.seed, self.table)))
        return np.concatenate(parts)


def export_job(images: ImageSet, params: RobustnessParams, seed: int) -> ExportJob:
    """The export that the parameters ask for, or one that writes nothing."""
    return ExportJob(images if params.corrupted_sets.export else None, params.chosen, params.table, seed)
