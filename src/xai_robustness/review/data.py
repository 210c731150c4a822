"""What the review page shows, and the tables that it writes; knows nothing of the page."""

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from PIL import Image

from xai_robustness.concepts.answers import read_review, read_table
from xai_robustness.concepts.neuron_heatmaps import NeuronHeatmaps
from xai_robustness.concepts.neuron_views import MARKED_COLUMNS
from xai_robustness.concepts.suspicion import in_order
from xai_robustness.concepts.synthetic import SyntheticReferences
from xai_robustness.datasets.base import ImageSet, take
from xai_robustness.figures.style import DIVERGING, pixels
from xai_robustness.models.checkpoint import write_atomically

SIDE = 96
"""Pixels of a thumbnail's longer side, at least."""


@dataclass(frozen=True, eq=False)
class ReviewData:
    """A study as the page sees it.

    Attributes:
        title: name of the study.
        images: image sets whose samples may be looked at (biased train and val).
        heatmaps: sample id -> heatmap (H,W), signed; samples without one are shown without.
        views: name -> table with sample_id, x, y, group (a suspect or a class, as text).
        neurons: of `rank_neurons`.
        references: of `neuron_references`.
        neuron_heatmaps: of some neurons, on their reference samples.
        synthetic: images that were made for neurons, of some layers or none.
        model: fingerprint of the classifier.
        labels: the table that a reviewer "csv" reads: sample_id, artifact.
        marked: the table of `reveal.neurons.spurious`: model, layer, neuron.
        note: a sentence on what is not shown, or nothing.
    """

    title: str
    images: tuple[ImageSet, ...]
    heatmaps: Mapping[int, np.ndarray]
    views: Mapping[str, pd.DataFrame]
    neurons: pd.DataFrame
    references: pd.DataFrame
    neuron_heatmaps: NeuronHeatmaps
    synthetic: SyntheticReferences
    model: str
    labels: Path
    marked: Path
    note: str = ""
    pictures: dict[tuple[int, bool], str] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[int, tuple[int, int]]:
        """Sample id -> image set and row."""
        return {int(i): (s, row) for s, part in enumerate(self.images) for row, i in enumerate(part.sample_ids)}

    def picture(self, sample_id: int, heatmap: bool = False) -> str:
        """A sample's image, or its heatmap (red speaks for the explained class), as the address of a PNG."""
        key = (int(sample_id), heatmap)
        if key not in self.pictures:
            self.pictures[key] = png_address(coloured(self.heatmaps[key[0]]) if heatmap else self._image(key[0]))
        return self.pictures[key]

    def concept_pictures(self, layer: str, neuron: int) -> dict[int, str]:
        """Sample id -> address of the PNG of its heatmap through one neuron; empty where none are kept."""
        return {i: png_address(coloured(m)) for i, m in self.neuron_heatmaps.of(layer, neuron).items()}

    def made_pictures(self, layer: str, neuron: int) -> list[str]:
        """Addresses of the PNGs of the images that were made for one neuron; empty where none were."""
        made = self.synthetic.images(layer, neuron)
        if made is None:
            return []
        return [png_address(image) for image in pixels(made / 255 if self.images[0].is_signal else made)]

    def _image(self, sample_id: int) -> np.ndarray:
        part, row = self.places[sample_id]
        return pixels(take(self.images[part].images, np.array([row])))[0]

    def answers(self) -> dict[int, bool]:
        """What has been said so far; nothing where there is no table yet."""
        if not self.labels.is_file():
            return {}
        said = read_review(self.labels)
        return dict(zip(said["sample_id"].astype(int), said["artifact"].astype(bool)))

    def save_answers(self, shown: Iterable[int], ticked: Iterable[int]) -> tuple[int, int]:
        """Write what was said of the samples that were shown over what was said before; counts yes and no in all."""
        yes = set(map(int, ticked))
        said = self.answers() | {int(i): int(i) in yes for i in shown}
        table = pd.DataFrame({"sample_id": list(said), "artifact": [int(v) for v in said.values()]})
        write_table(table.sort_values("sample_id"), self.labels)
        return sum(said.values()), len(said) - sum(said.values())

    def ticked_neurons(self) -> pd.DataFrame:
        """Neurons of this classifier that have been ticked so far."""
        table = self._all_ticked()
        return table[table["model"] == self.model]

    def _all_ticked(self) -> pd.DataFrame:
        return read_table(self.marked) if self.marked.is_file() else pd.DataFrame(columns=list(MARKED_COLUMNS))

    def save_neurons(self, shown: Iterable[str], ticked: Iterable[str]) -> int:
        """Keep the ticked ones of the neurons shown (`layer/number`) beside all rows of others; counts this model's."""
        before, ticks = self._all_ticked(), set(ticked)
        names = before["layer"].astype(str) + "/" + before["neuron"].astype(str)
        own = before["model"] == self.model
        kept = before[~own | ~names.isin(set(shown) - ticks)]
        added = [name.rpartition("/") for name in sorted(ticks - set(names[own]))]
        rows = pd.DataFrame([(self.model, layer, int(k)) for layer, _, k in added], columns=list(MARKED_COLUMNS))
        table = pd.concat([kept, rows], ignore_index=True)
        write_table(table, self.marked)
        return int((table["model"] == self.model).sum())


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, table.to_csv(index=False))


