"""Arrays too large for memory: computed chunk by chunk into a Zarr group, resumable, without a data set library."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from xai_robustness.progress import progress

Rows = Mapping[str, np.ndarray]
Compute = Callable[[int, int], Rows]


@dataclass(frozen=True)
class ChunkStream:
    """`n` rows that `compute(start, stop)` gives as named arrays, each with `stop - start` rows.

    Attributes:
        n: number of rows.
        compute: rows `start:stop` of every array; must not depend on earlier calls.
        chunk: rows computed at once and stored as one Zarr chunk.
    """

    n: int
    compute: Compute
    chunk: int


@dataclass(frozen=True)
class ArraysJob:
    """Lazy write of several groups of arrays; `write` goes on where an interrupted `write` stopped.

    Attributes:
        streams: group name -> stream of its rows.
        attributes: JSON values kept with the store.
        description: what the progress line says.
    """

    streams: Mapping[str, ChunkStream]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    description: str = "write"

    def write(self, folder: Path) -> None:
        """Compute the chunks that `folder` lacks; a chunk counts only once all of its arrays are written."""
        root = zarr.open_group(folder, mode="a")
        marks = folder / ".finished"
        marks.mkdir(exist_ok=True)
        todo = [
            (name, start, marks / f"{name.replace('/', '.')}-{start}")
            for name, stream in self.streams.items()
            for start in range(0, stream.n, stream.chunk)
        ]
        total = sum(stream.n for stream in self.streams.values())
        waiting = [item for item in todo if not item[2].exists()]
        done = total - sum(min(self.streams[n].chunk, self.streams[n].n - s) for n, s, _ in waiting)
        with progress(total, self.description, done=done) as bar:
            for name, start, mark in waiting:
                stream = self.streams[name]
                stop = min(start + stream.chunk, stream.n)
                _write_rows(root, name, stream, start, stop)
                mark.touch()
                bar.update(stop - start)
        root.attrs.update(json.loads(json.dumps(dict(self.attributes))))
        for leftover in [*marks.iterdir(), *folder.rglob("zarr.*.partial")]:  # Zarr's own, after a kill in a write
            leftover.unlink()
        marks.rmdir()


def _write_rows(root: zarr.Group, name: str, stream: ChunkStream, start: int, stop: int) -> None:
    for key, rows in stream.compute(start, stop).items():
        if len(rows) != stop - start:
            raise ValueError(f"Array '{name}/{key}' must have {stop - start} rows. Got {len(rows)} instead.")
        path = f"{name}/{key}"
        if path not in root:
            shape = (stream.n, *rows.shape[1:])
            chunks = (min(stream.chunk, stream.n), *rows.shape[1:])
            root.create_array(path, shape=shape, chunks=chunks, dtype=rows.dtype)
        array = root[path]
        assert isinstance(array, zarr.Array)
        array[start:stop] = rows


def open_arrays(folder: Path) -> zarr.Group:
    """Open a finished store for reading."""
    return zarr.open_group(folder, mode="r")
