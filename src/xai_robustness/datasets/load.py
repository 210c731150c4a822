"""The data sets by name: parameters in, images, labels and stable sample ids out."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.files import (
    DecodedRows,
    decoded_rows,
    fingerprint,
    info_of,
    read_records,
    report_notes,
    sample_shape,
    split_rows,
)
from xai_robustness.datasets.medmnist import MEDMNIST_2D, medmnist_file, medmnist_md5, medmnist_path
from xai_robustness.datasets.npz import check_npz, read_npz
from xai_robustness.datasets.params import IDS_PER_SPLIT, DataParams
from xai_robustness.datasets.phantom import make_phantom, phantom_info
from xai_robustness.datasets.ptbxl import MOST_PEAKS, SECONDS, find_r_peaks
from xai_robustness.datasets.readers import READERS
from xai_robustness.datasets.records import Records
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import SPLITS, InputError, Split

__all__ = [
    "READERS",
    "SIGNALS",
    "DataParams",
    "RawSplit",
    "check_dataset",
    "dataset_info",
    "external_files",
    "input_shape",
    "load_dataset",
    "raw_root",
]

SIGNALS = ("ptbxl",)
"""Data sets of signals."""
PHANTOM_COUNTS: dict[Split, int] = {"train": 1200, "val": 300, "test": 600}
PHANTOM_SEED = 2024
"""The phantom's images are a data set: they do not follow the seed of a run."""


@dataclass(frozen=True)
class RawSplit:
    """One split as its files give it.

    Attributes:
        images: uint8 (N,H,W,C), C = 1 or 3, or float32 (N,1,T,C) for signals; an array, or rows read when sliced.
        labels: int64 (N,), or (N,L) in {0,1} for multi-label tasks.
        sample_ids: int64 (N,), unique over the splits; they name the row of the file, whatever `n_train` and the like.
        info: the data set.
        lesion_masks: bool (N,H,W) where the data set knows its lesions, else None.
        extras: name -> array (N,…): `artifact:<name>` bool, labels of a real artifact; `group` int64, patient or lesion
            (-1: not known); `r_peaks` int64 (N,P) of ECG, -1 behind the last.
        names: what people call the samples; empty where the rows have no names.
    """

    images: Any
    labels: np.ndarray
    sample_ids: Int64[np.ndarray, " n"]
    info: DatasetInfo
    lesion_masks: Bool[np.ndarray, "n h w"] | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def raw_root(project_path: Path | None = None) -> Path:
    """Folder of raw data: what `XAI_DATA_ROOT` names, else `data/01_raw` of the project (of the working directory)."""
    given = os.environ.get("XAI_DATA_ROOT")
    return Path(given) if given else (project_path or Path.cwd()) / "data" / "01_raw"


def dataset_info(params: DataParams, root: Path | None = None) -> DatasetInfo:
    """Task, classes and licence of a data set; only the tables of data sets that are read from files are opened."""
    if params.from_files:
        return info_of(params, root or raw_root())
    return phantom_info() if params.name == "phantom" else MEDMNIST_2D[params.name]


def input_shape(params: DataParams, root: Path | None = None) -> tuple[int, int, int]:
    """(C,H,W) of one sample; gray MedMNIST sets are taken for RGB, which no check depends on."""
    if not params.from_files:
        return 3, params.size, params.size
    h, w, c = sample_shape(params, read_records(params, root or raw_root()))
    return c, h, w


def external_files(params: DataParams, root: Path) -> dict[str, str]:
    """Name -> hash of the raw files that a data set reads; empty for the phantom."""
    if params.name == "phantom":
        return {}
    if params.from_files:
        return fingerprint(params, root)
    path = medmnist_path(params.name, params.size, root)
    return {f"{path.parent.name}/{path.name}": medmnist_md5(params.name, params.size)}


def check_dataset(params: DataParams, root: Path) -> None:
    """Check in seconds that a data set can be loaded; a missing MedMNIST file is downloaded.

    Raises:
        InputError: file missing and not to be had, wrong content or md5, more samples asked for than there are.
    """
    if params.name == "phantom":
        return
    if params.from_files:
        rows = split_rows(read_records(params, root))
        _kept_rows(params, {split: len(rows[split]) for split in SPLITS}, seed=0)
        return
    path = medmnist_path(params.name, params.size, root)
    if path.is_file():
        check_npz(path, dataset_info(params))
    path = medmnist_file(params.name, params.size, root)
    _kept_rows(params, check_npz(path, dataset_info(params)), seed=0)