def coloured(heatmap: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h2 w 3"]:
    """A signed heatmap divided by its largest magnitude in colours; the line of a signal is made high enough to see."""
    values = np.asarray(heatmap, float)
    if values.shape[0] == 1:
        values = np.repeat(values, max(1, values.shape[1] // 4), axis=0)
    scaled = values / (np.abs(values).max() or 1.0)
    return (255 * matplotlib.colormaps[DIVERGING]((scaled + 1) / 2)[..., :3]).astype(np.uint8)


def png_address(image: np.ndarray) -> str:
    """uint8 or floats in [0,1] (H,W,3) as a PNG of at least `SIDE` pixels, in a `data:` address."""
    image = image if image.dtype == np.uint8 else (255 * image).astype(np.uint8)
    factor = max(1, -(-SIDE // max(image.shape[:2])))
    shown = Image.fromarray(image).resize((image.shape[1] * factor, image.shape[0] * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def embedding_views(
    embeddings: pd.DataFrame, suspects: pd.DataFrame, members: pd.DataFrame, class_names: tuple[str, ...]
) -> dict[str, pd.DataFrame]:
    """One view for each class and view of the embeddings; samples are grouped by their first suspect in the list."""
    best = in_order(suspects, members).drop_duplicates("sample_id").set_index("sample_id")["name"]
    views: dict[str, pd.DataFrame] = {}
    for _, own in embeddings.groupby(["class", "view"], sort=False):
        c, view = int(own["class"].iloc[0]), own["view"].iloc[0]
        group = own["sample_id"].map(best).fillna("no suspect")
        views[f"{class_names[c]}, {view}"] = own[["sample_id", "x", "y"]].assign(group=group)
    return views


def score_view(scores: pd.DataFrame, column: str, known: Iterable[int], class_names: tuple[str, ...]) -> pd.DataFrame:
    """Samples by bias score, from left to right by rank; grouped by class.

    Args:
        scores: of `bias_scores`: sample_id, split, class, and one column a concept vector.
        column: the vector.
        known: ids that can be shown.
        class_names: names of the classes.
    """
    own = scores[scores["sample_id"].isin(set(known))].sort_values(column)
    group = [class_names[int(c)] for c in own["class"]]
    values = own[column].to_numpy(float)
    return pd.DataFrame(
        {"sample_id": own["sample_id"].to_numpy(int), "x": np.arange(len(own)), "y": values, "group": group}
    )
