import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import false_discovery_control
from sklearn.decomposition import PCA
from sklearn.neighbors import LocalOutlierFactor
from torch import nn

from xai_robustness.chunks import open_arrays
from xai_robustness.concepts.dora import extreme_activation_distance, synthesize
from xai_robustness.concepts.neuron_views import (
    RANKING_COLUMNS,
    NeuronParams,
    marked_neurons,
    neuron_references,
    rank_neurons,
)
from xai_robustness.concepts.synthetic import SyntheticReferences, synthesis_job
from xai_robustness.types import InputError

PARAMS = NeuronParams(layers=("late",), count=5, n_null=4)


def factors(distances, neighbours=20):
    return -LocalOutlierFactor(n_neighbors=neighbours, metric="precomputed").fit(distances).negative_outlier_factor_


def test_dora_is_the_outlier_factor_among_extreme_activation_distances(latents):
    table = rank_neurons(latents, PARAMS, "eigenvectors", seed=0).sort_values("neuron")
    assert tuple(table.columns) == RANKING_COLUMNS and (table["layer"] == "late").all()
    mean = latents.activations("train", "late", "mean").astype(float)
    relevance = latents.relevances("train", "late", "sum").astype(float)
    shares = relevance / np.abs(relevance).sum(1, keepdims=True)
    vectors = np.stack([mean[np.argsort(-shares[:, k])[:5]].mean(0) for k in range(24)])
    np.testing.assert_allclose(table["dora"], factors(extreme_activation_distance(vectors)), rtol=1e-6)
    assert table["dora_p"].between(1 / 97, 1).all()
    np.testing.assert_allclose(table["dora_q"], false_discovery_control(table["dora_p"]))
    np.testing.assert_allclose(table["mean_relevance"], shares.mean(0), atol=1e-7)


def test_patterns_are_compared_by_their_cosine_within_a_class(latents):
    table = rank_neurons(latents, PARAMS, "eigenvectors", seed=0).sort_values("neuron")
    classes, found = latents.labels("train"), []
    for c in range(3):
        x = latents.relevances("train", "late", "sum")[classes == c].astype(float).T
        cosine = np.clip(x @ x.T / np.outer(*[np.linalg.norm(x, axis=1)] * 2), -1, 1)
        found.append(factors(np.sqrt(2 - 2 * cosine)))
    np.testing.assert_allclose(table["relevance_pattern"], np.max(found, 0), rtol=1e-4)
    np.testing.assert_array_equal(table["pattern_class"], np.argmax(found, 0))


def test_ranks_follow_the_chosen_measure_and_silent_neurons_come_last(latents, monkeypatch):
    loud = type(latents).relevances

    def silent(self, split, layer, pool):
        x = loud(self, split, layer, pool)
        x[:, 7] = 0
        return x

    monkeypatch.setattr(type(latents), "relevances", silent)
    by = PARAMS.model_copy(update={"rank_by": "relevance_pattern"})
    table = rank_neurons(latents, by, "eigenvectors", seed=0)
    values = table["relevance_pattern"].to_numpy()
    assert table["rank"].tolist() == list(range(1, 25)) and (np.diff(values[:-1]) <= 0).all()
    assert table["neuron"].iloc[-1] == 7 and np.isnan(values[-1]) and table["pattern_class"].iloc[-1] == -1


