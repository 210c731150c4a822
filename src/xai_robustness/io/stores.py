"""Unversioned inner data sets: how one version on disk becomes an object of the library."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from kedro.io import AbstractDataset, DatasetError

from xai_robustness.attribution.latents import Latents
from xai_robustness.chunks import open_arrays
from xai_robustness.concepts.cav import Cavs, load_cavs, save_cavs
from xai_robustness.datasets.base import EXTRA, DatasetInfo, ImageSet
from xai_robustness.models.saved import Classifier


class FolderDataset(AbstractDataset[Any, Any]):
    """A folder that a job has written; loads as its path."""

    def __init__(self, filepath: str) -> None:
        self.folder = Path(filepath)

    def load(self) -> Any:
        """The folder."""
        return self.folder

    def save(self, data: Any) -> None:
        """Only jobs can be saved, and those are drained by `Versioned`."""
        raise DatasetError(f"{type(self).__name__} stores jobs with a write method. Got {type(data).__name__} instead.")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.folder)}


class ArraysDataset(FolderDataset):
    """A Zarr store."""

    def load(self) -> zarr.Group:
        """The store, read-only."""
        return open_arrays(self.folder)


class ImagesDataset(FolderDataset):
    """Image sets in a Zarr store."""

    def load(self) -> dict[str, ImageSet]:
        """Image sets by `<split>/<condition>`; images and masks stay on disk."""
        root = open_arrays(self.folder)
        info: Any = root.attrs["info"]
        described = DatasetInfo(**{**info, "class_names": tuple(info["class_names"])})
        groups = {f"{split}/{condition}": g for split, s in root.groups() for condition, g in s.groups()}
        return {key: _image_set(group, described) for key, group in groups.items()}


def _image_set(group: zarr.Group, info: DatasetInfo) -> ImageSet:
    arrays: dict[str, Any] = dict(group.arrays())

    def read(key: str) -> np.ndarray | None:
        return np.asarray(arrays[key][:]) if key in arrays else None

    return ImageSet(
        images=arrays["images"],
        labels=np.asarray(arrays["labels"][:]),
        sample_ids=np.asarray(arrays["sample_ids"][:]),
        info=info,
        has_artifact=read("has_artifact"),
        masks=arrays.get("masks"),
        lesion_masks=arrays.get("lesion_masks"),
        extras={key.removeprefix(EXTRA): np.asarray(arrays[key][:]) for key in arrays if key.startswith(EXTRA)},
    )


class LatentsDataset(FolderDataset):
    """The latents store."""

    def load(self) -> Latents:
        """A reader over the store."""
        return Latents(open_arrays(self.folder))


class CheckpointDataset(FolderDataset):
    """A classifier with what built it."""

    def load(self) -> Classifier:
        """The classifier, weights read at first use."""
        return Classifier(self.folder)


class CavsDataset(FolderDataset):
    """Concept activation vectors."""

    def load(self) -> Cavs:
        """All vectors of the file."""
        return load_cavs(self.folder)

    def save(self, data: Cavs) -> None:
        """Write the vectors as one safetensors file."""
        save_cavs(self.folder, data)
