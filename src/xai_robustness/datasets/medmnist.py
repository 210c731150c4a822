"""MedMNIST 2-D data sets [Yang2023]: which there are and where their files come from."""

import functools
import hashlib
import logging
import urllib.request
from pathlib import Path
from typing import Any

from medmnist import INFO

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.npz import check_npz, read_npz
from xai_robustness.progress import progress
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
        _download(INFO[flag][f"url{_suffix(flag, size)}"], path, md5)
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


def _download(url: str, path: Path, md5: str) -> None:
    """Fetch `url` into `path` through a `.part` file, which is renamed only when its md5 is right."""
    part = path.with_name(path.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            path.parent.mkdir(parents=True, exist_ok=True)
            found = _fetch(response, part)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(
            f"The file {path.name} (md5 {md5}) is missing in {path.parent}, and {url} cannot be downloaded ({error}). "
            f"Put the file into that folder, or set XAI_DATA_ROOT to the folder that holds medmnist/{path.name}."
        ) from error
    if found != md5:
        part.unlink()
        raise InputError(f"The download of {url} must have the md5 {md5}. Got {found} instead. Try again later.")
    part.replace(path)


def _fetch(response: Any, part: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    total = int(response.headers.get("Content-Length") or 0)
    with part.open("wb") as file, progress(total, f"download {part.stem}", unit="B") as bar:
        while block := response.read(_BLOCK):
            file.write(block)
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