def test_neurons_are_laid_out_by_their_distances(latents):
    table = (
        rank_neurons(latents, PARAMS, "eigenvectors", seed=0).set_index(["layer", "neuron"]).loc["late"].sort_index()
    )
    activations = latents.activations("train", "late", "mean").astype(float)
    shares = latents.relevances("train", "late", "sum").astype(float)
    shares /= np.abs(shares).sum(1, keepdims=True)
    best = np.argsort(-shares, axis=0, kind="stable")[: PARAMS.count].T
    unit = activations[best].mean(1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    scores = PCA(2).fit_transform(unit / 2)
    np.testing.assert_allclose(np.abs(table[["x", "y"]]), np.abs(scores), atol=1e-9)


@pytest.mark.parametrize("what", ["activations", "relevances"])
def test_silent_neurons_are_left_out_and_leave_the_others_as_they_are(latents, monkeypatch, what):
    """Their references are arbitrary and all the same: as points they would make any neighbour an outlier."""
    loud, dead = getattr(type(latents), what), np.arange(16, 24)

    def silent(self, split, layer, pool):
        x = loud(self, split, layer, pool)
        x[:, dead] = 0
        return x

    monkeypatch.setattr(type(latents), what, silent)
    table = rank_neurons(latents, PARAMS, "eigenvectors", seed=0).sort_values("neuron")
    mean = latents.activations("train", "late", "mean").astype(float)
    relevance = latents.relevances("train", "late", "sum").astype(float)
    shares = relevance / np.abs(relevance).sum(1, keepdims=True)
    vectors = np.stack([mean[np.argsort(-shares[:, k], kind="stable")[:5]].mean(0) for k in range(16)])
    np.testing.assert_allclose(
        table["dora"].iloc[:16], factors(extreme_activation_distance(vectors), neighbours=15), rtol=1e-6
    )
    assert table["dora_p"].iloc[:16].between(1 / 65, 1).all()
    np.testing.assert_allclose(table["dora_q"].iloc[:16], false_discovery_control(table["dora_p"].iloc[:16]))
    silent_ones = table.iloc[16:]
    assert silent_ones[["dora", "dora_p", "dora_q", "x", "y"]].isna().all(axis=None) and silent_ones["rank"].min() == 17


def test_references_are_the_samples_with_most_relevance_and_most_activation(latents):
    table = neuron_references(latents, PARAMS)
    assert len(table) == 24 * 2 * 5
    own = table[(table["neuron"] == 9) & (table["by"] == "activation")].sort_values("place")
    scores = latents.activations("train", "late", "max")[:, 9]
    order = np.argsort(-scores, kind="stable")[:5]
    np.testing.assert_array_equal(own["sample_id"], latents.sample_ids("train")[order])
    np.testing.assert_allclose(own["score"], scores[order])
    assert set(table.loc[(table["neuron"] == 9), "sample_id"]) <= set(
        latents.sample_ids("train")[latents.has_artifact("train")]
    )  # neuron 9 answers to the artifact alone


def test_synthetic_references_come_from_the_model_and_are_kept(latents, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("late", nn.Conv2d(1, 24, 3))
    model.add_module("pooling", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(24, 3))
    params = NeuronParams(layers=("late",), references="synthetic", count=2, n_null=1)
    synthesis_job(model, {"late": 24}, 2, (1, 5, 5), 0, "cpu").write(tmp_path)
    made = SyntheticReferences(open_arrays(tmp_path))
    images, _, _ = synthesize(model, "late", np.arange(24), (1, 5, 5), seed=0, count=2)
    for k in (3, 20):
        np.testing.assert_array_equal(made.images("late", k), np.round(255 * np.moveaxis(images[k], 1, -1)))
    assert made.images("early", 0) is None
    with torch.no_grad():
        answers = model[0](torch.from_numpy(images.reshape(-1, 1, 5, 5))).mean((2, 3)).numpy()
    np.testing.assert_allclose(made.vectors("late"), answers.reshape(24, 2, 24).mean(1), rtol=1e-4, atol=1e-5)
    table = rank_neurons(latents, params, "eigenvectors", 0, made)
    real = rank_neurons(latents, PARAMS, "eigenvectors", 0)
    assert (table["converged"] == 1).all() and real["converged"].isna().all()
    assert np.isfinite(table["dora"]).all() and not np.allclose(table["dora"], real["dora"])
    with pytest.raises(InputError, match="synthetic"):
        rank_neurons(latents, params, "eigenvectors", 0)


def test_ticks_of_other_classifiers_are_passed_over_with_one_warning(latents, caplog):
    """The page keeps what was ticked in a network before; a run takes what belongs to its own, be it nothing."""
    both = pd.DataFrame({"model": ["0e77", "f1a9"], "layer": ["gone", "late"], "neuron": [900, 3]})
    assert marked_neurons(both, latents, "ticked.csv").to_dict("records") == [
        {"model": "f1a9", "layer": "late", "neuron": 3}
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "1 of 2 neurons in ticked.csv are of other classifiers than the one in use, f1a9" in caplog.text
    caplog.clear()
    none = marked_neurons(both[:1], latents)
    assert none.empty and list(none.columns) == ["model", "layer", "neuron"] and "1 of 1" in caplog.text
    caplog.clear()
    marked_neurons(both[1:], latents)
    assert not caplog.records


def test_ticked_neurons_are_checked_against_the_classifier(latents):
    ticked = pd.DataFrame({"model": "f1a9", "layer": ["late", "late", "early"], "neuron": [3, 3, 5]})
    assert marked_neurons(ticked, latents)["neuron"].tolist() == [3, 5]
    assert marked_neurons(None, latents).empty
    for change, message in (
        ({"neuron": 24}, "which has 24"),
        ({"layer": "x"}, "0"),
    ):
        with pytest.raises(InputError, match=message):
            marked_neurons(ticked.assign(**change), latents)
    with pytest.raises(InputError, match="lacks"):
        marked_neurons(ticked.drop(columns="layer"), latents)
    with pytest.raises(InputError, match="early, late"):
        rank_neurons(latents, NeuronParams(layers=("middle",)), "eigenvectors", 0)
