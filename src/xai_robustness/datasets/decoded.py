"""The decoded files of a data set: read once, in parallel, resumable, shared by all studies and seeds."""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock

from xai_robustness.chunks import ArraysJob, ChunkStream, Rows, open_arrays, remove_folder
from xai_robustness.datasets.decode import BadFileError
from xai_robustness.datasets.records import Records
from xai_robustness.types import InputError

logger = logging.getLogger(__name__)
CHUNK = 256
KEPT, IN_USE = 3, 24 * 3600
"""Stores that stay, and seconds for which a store may be read by a run that found it."""
WHOLE = ".whole"
Decode = Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class Decoded:
    """Arrays of all samples of `Records`, on disk.

    Attributes:
        folder: where they are; without the file WHOLE in it, it is being deleted.
        images: Zarr array (N,H,W,C), uint8, or float32 for signals; rows that could not be read are zero.
        ok: bool (N,), whether the file could be read.
        errors: row -> why not.
    """

    folder: Path
    images: Any
    ok: np.ndarray
    errors: dict[int, str]


def decoded_root() -> Path:
    """Folder of decoded files, below the project's `data`."""
    return Path(os.environ.get("XAI_PROJECT", ".")) / "data" / "02_intermediate" / "decoded"


def state_of(records: Records) -> str:
    """Hash of what the files of a data set are: paths, sizes and times of change, without reading them."""
    digest = hashlib.blake2b(digest_size=16)
    files = records.all_files() if records.store is None else _inside(records.store)
    root = os.path.commonpath([path.parent for path in files]) if files else ""
    for path in files:
        name = path.relative_to(root).as_posix()
        try:
            state = path.stat()
        except OSError:
            digest.update(f"{name} absent\n".encode())
        else:
            digest.update(f"{name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _inside(store: Path) -> list[Path]:
    return [store] if store.is_file() else sorted(path for path in store.rglob("*") if path.is_file())


def decode_all(
    records: Records, decode: Decode, shape: tuple[int, ...], dtype: type, version: str, root: Path, workers: int | None
) -> Decoded:
    """Decode every file of `records` once; a later call with the same files finds them, and tries bad ones again.

    Args:
        records: the samples.
        decode: file -> array of `shape` and `dtype`; raises BadFileError.
        shape: shape of one sample.
        dtype: its type.
        version: what else the result depends on, for the name of the store.
        root: folder of all stores; the last KEPT of them stay, and those that were asked for within a day.
        workers: files at once; None: one a core.
    """
    key = hashlib.blake2b(f"{state_of(records)} {shape} {np.dtype(dtype)} {version}".encode(), digest_size=8)
    key.update(records.sample_ids.tobytes())  # of one array store, or among files that look alike, others may be meant
    folder = root / f"{records.info.name}-{key.hexdigest()}.zarr"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{folder.name}.lock"):
        if not (folder / WHOLE).exists():
            job = ArraysJob({"all/files": _stream(records, decode, shape, dtype, workers)}, {}, "decode files")
            job.write(folder)
        (folder / WHOLE).touch()
        errors = _try_again(folder, records, decode)
    _prune(root, folder)
    arrays: Any = open_arrays(folder)["all/files"]
    return Decoded(folder, arrays["images"], np.asarray(arrays["ok"][:], bool), errors)


def _stream(records: Records, decode: Decode, shape: tuple[int, ...], dtype: type, workers: int | None) -> ChunkStream:
    def one(path: Path) -> np.ndarray | None:
        try:
            return decode(path)
        except BadFileError:
            return None

    def compute(start: int, stop: int) -> Rows:
        images: np.ndarray = np.zeros((stop - start, *shape), dtype)
        ok = np.zeros(stop - start, bool)
        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            for i, array in enumerate(pool.map(one, records.files[start:stop])):
                if array is not None:
                    images[i], ok[i] = array, True
        return {"images": images, "ok": ok}

    return ChunkStream(len(records), compute, CHUNK)


def _try_again(folder: Path, records: Records, decode: Decode) -> dict[int, str]:
    """Read the files that could not be read when the store was made; row -> why a file still cannot be."""
    arrays: Any = zarr.open_group(folder, mode="a")["all/files"]
    errors = {}
    for i in np.flatnonzero(~np.asarray(arrays["ok"][:], bool)):
        try:
            arrays["images"][i] = decode(records.files[i])
            arrays["ok"][i] = True
        except BadFileError as error:
            errors[int(i)] = str(error)
    return errors


def _prune(root: Path, current: Path) -> None:
    used = {path.parent: path.stat().st_mtime for path in root.glob(f"[!.]*.zarr/{WHOLE}")}
    for old in sorted(used, key=lambda path: used[path])[:-KEPT]:
        if old != current and time.time() - used[old] > IN_USE:
            remove_folder(old)


def check_decoded(records: Records, decoded: Decoded, skip: bool) -> np.ndarray:
    """Rows that could be read; raises InputError with a count and examples if some could not and `skip` is not set."""
    if decoded.ok.all():
        return np.arange(len(records))
    n_bad = int((~decoded.ok).sum())
    shown = ", ".join(f"{records.files[i].name} ({why})" for i, why in list(decoded.errors.items())[:3])
    if not skip:
        raise InputError(
            f"Every file of {records.info.name} must be readable. Got {n_bad} of {len(records)} that are not instead: "
            f"{shown}. Repair them, or leave them out with data.skip_bad: true."
        )
    logger.warning("%s: %d files that cannot be read were left out: %s", records.info.name, n_bad, shown)
    return np.flatnonzero(decoded.ok)
