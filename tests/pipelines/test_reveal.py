import numpy as np
import pandas as pd

from xai_robustness.concepts.image_properties import ASSOCIATION_COLUMNS
from xai_robustness.concepts.neuron_views import NeuronParams
from xai_robustness.concepts.spectral import RevealParams
from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.pipelines.reveal.concepts import draw_neurons
from xai_robustness.pipelines.reveal.nodes import compare_properties, find_prototypes, score_suspects


def test_signals_have_no_image_properties():
    info = DatasetInfo("made", ("one", "other"), "binary-class", 2)
    leads = np.random.default_rng(0).normal(size=(20, 1, 50, 2)).astype(np.float32)
    table = compare_properties({"train/biased": ImageSet(leads, np.arange(20) % 2, np.arange(20), info)})
    assert table.empty and list(table.columns) == list(ASSOCIATION_COLUMNS)
    pictures = (np.random.default_rng(0).random((20, 8, 8, 2)) * 255).astype(np.uint8)
    assert len(compare_properties({"train/biased": ImageSet(pictures, np.arange(20) % 2, np.arange(20), info)}))


class SeveralLabels:
    """Stands for `Latents` of a task with three labels; the class of a sample is the strongest label it has."""

    layers = ("late",)

    def __init__(self, n=120):
        rng = np.random.default_rng(0)
        self.said = np.stack([np.arange(n) % 2 == 0, np.zeros(n, bool), np.arange(n) < 100], 1).astype(np.int64)
        self.scores = np.where(self.said > 0, 1.0, -1.0).astype(np.float32) + rng.random((n, 3)).astype(np.float32)
        self.scores[:10] = -np.abs(self.scores[:10])

    def labels(self, split):
        return self.said

    def logits(self, split):
        return self.scores

    def targets(self, split):
        shown = np.where(self.said > 0, self.scores, -np.inf)
        return np.where(self.said.any(1), shown.argmax(1), self.scores.argmax(1))

    def sample_ids(self, split):
        return np.arange(len(self.said))

    def relevances(self, split, layer, pool):
        return np.random.default_rng(1).random((len(self.said), 5)).astype(np.float32)


def test_prototypes_come_from_samples_that_have_their_label_and_are_told_it():
    latents = SeveralLabels()
    prototypes, _ = find_prototypes(latents, RevealParams(prototypes=2), seed=0)
    ids = prototypes["sample_id"].to_numpy(int)
    classes = latents.targets("train")[ids]
    assert len(ids) and (latents.said[ids, classes] == 1).all() and (latents.scores[ids, classes] > 0).all()
    assert set(prototypes["class"]) == {0, 2}


def test_of_several_labels_the_explained_one_is_the_class_of_a_suspect():
    latents = SeveralLabels()
    own = np.flatnonzero(latents.targets("train") == 2)
    truth = pd.DataFrame({"sample_id": np.arange(120), "artifact": np.isin(np.arange(120), own[:8])})
    truth = truth.assign(split="train", **{"class": 0})
    suspects = pd.DataFrame({"name": ["a"], "kind": "cluster", "class": 2})
    members = pd.DataFrame({"name": "a", "sample_id": own[:16]})
    (row,) = score_suspects(suspects, members, truth, latents).to_dict("records")
    assert (row["precision"], row["recall"], row["n_artifact"]) == (0.5, 1.0, 8)


class Heatmaps:
    """Stands for `NeuronHeatmaps`: the map of sample `i` through any neuron is `i - 2` in its first row, 2 below."""

    def of(self, layer, neuron):
        return {i: np.repeat([i - 2.0, 2.0], [4, 12]).reshape(4, 4) for i in range(4)}


class Made:
    """Stands for `SyntheticReferences`: two images for the neuron 3."""

    def images(self, layer, neuron):
        return np.full((2, 4, 4, 3), 200, np.uint8) if neuron == 3 else None


def test_the_gallery_pairs_samples_with_their_kept_heatmaps_and_says_what_a_neuron_is_worth():
    ranking = pd.DataFrame({"layer": "a", "neuron": [3, 1, 2], "rank": [1, 2, 3], "dora_q": [0.3, np.nan, 1.0]})
    kinds = {"activation": (0, 1), "relevance": (3, 1)}
    rows = [("a", k, by, j, i) for k in (1, 2, 3) for by, ids in kinds.items() for j, i in enumerate(ids)]
    references = pd.DataFrame(rows, columns=["layer", "neuron", "by", "place", "sample_id"])
    marked = pd.DataFrame({"layer": ["a", "b"], "neuron": [2, 0]})
    info = DatasetInfo("made", "binary", ("one", "other"), "CC0")
    images = ImageSet(np.arange(4, dtype=np.uint8).repeat(48).reshape(4, 4, 4, 3), np.zeros(4), np.arange(4), info)
    figure = draw_neurons(ranking, references, marked, Heatmaps(), Made(), images, NeuronParams(shown=3, count=2))
    grid = np.array(figure.axes[:-1]).reshape(6, 6)
    titles = ["a, 2 (ticked)\nrank 3, q 1", "a, 3\nrank 1, q 0.3", "a, 1\nrank 2, silent"]
    assert [axes.get_ylabel() for axes in grid[::2, 0]] == titles
    shown, maps = (np.array([axes.images[0].get_array() for axes in grid[line, :4]]) for line in (2, 3))
    assert [len(axes.images) for axes in grid[:4, 5]] == [0, 0, 1, 0] and grid[2, 5].images[0].get_array().min() == 200
    assert shown[:, 0, 0, 0].tolist() == [3, 1, 0, 1]
    assert maps[:, 0, 0].tolist() == [0.5, -0.5, -1.0, -0.5]
