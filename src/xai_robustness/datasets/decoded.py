"""The decoded files of a data set: read once, in parallel, resumable, shared by all studies and seeds."""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from xai_robustness.chunks import ArraysJob, ChunkStream, Rows, open_arrays
from xai_robustness.datasets.decode import BadFileError
from xai_robustness.datasets.records import Records
from xai_robustness.types import InputError

logger = logging.getLogger(__name__)
CHUNK = 256
KEPT = 3
Decode = Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class Decoded:
    """Arrays of all samples of `Records`, on disk.

    Attributes:
        images: Zarr array (N,H,W,C), uint8, or float32 for signals; rows that could not be read are zero.
        ok: bool (N,), whether the file could be read.
        errors: row -> why not.
    """

    images: Any
    ok: np.ndarray
    errors: dict[int, str]


def decoded_root() -> Path:
    """Folder of decoded files, below the project's `data`."""
    return Path(os.environ.get("XAI_PROJECT", ".")) / "data" / "02_intermediate" / "decoded"


def state_of(records: Records) -> str:
    """Hash of what the files of a data set are: names, sizes and times of change, without reading them."""
    digest = hashlib.blake2b(digest_size=16)
    for path in records.files if records.store is None else _inside(records.store):
        try:
            state = path.stat()
        except OSError:
            digest.update(f"{path.name} absent\n".encode())
        else:
            digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _inside(store: Path) -> list[Path]:
    return [store] if store.is_file() else sorted(path for path in store.rglob("*") if path.is_file())


def decode_all(
    records: Records, decode: Decode, shape: tuple[int, ...], dtype: type, version: str, root: Path, workers: int | None
) -> Decoded:
    """Decode every file of `records` once; a later call with the same files finds them.

    Args:
        records: the samples.
        decode: file -> array of `shape` and `dtype`; raises BadFileError.
        shape: shape of one sample.
        dtype: its type.
        version: what else the result depends on, for the name of the store.
        root: folder of all stores; the last KEPT of them stay.
        workers: files at once; None: one a core.
    """
    key = hashlib.blake2b(f"{state_of(records)} {shape} {np.dtype(dtype)} {version}".encode(), digest_size=8)
    key.update(records.sample_ids.tobytes())  # of one array store, or among files that look alike, others may be meant
    folder = root / f"{records.info.name}-{key.hexdigest()}.zarr"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{folder.name}.lock"):
        if not (folder / ".whole").exists():
            job = ArraysJob({"all/files": _stream(records, decode, shape, dtype, workers)}, {}, "decode files")
            job.write(folder)
            (folder / ".whole").touch()
        (folder / ".whole").touch()
    _prune(root, folder)
    arrays: Any = open_arrays(folder)["all/files"]
    ok = np.asarray(arrays["ok"][:], bool)
    return Decoded(arrays["images"], ok, {int(i): _reason(decode, records.files[i]) for i in np.flatnonzero(~ok)[:20]})


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


def _reason(decode: Decode, path: Path) -> str:
    try:
        decode(path)
    except BadFileError as error:
        return str(error)
    return "it can be read now"


def _prune(root: Path, current: Path) -> None:
    stores = sorted(
        (path for path in root.glob("*.zarr") if (path / ".whole").exists()),
        key=lambda path: (path / ".whole").stat().st_mtime,
    )
    for old in stores[:-KEPT]:
        if old != current:
            shutil.rmtree(old, ignore_errors=True)


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
