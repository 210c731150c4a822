import numpy as np
import pandas as pd
from torch import nn

from xai_robustness.concepts.image_properties import ASSOCIATION_COLUMNS
from xai_robustness.concepts.neuron_views import NeuronParams
from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.figures.neurons import References
from xai_robustness.pipelines.reveal.concepts import draw_neurons
from xai_robustness.pipelines.reveal.nodes import compare_properties


def test_signals_have_no_image_properties():
    info = DatasetInfo("made", ("one", "other"), "binary-class", 2)
    leads = np.random.default_rng(0).normal(size=(20, 1, 50, 2)).astype(np.float32)
    table = compare_properties({"train/biased": ImageSet(leads, np.arange(20) % 2, np.arange(20), info)})
    assert table.empty and list(table.columns) == list(ASSOCIATION_COLUMNS)
    pictures = (np.random.default_rng(0).random((20, 8, 8, 2)) * 255).astype(np.uint8)
    assert len(compare_properties({"train/biased": ImageSet(pictures, np.arange(20) % 2, np.arange(20), info)}))


class Samples:
    """Stands for `Explained`: keeps the titles."""

    def __init__(self):
        self.model, self.titles = nn.Sequential(nn.Linear(2, 2)), []

    def references(self, lrp, title, table, layer, neuron):
        self.titles.append(title)
        return References("", np.zeros((1, 4, 4, 3), np.uint8), np.ones((1, 4, 4)))


def test_the_gallery_says_what_a_neuron_is_worth_and_that_a_silent_one_is_silent():
    ranking = pd.DataFrame({"layer": "a", "neuron": [3, 1], "rank": [1, 2], "dora": [2.0, np.nan]})
    ranking["dora_p"], ranking["dora_q"] = [0.02, np.nan], [0.3, np.nan]
    references = pd.DataFrame(columns=["layer", "neuron", "by", "place"])
    marked, samples = pd.DataFrame({"layer": ["b"], "neuron": [0]}), Samples()
    draw_neurons(ranking, references, marked, samples, NeuronParams())
    assert samples.titles == ["a, 3\nrank 1, q 0.3", "a, 1\nrank 2, silent"]