def load_dataset(
    params: DataParams, seed: int, root: Path, decode: bool = True, cache: Path | None = None
) -> dict[Split, RawSplit]:
    """Load a data set, or draw the phantom.

    Args:
        params: which data set and how much of it.
        seed: seed of the run; chooses the kept samples where `n_train` and the like ask for fewer than all.
        root: folder of raw data, unused by the phantom.
        decode: for data sets read from files: False leaves the images black and opens none.
        cache: folder of decoded files; None: below the project.

    Returns:
        The three splits, rows in file order.

    Raises:
        InputError: as `check_dataset`, or files that cannot be read.
    """
    if params.from_files:
        return _load_files(params, seed, root, decode, cache)
    if params.name == "phantom":
        counts: dict[Split, int] = {split: params.count(split) or PHANTOM_COUNTS[split] for split in SPLITS}
        arrays = make_phantom(params.size, counts, PHANTOM_SEED)
        rows = {split: np.arange(counts[split]) for split in SPLITS}
    else:
        path = medmnist_file(params.name, params.size, root)
        rows = _kept_rows(params, check_npz(path, dataset_info(params)), seed)
        arrays = read_npz(path, dataset_info(params), rows)
    return {split: _raw_split(split, arrays, rows[split], dataset_info(params)) for split in SPLITS}


def _raw_split(split: Split, arrays: dict[str, np.ndarray], rows: np.ndarray, info: DatasetInfo) -> RawSplit:
    labels = arrays[f"{split}_labels"]
    return RawSplit(
        images=arrays[f"{split}_images"],
        labels=labels if info.task == "multi-label" else labels.reshape(len(labels)),
        sample_ids=rows.astype(np.int64) + SPLITS.index(split) * IDS_PER_SPLIT,
        info=info,
        lesion_masks=arrays.get(f"{split}_masks"),
    )


def _load_files(params: DataParams, seed: int, root: Path, decode: bool, cache: Path | None) -> dict[Split, RawSplit]:
    records = read_records(params, root)
    rows = split_rows(records)
    chosen = _kept_rows(params, {split: len(rows[split]) for split in SPLITS}, seed)
    rows = {split: rows[split][chosen[split]] for split in SPLITS}
    if not decode:
        store = np.broadcast_to(np.uint8(0), (len(records), *sample_shape(params, records)))
        return {split: _file_split(records, DecodedRows(store, rows[split]), rows[split]) for split in SPLITS}
    report_notes(records)
    wanted = np.sort(np.concatenate(list(rows.values())))
    if 2 * len(wanted) >= len(records):  # the files of all, since other seeds and studies find them there
        wanted = np.arange(len(records))
    read = decoded_rows(params, records.rows(wanted), cache)
    rows = {split: np.intersect1d(rows[split], wanted[read.rows]) for split in SPLITS}
    images = {split: replace(read, rows=np.searchsorted(wanted, rows[split])) for split in SPLITS}
    return {split: _file_split(records, images[split], rows[split]) for split in SPLITS}


def _file_split(records: Records, images: DecodedRows, rows: np.ndarray) -> RawSplit:
    extras = {f"artifact:{name}": values[rows] for name, values in records.artifacts.items()}
    if records.groups is not None:
        names, codes = np.unique(records.groups, return_inverse=True)
        extras["group"] = np.where(names[codes] == "", -1, codes)[rows].astype(np.int64)
    if records.shape is not None:
        extras["r_peaks"] = records.peaks[rows] if records.peaks is not None else _peaks(images)
    return RawSplit(
        images=images,
        labels=records.labels[rows],
        sample_ids=records.sample_ids[rows],
        info=records.info,
        extras=extras,
        names=tuple(records.names[i] for i in rows),
    )


def _peaks(signals: DecodedRows) -> np.ndarray:
    """R peaks of every signal, int64 (N,P), -1 behind the last."""
    rate = signals.shape[2] // SECONDS
    found = np.full((len(signals), MOST_PEAKS), -1, np.int64)
    for start in range(0, len(signals), 256):
        for i, values in enumerate(signals[start : start + 256]):
            peaks = find_r_peaks(values[0], rate)[:MOST_PEAKS] if values.any() else np.zeros(0, np.int64)
            found[start + i, : len(peaks)] = peaks
    return found


def _kept_rows(params: DataParams, available: dict[Split, int], seed: int) -> dict[Split, np.ndarray]:
    """Sorted rows a split: all, or the first `n_<split>` of a permutation that the seed gives."""
    kept: dict[Split, np.ndarray] = {}
    for split in SPLITS:
        n, k = available[split], params.count(split)
        if k is not None and k > n:
            raise InputError(
                f"The n_{split} parameter of DataParams must be at most {n} for {params.name}. Got {k} instead."
            )
        kept[split] = np.arange(n) if k is None else np.sort(numpy_rng(seed, "subset", split).permutation(n)[:k])
    return kept
