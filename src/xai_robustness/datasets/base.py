"""Labelled images as every stage sees them."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from xai_robustness.types import Task

EXTRA = "extra."
"""Prefix of the arrays of a store that hold an image set's extras."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is: its task, classes and licence.

    Attributes:
        name: flag of the data set, `phantom` or a MedMNIST flag.
        task: binary, multi-class, multi-label or ordinal.
        class_names: one name a class (a label, for multi-label tasks).
        licence: licence of the images, as their authors state it.
    """

    name: str
    task: Task
    class_names: tuple[str, ...]
    licence: str

    @property
    def n_classes(self) -> int:
        """Number of classes, which is the number of logits."""
        return len(self.class_names)

    def names_of(self, labels: np.ndarray) -> list[str]:
        """What samples are called after their labels: int (N,), or (N,L) where a sample has any number of labels.

        Example:
            >>> DatasetInfo("x", "multi-label", ("NORM", "MI", "CD"), "").names_of(np.array([[0, 1, 1], [0, 0, 0]]))
            ['MI, CD', 'none']
        """
        if labels.ndim == 1:
            return [self.class_names[label] for label in labels.tolist()]
        return [", ".join(np.array(self.class_names)[row.astype(bool)]) or "none" for row in labels]


class Batch(NamedTuple):
    """One batch.

    Attributes:
        images: (B,C,H,W) float32 in [0,1]; signals (B,C,1,T) in their unit.
        labels: int64 (B,), or (B,L) for multi-label.
        rows: int64 (B,).
    """

    images: Float[Tensor, "b c h w"]
    labels: Tensor
    rows: np.ndarray


def take(array: Any, rows: slice | np.ndarray) -> np.ndarray:
    """Read rows of a NumPy or Zarr array; rows may be a slice, an index array or a boolean array."""
    if isinstance(rows, slice) or isinstance(array, np.ndarray):
        return np.asarray(array[rows])
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows
    return np.asarray(array.oindex[rows])


def rows_of_ids(sample_ids: Int64[np.ndarray, " n"], wanted: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
    """Rows of `sample_ids`, of which each is there once, that hold `wanted`, in that order and as often.

    Raises:
        ValueError: an id that is not there.

    Example:
        >>> rows_of_ids(np.array([30, 10, 20]), np.array([20, 30, 20])).tolist()
        [2, 0, 2]
    """
    rows = pd.Index(sample_ids).get_indexer(pd.Index(wanted))
    if (rows < 0).any():
        missing = np.asarray(wanted)[rows < 0][:4].tolist()
        raise ValueError(f"Sample ids must be among the {len(sample_ids)} known ones. Got {missing} instead.")
    return np.asarray(rows, np.int64)


@dataclass(frozen=True)
class ImageSet:
    """Images of one split in one condition, on disk or in memory.

    Attributes:
        images: uint8 (N,H,W,C), a NumPy or Zarr array; read batch by batch. Signals are float32 (N,1,T,C), images of
            height 1 in the signal's unit (mV for ECG), so that all that is said of images holds for them.
        labels: int64 (N,), or (N,L) in {0,1} for multi-label tasks.
        sample_ids: int64 (N,), unique over the splits of a data set and stable over runs.
        info: the data set.
        has_artifact: bool (N,), whether the sample carries the artifact in this condition; None where it is not told,
            as for the splits that models are fitted on.
        masks: bool (N,H,W) true artifact regions, or None where none are kept.
        lesion_masks: bool (N,H,W) where the data set knows its lesions (phantom), or None.
        extras: name -> array (N,…) of what else is known of the raw samples: `artifact:<name>` bool, labels of a real
            artifact; `group` int64, patient or lesion (-1: not known).
    """

    images: Any
    labels: np.ndarray
    sample_ids: np.ndarray
    info: DatasetInfo
    has_artifact: np.ndarray | None = None
    masks: Any = None
    lesion_masks: Any = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C,H,W)."""
        _, h, w, c = self.images.shape
        return c, h, w

    def fingerprint(self, size: int = 1024) -> str:
        """Hash of the images, labels and sample ids, read `size` images at a time."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.labels).tobytes(), digest_size=16)
        digest.update(np.ascontiguousarray(self.sample_ids).tobytes())
        for start in range(0, len(self), size):
            digest.update(np.ascontiguousarray(take(self.images, slice(start, start + size))).tobytes())
        return digest.hexdigest()

    @property
    def is_signal(self) -> bool:
        """Whether the samples are signals (N,1,T,C) in their own unit."""
        return np.dtype(self.images.dtype).kind == "f"

    def tensor(self, rows: slice | np.ndarray) -> Float[Tensor, "b c h w"]:
        """Images at `rows`, float32 (B,C,H,W) in [0,1]; signals (B,C,1,T) in their unit."""
        batch = torch.from_numpy(np.ascontiguousarray(take(self.images, rows)))
        batch = batch.permute(0, 3, 1, 2).contiguous()
        return batch if self.is_signal else batch.float().div_(255)

    def pictures_of(self, sample_ids: Int64[np.ndarray, " m"]) -> Shaped[np.ndarray, "m h w c"]:
        """Images of samples as they are stored, in this order; raises ValueError for an id that is not there."""
        return take(self.images, rows_of_ids(self.sample_ids, sample_ids))

    def mask_tensor(self, rows: slice | np.ndarray) -> Bool[Tensor, "b h w"]:
        """True artifact masks at `rows`; raises ValueError where none are kept."""
        if self.masks is None:
            raise ValueError("This image set keeps no artifact masks.")
        return torch.from_numpy(np.ascontiguousarray(take(self.masks, rows)).astype(bool))

    def batches(self, size: int, order: np.ndarray | None = None) -> Iterator[Batch]:
        """Yield batches in storage order, or over the row numbers `order`."""
        total = len(self) if order is None else len(order)
        for start in range(0, total, size):
            stop = min(start + size, total)
            rows = np.arange(start, stop) if order is None else order[start:stop]
            images = self.tensor(slice(start, stop) if order is None else rows)
            yield Batch(images, torch.from_numpy(self.labels[rows]), rows)

    def subset(self, rows: Int64[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> "ImageSet":
        """The samples at `rows`, copied into memory."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows

        def pick(array: Any) -> Any:
            return None if array is None else take(array, rows)

        return replace(
            self,
            images=pick(self.images),
            labels=self.labels[rows],
            sample_ids=self.sample_ids[rows],
            has_artifact=pick(self.has_artifact),
            masks=pick(self.masks),
            lesion_masks=pick(self.lesion_masks),
            extras={name: values[rows] for name, values in self.extras.items()},
        )
