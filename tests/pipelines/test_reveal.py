import numpy as np
import pandas as pd
from torch import nn

from xai_robustness.concepts.neuron_views import NeuronParams
from xai_robustness.figures.neurons import References
from xai_robustness.pipelines.reveal.concepts import draw_neurons


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
