"""MedMNIST 2-D data sets [Yang2023]: which there are and where their files come from."""

import functools
import hashlib
import logging
from pathlib import Path

from medmnist import INFO

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.download import download
from xai_robustness.datasets.npz import check_npz, read_npz
from xai_robustness.types import InputError, Task

__all__ = [
    "MEDMNIST_2D",
    "SIZES",
    "check_flag",
    "check_npz",
    "medmnist_file",
    "medmnist_md5",
    "medmnist_path",
    "read_npz",
]

logger = logging.getLogger(__name__)

SIZES = (28, 64, 128, 224)
"""Image sizes that every 2-D flag comes in, pixels."""

_TASKS: dict[str, Task] = {
    "binary-class": "binary",
    "multi-class": "multi-class",
    "multi-label, binary-class": "multi-label",
    "ordinal-regression": "ordinal",
}
_BLOCK = 1 << 20


def _info(flag: str) -> DatasetInfo:
    entry = INFO[flag]
    names = tuple(entry["label"][str(i)] for i in range(len(entry["label"])))
    return DatasetInfo(flag, _TASKS[entry["task"]], names, entry["license"])


MEDMNIST_2D: dict[str, DatasetInfo] = {flag: _info(flag) for flag in INFO if not flag.endswith("3d")}
"""Flag -> task, class names and licence, as the `medmnist` package states them."""


def check_flag(flag: str) -> str:
    """Return `flag` if it names a 2-D MedMNIST data set; raises InputError otherwise."""
    if flag in MEDMNIST_2D:
        return flag
    if flag in INFO:
        raise InputError(f"'{flag}' is a 3-D data set, and only 2-D ones work. Choose from: {', '.join(MEDMNIST_2D)}.")
    raise InputError(f"Unknown MedMNIST flag '{flag}'. Choose from: {', '.join(MEDMNIST_2D)}.")


def _suffix(flag: str, size: int) -> str:
    check_flag(flag)
    if size not in SIZES:
        raise InputError(
            f"The size parameter of {flag} must be one of {', '.join(map(str, SIZES))}. Got {size} instead."
        )
    return "" if size == 28 else f"_{size}"


def medmnist_md5(flag: str, size: int) -> str:
    """The md5 that the `medmnist` package states for the file of `flag` at `size` pixels."""
    key = f"MD5{_suffix(flag, size)}"
    return INFO[flag][key]


def medmnist_path(flag: str, size: int, root: Path) -> Path:
    """Where the file belongs, `<root>/medmnist/{flag}[_{size}].npz`; the file may be missing."""
    return root / "medmnist" / f"{flag}{_suffix(flag, size)}.npz"


def medmnist_file(flag: str, size: int, root: Path) -> Path:
    """Return the file of `flag`, its md5 checked; downloads it into `<root>/medmnist` when it is missing.

    Args:
        flag: a 2-D MedMNIST flag.
        size: image size, 28, 64, 128 or 224 pixels.
        root: folder of raw data.

    Raises:
        InputError: unknown or 3-D flag, wrong md5, or a missing file that cannot be downloaded.
    """
    path, md5 = medmnist_path(flag, size, root), medmnist_md5(flag, size)
    if not path.is_file():
        advice = f"Put the file into that folder, or set XAI_DATA_ROOT to the folder that holds medmnist/{path.name}."
        download(INFO[flag][f"url{_suffix(flag, size)}"], path, "md5", md5, advice)
    found = _md5(path)
    if found != md5:
        raise InputError(
            f"The file {path} must have the md5 {md5}. Got {found} instead. "
            "Delete it, and the next run downloads it again."
        )
    if flag == "dermamnist":
        _warn_duplicates()
    return path


@functools.cache
def _warn_duplicates() -> None:
    logger.warning(
        "dermamnist keeps several images of one lesion, and some of them lie in different splits, so its test "
        "scores are too high [Abhishek2025]."
    )


def _md5(path: Path) -> str:
    state = path.stat()
    return _md5_of(str(path), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=32)
def _md5_of(path: str, mtime_ns: int, size: int) -> str:
    """The md5 of a file; hashed once a process as long as the file does not change."""
    digest = hashlib.md5(usedforsecurity=False)
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
