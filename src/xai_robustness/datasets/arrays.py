"""Image data sets in one Zarr store instead of one file an image."""

import json
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.decode import BadFileError, resize
from xai_robustness.datasets.records import Records, keep_classes
from xai_robustness.types import InputError

if TYPE_CHECKING:
    from xai_robustness.datasets.params import DataParams

SUFFIXES = (".zarr", ".zarr.zip")
SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def is_store(path: Path) -> bool:
    """Whether a path is named like a Zarr store: a folder `.zarr`, or one in a file `.zarr.zip`."""
    return path.name.endswith(SUFFIXES)


def read_store(params: "DataParams", path: Path, licence: str) -> Records:
    """Read the table of a Zarr store: `images` and `labels` at its root, or in groups `train`, `val`, `test`.

    Images are uint8 (N,H,W,C) or (N,C,H,W), C = 1 or 3, or floats in [0,1] of the same shapes; labels are whole numbers
    (N,) or (N,1). An attribute `class_names` of the root names the classes, else their numbers do. Rows are read and
    resized like files: once, into the kept store.

    Raises:
        InputError: no store, no such arrays, lengths that differ, another kind of array, or a pickled one.
    """
    root = _opened(path)
    groups = [name for name in SPLIT_OF if name in root] or [""]
    parts = [(group, *_arrays(root, group, path)) for group in groups]
    numbers = np.concatenate([labels for _, _, labels in parts])
    given: Any = root.attrs.get("class_names")
    official = [str(name) for name in given] if given else [str(n) for n in range(int(numbers.max(initial=0)) + 1)]
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= len(official):
        raise InputError(
            f"The labels of {path} must be 0 to {len(official) - 1}, places in its class_names. "
            f"Got {numbers.min()} to {numbers.max()} instead."
        )
    classes, labels = keep_classes([official[n] for n in numbers], official, params.classes, official)
    names = tuple(f"{group}{'/' if group else ''}{i}" for group, _, rows in parts for i in range(len(rows)))
    splits = np.concatenate([np.full(len(rows), SPLIT_OF.get(group, "")) for group, _, rows in parts])
    channels = 1 if params.gray else 3
    return Records(
        info=DatasetInfo(_stem(path), "binary" if len(classes) == 2 else "multi-class", classes, licence),
        files=tuple(path / name for name in names),
        names=names,
        labels=labels,
        sample_ids=np.arange(len(names), dtype=np.int64),
        splits=splits if groups != [""] else None,
        decode=StoreRows(path, params.size, channels),
        store=path,
    )


def _stem(path: Path) -> str:
    return path.name.removesuffix(".zip").removesuffix(".zarr")


def _opened(path: Path) -> Any:
    import zarr

    if not path.exists():
        raise InputError(f"The Zarr store {path} does not exist. Correct data.folder, or put it there.")
    try:
        return zarr.open_group(zarr.storage.ZipStore(path, mode="r") if path.is_file() else path, mode="r")
    except (ValueError, KeyError, OSError, FileNotFoundError) as error:
        raise InputError(f"The store {path} must be a Zarr group. Got an error instead: {error}.") from error


def _arrays(root: Any, group: str, path: Path) -> tuple[Any, np.ndarray]:
    """Images of a group, not read yet, and its labels, checked."""
    node = root[group] if group else root
    place = f"{path}{'/' if group else ''}{group}"
    images, labels = _safe(node, "images", place, "uf"), _safe(node, "labels", place, "iu")
    if images.ndim != 4 or _channels(images.shape) is None:
        raise InputError(
            f"The array {place}/images must be (N,H,W,C) or (N,C,H,W) with 1 or 3 channels. Got {images.shape} instead."
        )
    found = np.asarray(labels[:], np.int64)
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if found.shape != images.shape[:1]:
        raise InputError(f"The array {place}/labels must be one number an image. Got {labels.shape} instead.")
    return images, found


def _safe(node: Any, name: str, place: str, kinds: str) -> Any:
    """An array of a group, if it is one of numbers and none of its codecs runs foreign code."""
    store, place = place, f"{place}/{name}"
    try:
        array = node[name]
    except KeyError:
        raise InputError(f"The Zarr store {store} must hold the arrays images and labels. Got no {name}.") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"The array {place} must be numbers. Got an error instead: {error}.") from error
    if getattr(array, "dtype", np.dtype(object)).kind not in kinds:
        raise InputError(f"The array {place} must be numbers. Got {getattr(array, 'dtype', type(array).__name__)}.")
    described = {**array.metadata.to_dict(), "attributes": None}
    if "pickle" in json.dumps(described, default=str).lower():
        raise InputError(f"The array {place} must be stored without pickle, which can run code. Store it anew.")
    return array


def _channels(shape: tuple[int, ...]) -> int | None:
    """The axis of the channels: the last, or the second; None if neither has 1 or 3."""
    return next((axis for axis in (3, 1) if shape[axis] in (1, 3)), None)


class StoreRows:
    """Gives single images of a store, resized; the chunk that was read last is kept.

    Args:
        store: the store.
        size: side in pixels.
        channels: 1 or 3.
    """

    def __init__(self, store: Path, size: int, channels: int) -> None:
        self.store, self.size, self.channels = store, size, channels
        self._arrays: dict[str, Any] = {}
        self._kept: tuple[tuple[str, int], np.ndarray] | None = None
        self._lock = Lock()

    def __call__(self, row: Path) -> UInt8[np.ndarray, "h w c"]:
        """The image `<store>/<number>` or `<store>/<group>/<number>`; raises BadFileError for floats out of [0,1]."""
        image = self._read("" if row.parent == self.store else row.parent.name, int(row.name))
        if image.dtype.kind == "f":
            if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
                raise BadFileError(f"its values must lie in [0,1], they reach from {image.min():g} to {image.max():g}")
            image = np.round(image * 255)
        image = image.astype(np.uint8)
        gray = image.shape[-1] == 1
        return resize(np.ascontiguousarray(image[..., 0] if gray else image), self.size, self.channels)

    def _read(self, group: str, row: int) -> np.ndarray:
        """(H,W,C) of a row."""
        with self._lock:  # neighbours wait for the one that reads their chunk
            if group not in self._arrays:
                root = _opened(self.store)
                self._arrays[group] = (root[group] if group else root)["images"]
            images = self._arrays[group]
            chunk, inside = divmod(row, images.chunks[0])
            if self._kept is None or self._kept[0] != (group, chunk):
                start = chunk * images.chunks[0]
                self._kept = (group, chunk), np.asarray(images[start : start + images.chunks[0]])
            image = self._kept[1][inside]
        return image if _channels(images.shape) == 3 else np.moveaxis(image, 0, -1)
