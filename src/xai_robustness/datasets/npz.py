"""Files in MedMNIST's npz format: checked without reading their images, then read row by row."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.types import SPLITS, InputError, Split

_BLOCK_BYTES = 1 << 22


@contextmanager
def _member(path: Path, key: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
    """Open one array of an npz file: a stream that stands behind the header, the shape and the dtype."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if fortran or dtype.hasobject:
            raise ValueError(f"'{key}' must be a plain array in C order")
        yield stream, shape, dtype


def _read_rows(path: Path, key: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Read an array, or its sorted `rows` alone, block by block: memory holds what is kept."""
    with _member(path, key) as (stream, shape, dtype):
        wanted = np.arange(shape[0]) if rows is None else rows
        result = np.empty((len(wanted), *shape[1:]), dtype)
        width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        block = max(1, _BLOCK_BYTES // max(width, 1))
        for start in range(0, shape[0], block):
            count = min(block, shape[0] - start)
            data = stream.read(count * width)
            if len(data) != count * width:
                raise ValueError(f"'{key}' ends early")
            low, high = np.searchsorted(wanted, [start, start + count])
            chunk = np.frombuffer(data, dtype).reshape(count, *shape[1:])
            result[low:high] = chunk[wanted[low:high] - start]
    return result


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into one sentence."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(
            f"The file {path} must be an npz file of plain arrays. Got an error instead: {error}."
        ) from error


def check_npz(path: Path, info: DatasetInfo) -> dict[Split, int]:
    """Check keys, shapes, dtypes and labels of a MedMNIST file without reading its uint8 images.

    Args:
        path: npz file with `{split}_images` and `{split}_labels`.
        info: data set whose classes the labels must fit.

    Returns:
        Number of samples of each split.

    Raises:
        InputError: not an npz, a missing key, a wrong shape or dtype, an empty split, labels outside the classes,
            float images with NaN or outside [0,1].
    """
    with _sound(path):
        with zipfile.ZipFile(path) as archive:
            keys = {name.removesuffix(".npy") for name in archive.namelist()}
        for key in (f"{split}_{part}" for split in SPLITS for part in ("images", "labels")):
            if key not in keys:
                raise InputError(f"The file {path} must hold the array '{key}'. Got {', '.join(sorted(keys))} instead.")
        return {split: _check_split(path, split, info) for split in SPLITS}


def _check_split(path: Path, split: Split, info: DatasetInfo) -> int:
    with _member(path, f"{split}_images") as (_, shape, dtype):
        gray, colour = len(shape) == 3, len(shape) == 4 and shape[-1] in (1, 3)
        if not (gray or colour) or dtype.kind not in "uf" or (dtype.kind == "u" and dtype.itemsize > 1):
            raise InputError(
                f"The array '{split}_images' of {path} must be uint8 (N,H,W) or (N,H,W,3). Got {dtype} {shape} instead."
            )
    if shape[0] == 0:
        raise InputError(f"The split {split} of {path} must hold at least one sample. Got 0 instead.")
    if dtype.kind == "f":
        _check_floats(_read_rows(path, f"{split}_images"), f"'{split}_images' of {path}")
    _check_labels(_read_rows(path, f"{split}_labels"), shape[0], info, f"'{split}_labels' of {path}")
    return shape[0]


def _check_floats(images: np.ndarray, name: str) -> None:
    if np.isnan(images).any():
        raise InputError(f"The array {name} must be free of NaN. Got {int(np.isnan(images).sum())} NaN instead.")
    if images.min() < 0 or images.max() > 1:
        raise InputError(
            f"The array {name} must lie in [0, 1] or be uint8. Got [{images.min():g}, {images.max():g}] instead."
        )


def _check_labels(labels: np.ndarray, n: int, info: DatasetInfo, name: str) -> None:
    columns = info.n_classes if info.task == "multi-label" else 1
    if labels.shape not in ((n, columns), (n,) if columns == 1 else ()) or labels.dtype.kind not in "iuf":
        raise InputError(
            f"The array {name} must be integers ({n},{columns}). Got {labels.dtype} {labels.shape} instead."
        )
    if np.isnan(labels).any():
        raise InputError(f"The array {name} must be free of NaN. Got {int(np.isnan(labels).sum())} NaN instead.")
    top = 1 if info.task == "multi-label" else info.n_classes - 1
    if labels.min() < 0 or labels.max() > top or (labels != np.round(labels)).any():
        raise InputError(
            f"The array {name} must be whole numbers in 0..{top}. Got values {_outside(labels, top)} instead."
        )


def _outside(labels: np.ndarray, top: int) -> list[float]:
    return [
        value.item() for value in np.unique(labels[(labels < 0) | (labels > top) | (labels != np.round(labels))])[:5]
    ]


def read_npz(path: Path, info: DatasetInfo, rows: dict[Split, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Read a MedMNIST file whose arrays are checked first.

    Args:
        path: npz file with `{split}_images` and `{split}_labels`.
        info: data set whose classes the labels must fit.
        rows: sorted row numbers a split to keep; all rows where it is None. Only kept rows stay in memory.

    Returns:
        `{split}_images` uint8 (N,H,W,C) and `{split}_labels` int64 (N,), or (N,L) for multi-label tasks.

    Raises:
        InputError: as `check_npz`.
    """
    check_npz(path, info)
    arrays: dict[str, np.ndarray] = {}
    with _sound(path):
        for split in SPLITS:
            kept = None if rows is None else rows[split]
            images = _read_rows(path, f"{split}_images", kept)
            if images.dtype.kind == "f":
                images = np.round(images * 255).astype(np.uint8)
            labels = _read_rows(path, f"{split}_labels", kept).astype(np.int64)
            arrays[f"{split}_images"] = images[..., None] if images.ndim == 3 else images
            arrays[f"{split}_labels"] = labels if info.task == "multi-label" else labels.reshape(len(labels))
    return arrays
