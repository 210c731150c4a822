"""The data sets of the catalog: tables, reports, figures, array stores, image sets, checkpoints, concept vectors."""

from typing import Any

import matplotlib
from kedro.io import AbstractDataset
from kedro_datasets._typing import ImagePreview, JSONPreview, TablePreview

from xai_robustness.io.versioned import Versioned

matplotlib.use("Agg")


class Table(Versioned):
    """A pandas DataFrame as CSV."""

    inner = "pandas.CSVDataset"

    def __init__(self, **arguments: Any) -> None:
        arguments.setdefault("save_args", {"index": False})
        arguments.setdefault("load_args", {"float_precision": "round_trip"})
        super().__init__(**arguments)

    def preview(self, nrows: int = 20) -> TablePreview:
        """First rows, for kedro-viz."""
        return TablePreview(self.load().head(nrows).to_dict(orient="split"))


class Report(Versioned):
    """A JSON document."""

    inner = "json.JSONDataset"

    def preview(self) -> JSONPreview:
        """The document, for kedro-viz."""
        return self._at(self.path()).preview()  # type: ignore[attr-defined]


class Page(Versioned):
    """A self-contained HTML page."""

    inner = "text.TextDataset"


class Folder(Versioned):
    """A folder that a job has written; loads as its path."""

    inner = "xai_robustness.io.stores.FolderDataset"


class Figure(Versioned):
    """A Matplotlib figure as PNG."""

    inner = "matplotlib.MatplotlibDataset"

    def __init__(self, **arguments: Any) -> None:
        arguments.setdefault("save_args", {"dpi": 150, "bbox_inches": "tight", "metadata": {"Software": None}})
        super().__init__(**arguments)

    def load(self) -> bytes:
        """The PNG's bytes."""
        return self.path().read_bytes()

    def preview(self) -> ImagePreview:
        """The picture, for kedro-viz."""
        return self._at(self.path()).preview()  # type: ignore[attr-defined]


class Arrays(Versioned):
    """Groups of arrays in a Zarr store, written by a `chunks.ArraysJob`; loads as a read-only `zarr.Group`."""

    inner = "xai_robustness.io.stores.ArraysDataset"


class Images(Arrays):
    """Image sets by `<split>/<condition>`, kept as Zarr uint8 (N,H,W,C); loads as `{key: ImageSet}`."""

    inner = "xai_robustness.io.stores.ImagesDataset"


class LatentStore(Arrays):
    """The latents store; loads as `attribution.latents.Latents`."""

    inner = "xai_robustness.io.stores.LatentsDataset"


class Checkpoint(Versioned):
    """A classifier as safetensors with the JSON of what built it; loads as `io.stores.Classifier`."""

    inner = "xai_robustness.io.stores.CheckpointDataset"


class Checkpoints(Versioned):
    """A folder of corrected classifiers; loads as its path, models are read one at a time."""

    inner = "xai_robustness.io.stores.FolderDataset"


class ConceptVectors(Versioned):
    """Concept activation vectors as one safetensors file with their metadata."""

    inner = "xai_robustness.io.stores.CavsDataset"


def versioned(catalog: Any, name: str) -> Versioned | None:
    """The data set `name` of a Kedro catalog if it is one of ours, else None."""
    dataset: AbstractDataset | None = catalog.get(name)
    return dataset if isinstance(dataset, Versioned) else None
