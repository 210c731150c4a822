"""Arrays too large for memory: computed chunk by chunk into a Zarr group, resumable, without a data set library."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock

from xai_robustness.progress import progress

Rows = Mapping[str, np.ndarray]
Compute = Callable[[int, int], Rows]
Chunk = tuple[str, int, int]
"""Stream, first row, row after the last."""

DELETED = ".deleted-"

MARKS, SIZES = ".finished", ".sizes"


@dataclass(frozen=True)
class ChunkStream:
    """`n` rows that `compute(start, stop)` gives as named arrays, each with `stop - start` rows.

    Attributes:
        n: number of rows.
        compute: rows `start:stop` of every array; must not depend on earlier calls. Where it has a method `on(device)`,
            that gives it for a worker's device.
        chunk: rows computed at once and stored as one Zarr chunk.
        group: where the arrays lie in the store; by default the stream's name.
    """

    n: int
    compute: Compute
    chunk: int
    group: str | None = None


@dataclass(frozen=True)
class ArraysJob:
    """Lazy write of several groups of arrays; `write` goes on where an interrupted `write` stopped.

    Attributes:
        streams: name -> stream of rows; the name is the group of its arrays unless the stream says otherwise.
        attributes: JSON values kept with the store.
        description: what the progress line says.
    """

    streams: Mapping[str, ChunkStream]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    description: str = "write"

    def write(self, folder: Path) -> None:
        """Compute the chunks that `folder` lacks; a chunk counts only once all of its arrays are written."""
        waiting = self.waiting(folder)
        total = sum(stream.n for stream in self.streams.values())
        done = total - sum(stop - start for _, start, stop in waiting)
        with progress(total, self.description, done=done) as bar:
            for chunk in waiting:
                bar.update(self.write_chunk(folder, chunk))
        self.finish(folder)

    def waiting(self, folder: Path) -> list[Chunk]:
        """The chunks that `folder` lacks, of the size that its first `write` had; makes it a store."""
        zarr.open_group(folder, mode="a")
        (folder / MARKS).mkdir(exist_ok=True)
        sizes = {name: stream.chunk for name, stream in self.streams.items()} | _sizes(folder)
        part = folder / MARKS / f"{SIZES}.part"
        part.write_text(json.dumps(sizes), encoding="utf-8")
        part.replace(folder / MARKS / SIZES)
        chunks = [
            (name, start, min(start + sizes[name], stream.n))
            for name, stream in self.streams.items()
            for start in range(0, stream.n, sizes[name])
        ]
        return [chunk for chunk in chunks if not _mark(folder, chunk).exists()]

    def write_chunk(self, folder: Path, chunk: Chunk, device: str | None = None) -> int:
        """Compute and write one chunk, also from another process, and mark it; returns its number of rows."""
        name, start, stop = chunk
        stream = self.streams[name]
        compute = stream.compute.on(device) if device and hasattr(stream.compute, "on") else stream.compute
        root = zarr.open_group(folder, mode="a")
        for key, rows in compute(start, stop).items():
            if len(rows) != stop - start:
                raise ValueError(f"Array '{name}/{key}' must have {stop - start} rows. Got {len(rows)} instead.")
            array = root.get(f"{stream.group or name}/{key}")
            if array is None:
                array = self._make(root, folder, name, f"{stream.group or name}/{key}", rows)
            assert isinstance(array, zarr.Array)
            array[start:stop] = rows
        _mark(folder, chunk).touch()
        return stop - start

    def _make(self, root: zarr.Group, folder: Path, name: str, path: str, rows: np.ndarray) -> Any:
        """Make an array for rows like these, unless another process just did."""
        with FileLock(folder / MARKS / ".lock"):
            if path in root:
                return root[path]
            n, size = self.streams[name].n, _sizes(folder)[name]
            shape, chunks = (n, *rows.shape[1:]), (min(size, n), *rows.shape[1:])
            return root.create_array(path, shape=shape, chunks=chunks, dtype=rows.dtype)

    def finish(self, folder: Path) -> None:
        """Keep the attributes and remove the marks."""
        root = zarr.open_group(folder, mode="a")
        root.attrs.update(json.loads(json.dumps(dict(self.attributes))))
        marks = folder / MARKS
        for leftover in [*marks.iterdir(), *folder.rglob("zarr.*.partial")]:  # Zarr's own, after a kill in a write
            leftover.unlink()
        marks.rmdir()


def _mark(folder: Path, chunk: Chunk) -> Path:
    name, start, stop = chunk
    return folder / MARKS / f"{name.replace('/', '.')}-{start}-{stop}"


def _sizes(folder: Path) -> dict[str, int]:
    """Rows of a chunk by stream: other sizes would let two workers write into one chunk of the store."""
    path = folder / MARKS / SIZES
    sizes: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return sizes


def remove_folder(folder: Path) -> None:
    """Delete a folder that counts as whole as long as it has its name, and what an earlier, killed call left."""
    with suppress(OSError):  # another run did it
        folder.replace(folder.with_name(f"{DELETED}{time.time_ns()}-{folder.name}"))
    for left in folder.parent.glob(f"{DELETED}*"):
        shutil.rmtree(left, ignore_errors=True)


def open_arrays(folder: Path) -> zarr.Group:
    """Open a finished store for reading."""
    return zarr.open_group(folder, mode="r")
