import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from xai_robustness.attribution.crp import conditional_heatmaps
from xai_robustness.attribution.lrp import Lrp
from xai_robustness.chunks import open_arrays
from xai_robustness.concepts import neuron_heatmaps
from xai_robustness.concepts.neuron_heatmaps import Explained, NeuronHeatmaps, first_neurons, heatmaps_job
from xai_robustness.concepts.neuron_views import NeuronParams, neuron_references
from xai_robustness.datasets.base import DatasetInfo, ImageSet

INFO = DatasetInfo("invented", "multi-class", ("a", "b", "c"), "CC0")


def ranking(**layers):
    tables = [
        pd.DataFrame({"layer": name, "neuron": neurons, "rank": np.arange(len(neurons)) + 1})
        for name, neurons in layers.items()
    ]
    return pd.concat(tables, ignore_index=True)


def test_ticked_neurons_come_before_those_with_the_first_ranks():
    marked = pd.DataFrame({"model": "f1a9", "layer": ["late", "gone"], "neuron": [4, 0]})
    found = first_neurons(ranking(early=[0, 4, 1], late=[7, 3, 4]), marked, 2)
    assert found[["layer", "neuron", "ticked"]].to_numpy().tolist() == [
        ["early", 0, False],
        ["early", 4, False],
        ["late", 4, True],
        ["late", 7, False],
    ]
    assert first_neurons(ranking(late=[7, 3]), marked[:0], 0).empty


@pytest.fixture
def explained(latents):
    """Samples of the invented latents, stored in another order, before a small network."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("late", nn.Sequential(nn.Conv2d(1, 24, 3), nn.ReLU()))
    model.add_module("pooling", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(24, 3))
    order = np.random.default_rng(0).permutation(240)
    pixels = np.random.default_rng(1).integers(0, 255, (240, 6, 6, 1)).astype(np.uint8)
    return Explained(latents, model, ImageSet(pixels, latents.labels("train")[order], order, INFO), "cpu")


def test_kept_heatmaps_are_those_of_each_sample_through_the_neuron(latents, explained, tmp_path, monkeypatch):
    monkeypatch.setattr(neuron_heatmaps, "CHUNK", 4)  # chunks end within a neuron
    references = neuron_references(latents, NeuronParams(layers=("late",), count=3))
    heatmaps_job(ranking(late=[9, 3]), references, explained).write(tmp_path)
    kept = NeuronHeatmaps(open_arrays(tmp_path))
    assert kept.neurons("late") == {3, 9}
    for neuron in (3, 9):
        ids = references.loc[references["neuron"] == neuron, "sample_id"].unique()
        found = kept.of("late", neuron)
        assert sorted(found) == sorted(ids)
        for i in ids:
            row = int(np.flatnonzero(explained.images.sample_ids == i)[0])
            image, label = explained.images.tensor(np.array([row])), torch.tensor([latents.labels("train")[i]])
            with Lrp(explained.model) as lrp:
                expected = conditional_heatmaps(lrp, image, label, "late", [[neuron]])[0, 0]
            np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-8)
    assert kept.of("late", 4) == {} == kept.of("early", 9) and kept.neurons("early") == set()


def test_where_no_neuron_is_explained_there_is_an_empty_store(latents, explained, tmp_path):
    references = neuron_references(latents, NeuronParams(layers=("late",), count=3))
    heatmaps_job(ranking(late=[9])[:0], references, explained).write(tmp_path)
    assert NeuronHeatmaps(open_arrays(tmp_path)).of("late", 9) == {}
