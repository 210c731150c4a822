"""Attribution sets as files that other code reads without this package: one zipped Zarr a group, one `.pt` an array."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.storage import ZipStore

from xai_robustness.attribution.set_params import Export


@dataclass(frozen=True)
class ExportJob:
    """Writes the files of every group; whole files that an interrupted write left are kept.

    Attributes:
        root: the attribution set.
        groups: its groups, `<split>/<condition>/<noise>`.
        kinds: `zarr_zip`: `<split>-<condition>-<noise>.zarr.zip`; `pt`: a folder of that name with
            `attributions/<key>.pt`, `images.pt` and so on, tensors that load with `weights_only=True`.
    """

    root: zarr.Group
    groups: Sequence[str]
    kinds: Sequence[Export]

    def write(self, folder: Path) -> None:
        """Write what `folder` lacks."""
        folder.mkdir(parents=True, exist_ok=True)
        for group in self.groups:
            source: Any = self.root[group]
            name = group.replace("/", "-")
            if "zarr_zip" in self.kinds and not (folder / f"{name}.zarr.zip").exists():
                self._zip(source, folder / f"{name}.zarr.zip")
            if "pt" in self.kinds:
                for key, array in _arrays(source):
                    _tensor(array, folder / name / f"{key}.pt")
        for leftover in folder.rglob("*.part"):
            leftover.unlink()

    def _zip(self, source: zarr.Group, path: Path) -> None:
        partial = path.with_name(path.name + ".part")
        partial.unlink(missing_ok=True)
        store = ZipStore(partial, mode="w")
        target = zarr.create_group(store, attributes=dict(self.root.attrs))
        for key, array in _arrays(source):
            copy = target.create_array(key, shape=array.shape, chunks=array.chunks, dtype=array.dtype)
            for start in range(0, array.shape[0], array.chunks[0]):
                copy[start : start + array.chunks[0]] = array[start : start + array.chunks[0]]
        store.close()
        partial.replace(path)


def _arrays(source: zarr.Group) -> list[tuple[str, Any]]:
    return sorted((key, item) for key, item in source.members(max_depth=None) if isinstance(item, zarr.Array))


def _tensor(array: Any, path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    torch.save(torch.from_numpy(np.asarray(array[:])), partial)
    shutil.move(partial, path)
