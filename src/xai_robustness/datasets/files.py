"""From parameters to the three splits of a data set that is read from files."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from inspect import isfunction
from pathlib import Path
from typing import Any

import numpy as np

from xai_robustness.code_hashes import code_hashes
from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.decode import decode_image
from xai_robustness.datasets.decoded import CHUNK, WHOLE, check_decoded, decode_all, decoded_root, state_of
from xai_robustness.datasets.params import DataParams
from xai_robustness.datasets.records import READERS, Records, check_files, with_artifacts
from xai_robustness.datasets.splits import assign_splits
from xai_robustness.types import SPLITS, InputError, Split

logger = logging.getLogger(__name__)

FOLDERS: dict[str, tuple[str, ...]] = {"imagenet": ("imagenet.zarr",)}
"""Data set -> folders below the raw data where it is looked for, its own name aside."""


@dataclass(frozen=True)
class DecodedRows:
    """Rows of a store of decoded files, read when they are sliced: an array as far as streaming needs one.

    Attributes:
        store: Zarr array (M,…).
        rows: int64 (N,), which of its rows these are.
        folder: of a decoded store; its rows count only as long as it is whole.
    """

    store: Any
    rows: np.ndarray
    folder: Path | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,…)."""
        return (len(self.rows), *self.store.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, wanted: slice) -> np.ndarray:
        rows = self.rows[wanted]
        found: np.ndarray = np.empty((len(rows), *self.store.shape[1:]), self.store.dtype)
        size = getattr(self.store, "chunks", (CHUNK,))[0]
        for chunk in np.unique(rows // size):  # one after another: a small split lies in many chunks
            inside = np.flatnonzero(rows // size == chunk)
            start = int(chunk) * size
            found[inside] = self.store[start : start + size][rows[inside] - start]
        if self.folder is not None and not (self.folder / WHOLE).exists():
            raise InputError(f"The decoded files in {self.folder} must stay until a run has read them. Run again.")
        return found


def data_folder(params: DataParams, root: Path) -> Path:
    """Where the files of a data set lie: `data.folder` below the raw data or absolute, else the first that exists."""
    if params.folder is not None:
        return root / Path(params.folder).expanduser()
    choices = [root / name for name in (params.name, *FOLDERS.get(params.name, ()))]
    return next((path for path in choices if path.is_dir()), choices[0])


def read_records(params: DataParams, root: Path) -> Records:
    """The samples that a study uses, before any file is opened: classes chosen, artifact labels matched, splits made.

    Raises:
        InputError: a file is missing, or a table says something impossible.
    """
    folder = data_folder(params, root)
    records = READERS[params.name](params, folder)
    if params.artifact_labels is not None:
        records = with_artifacts(records, _labels_file(params.artifact_labels, folder, root))
    if records.labels.ndim == 1:
        records = records.rows(records.labels >= 0)
    if not len(records):
        raise InputError(f"The classes parameter of DataParams must leave samples of {params.name}. Got none.")
    records = check_files(records, params.skip_bad)
    splits = assign_splits(
        _strata(records), records.groups, records.splits, params.val_share, params.test_share, params.split_seed
    )
    return replace(records, splits=splits)


def _labels_file(name: str, folder: Path, root: Path) -> Path:
    path = Path(name).expanduser()
    return next((base / path for base in (folder, root) if (base / path).is_file()), folder / path)


def _strata(records: Records) -> np.ndarray:
    """Label and artifacts of each sample as one text."""
    labels = records.labels if records.labels.ndim == 1 else records.labels.argmax(1)
    marks = (
        np.stack(list(records.artifacts.values()), 1).astype(int) if records.artifacts else np.zeros((len(labels), 0))
    )
    return np.array([f"{label}/{''.join(map(str, mark))}" for label, mark in zip(labels, marks)])


def sample_shape(params: DataParams, records: Records) -> tuple[int, ...]:
    """(H,W,C) of one sample as it is stored."""
    return records.shape or (params.size, params.size, 1 if params.gray else 3)


def split_rows(records: Records) -> dict[Split, np.ndarray]:
    """Rows of each split; raises InputError if one is empty."""
    assert records.splits is not None
    rows = {split: np.flatnonzero(records.splits == split) for split in SPLITS}
    empty = [split for split in SPLITS if not len(rows[split])]
    if empty:
        raise InputError(
            f"Each split of {records.info.name} must hold at least one sample. Got none in {empty[0]} instead: "
            f"change data.val_share and data.test_share, or its official split."
        )
    return rows


def decoded_rows(params: DataParams, records: Records, root: Path | None) -> DecodedRows:
    """Decode the files of all samples.

    Args:
        params: size, channels, what to do with bad files.
        records: the samples.
        root: folder of decoded stores; None: below the project.

    Returns:
        The samples that could be read; `rows` says which.
    """
    shape = sample_shape(params, records)
    decode = records.decode or partial(decode_image, size=params.size, channels=shape[-1])
    dtype = np.uint8 if records.shape is None else np.float32
    store = decode_all(records, decode, shape, dtype, _version(decode), root or decoded_root(), params.workers)
    return DecodedRows(store.images, check_decoded(records, store, params.skip_bad), store.folder)


def _version(decode: Any) -> str:
    """What the reading of files is made of: its code, and the library that it rests on."""
    reader = getattr(decode, "func", decode)
    return f"{code_hashes(reader if isfunction(reader) else type(reader))} pillow {version('pillow')}"


def report_notes(records: Records) -> None:
    """Log what was left out."""
    for note in records.notes:
        logger.warning("%s: %s", records.info.name, note)


def fingerprint(params: DataParams, root: Path) -> dict[str, str]:
    """Name -> hash: tables by content, files by path, size and time of change, and what is said of the samples."""
    records = read_records(params, root)
    names = [path.name for path in records.tables]
    tables: Mapping[str, str] = {
        path.name if names.count(path.name) == 1 else f"{i}/{path.name}": _md5(path)
        for i, path in enumerate(records.tables)
    }
    said = hashlib.blake2b(repr((records.info.class_names, records.names)).encode(), digest_size=16)
    for values in (records.sample_ids, records.labels, records.groups, records.splits):
        said.update(repr(values.tolist() if values is not None else None).encode())
    for name, marked in sorted(records.artifacts.items()):
        said.update(f"{name} {marked.tolist()}".encode())
    source = records.info.name
    return {**tables, f"{source}/files": state_of(records), f"{source}/samples": said.hexdigest()}


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def info_of(params: DataParams, root: Path) -> DatasetInfo:
    """Task, classes and licence, from the tables."""
    return read_records(params, root).info
