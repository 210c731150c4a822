"""The data sets by name: parameters in, images, labels and stable sample ids out."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from pydantic import Field, field_validator

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.medmnist import (
    MEDMNIST_2D,
    SIZES,
    check_flag,
    medmnist_file,
    medmnist_md5,
    medmnist_path,
)
from xai_robustness.datasets.npz import check_npz, read_npz
from xai_robustness.datasets.phantom import make_phantom, phantom_info
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import SPLITS, InputError, Params, Split

PHANTOM_COUNTS: dict[Split, int] = {"train": 1200, "val": 300, "test": 600}
PHANTOM_SEED = 2024
"""The phantom's images are a data set: they do not follow the seed of a run."""

_IDS_PER_SPLIT = 10_000_000


class DataParams(Params):
    """Which data set, at which size, and how much of it."""

    name: str = Field(default="phantom", description="phantom, or a 2-D MedMNIST flag")
    size: int = Field(default=28, description="image size in pixels: 28, 64, 128 or 224")
    n_train: int | None = Field(default=None, ge=1, lt=_IDS_PER_SPLIT, description="training samples; null: all")
    n_val: int | None = Field(default=None, ge=1, lt=_IDS_PER_SPLIT, description="validation samples; null: all")
    n_test: int | None = Field(default=None, ge=1, lt=_IDS_PER_SPLIT, description="test samples; null: all")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return name if name == "phantom" else check_flag(name)

    @field_validator("size")
    @classmethod
    def _offered(cls, size: int) -> int:
        if size not in SIZES:
            choices = ", ".join(map(str, SIZES))
            raise InputError(f"The size parameter of DataParams must be one of {choices}. Got {size} instead.")
        return size

    def count(self, split: Split) -> int | None:
        """Number of samples asked for in `split`; None means all (for the phantom: its default)."""
        return {"train": self.n_train, "val": self.n_val, "test": self.n_test}[split]


@dataclass(frozen=True)
class RawSplit:
    """One split as its files give it.

    Attributes:
        images: uint8 (N,H,W,C), C = 1 or 3.
        labels: int64 (N,), or (N,L) in {0,1} for multi-label tasks.
        sample_ids: int64 (N,), unique over the splits; they name the row of the file, whatever `n_train` and the like.
        info: the data set.
        lesion_masks: bool (N,H,W) where the data set knows its lesions, else None.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: np.ndarray
    sample_ids: Int64[np.ndarray, " n"]
    info: DatasetInfo
    lesion_masks: Bool[np.ndarray, "n h w"] | None = None


def raw_root(project_path: Path | None = None) -> Path:
    """Folder of raw data: what `XAI_DATA_ROOT` names, else `data/01_raw` of the project (of the working directory)."""
    given = os.environ.get("XAI_DATA_ROOT")
    return Path(given) if given else (project_path or Path.cwd()) / "data" / "01_raw"


def dataset_info(params: DataParams) -> DatasetInfo:
    """Task, classes and licence of a data set; no file is touched."""
    return phantom_info() if params.name == "phantom" else MEDMNIST_2D[params.name]


def external_files(params: DataParams, root: Path) -> dict[str, str]:
    """Name -> md5 of the raw files that a data set reads; empty for the phantom."""
    if params.name == "phantom":
        return {}
    path = medmnist_path(params.name, params.size, root)
    return {f"{path.parent.name}/{path.name}": medmnist_md5(params.name, params.size)}


def check_dataset(params: DataParams, root: Path) -> None:
    """Check in seconds that a data set can be loaded; a missing file is downloaded.

    Raises:
        InputError: file missing and not to be had, wrong content or md5, more samples asked for than there are.
    """
    if params.name == "phantom":
        return
    path = medmnist_path(params.name, params.size, root)
    if path.is_file():
        check_npz(path, dataset_info(params))
    path = medmnist_file(params.name, params.size, root)
    _kept_rows(params, check_npz(path, dataset_info(params)), seed=0)


def load_dataset(params: DataParams, seed: int, root: Path) -> dict[Split, RawSplit]:
    """Load a data set, or draw the phantom.

    Args:
        params: which data set and how much of it.
        seed: seed of the run; chooses the kept samples where `n_train` and the like ask for fewer than all.
        root: folder of raw data, unused by the phantom.

    Returns:
        The three splits, rows in file order.

    Raises:
        InputError: as `check_dataset`.
    """
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
        sample_ids=rows.astype(np.int64) + SPLITS.index(split) * _IDS_PER_SPLIT,
        info=info,
        lesion_masks=arrays.get(f"{split}_masks"),
    )


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
