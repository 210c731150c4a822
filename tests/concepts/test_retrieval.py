import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from xai_robustness.concepts.cav import CavParams, Cavs
from xai_robustness.concepts.retrieval import (
    NEURON,
    RETRIEVAL_COLUMNS,
    best_neuron,
    bias_scores,
    choose_cav,
    fit_cavs,
    retrieval_metrics,
    suspect_classes,
)
from xai_robustness.concepts.samples import sample_table
from xai_robustness.types import InputError

PARAMS = CavParams(kinds=("signal", "ridge"))


def labels_of(latents, n_val=60):
    """True labels, as a perfect review would give them: class 0 confirmed, the others assumed clean."""
    table = sample_table(latents, ("train", "val"))
    truth = latents.truth("train", "val").set_index("sample_id")["artifact"]
    table["artifact"] = truth[table["sample_id"]].to_numpy()
    table["source"] = np.where(table["class"] == 0, "propagated", "assumed")
    val = table[(table["split"] == "val") & (table["class"] == 0)][:n_val].assign(source="reviewed")
    return pd.concat([table[table["split"] == "train"], val], ignore_index=True)


def test_cavs_are_fitted_in_the_confirmed_class_alone(latents):
    labels = labels_of(latents)
    assert suspect_classes(labels) == [0]
    cavs = fit_cavs(latents, labels, PARAMS)
    assert [cav.name for cav in cavs] == ["early/signal", "early/ridge", "late/signal", "late/ridge"]
    n_artifact = int(latents.has_artifact("train").sum())
    assert all((cav.n_artifact, cav.n_clean) == (n_artifact, 80 - n_artifact) for cav in cavs)
    vector = cavs.find("late", "signal").vector
    assert np.linalg.norm(vector[8:12]) > 0.97
    assert [c.layer for c in fit_cavs(latents, labels, CavParams(kinds=("mean",), layers=("late",)))] == ["late"]


def test_cavs_do_not_depend_on_the_order_of_the_labels(latents):
    labels = labels_of(latents)
    shuffled = labels.sample(frac=1, random_state=0)
    for a, b in zip(fit_cavs(latents, labels, PARAMS), fit_cavs(latents, shuffled, PARAMS)):
        assert a.vector @ b.vector > 0.999


def test_a_class_that_carries_it_throughout_is_compared_with_the_other_classes(latents):
    labels = labels_of(latents)
    labels["artifact"] = labels["class"] == 0
    assert {cav.n_clean for cav in fit_cavs(latents, labels, PARAMS)} == {160}


def test_bias_scores_are_projections(latents):
    cavs = fit_cavs(latents, labels_of(latents), PARAMS)
    scores = bias_scores(latents, cavs, ("val", "test"))
    assert list(scores.columns) == ["sample_id", "split", "class", *[cav.name for cav in cavs]] and len(scores) == 240
    cav = cavs.find("late", "ridge")
    expected = latents.activations("test", "late", "max").astype(float) @ cav.vector.astype(float) + cav.intercept
    np.testing.assert_allclose(scores.loc[scores["split"] == "test", "late/ridge"], expected, atol=1e-6)


def test_metrics_agree_with_scikit_learn_and_keep_the_splits_apart(latents):
    labels = labels_of(latents)
    cavs = fit_cavs(latents, labels, PARAMS)
    metrics = retrieval_metrics(latents, cavs, labels, latents.truth("test"), seed=0, n_boot=50)
    assert list(metrics.columns) == list(RETRIEVAL_COLUMNS) and len(metrics) == 2 * 3 * 2 * 3
    table = metrics.set_index(["layer", "kind", "metric"])["value"]
    truth = latents.has_artifact("test")
    for cav in cavs:
        scores = cav.scores(latents.activations("test", cav.layer, "max"))
        spread = np.sqrt((scores[truth].var() + scores[~truth].var()) / 2)
        for name, expected in (
            ("auroc", roc_auc_score(truth, scores)),
            ("average_precision", average_precision_score(truth, scores)),
            ("separation", (scores[truth].mean() - scores[~truth].mean()) / spread),
        ):
            assert table[cav.layer, cav.kind, f"test/biased/{name}"] == pytest.approx(expected, abs=1e-9)
    assert (metrics["ci_low"] <= metrics["value"] + 1e-12).all() and (
        metrics["value"] <= metrics["ci_high"] + 1e-12
    ).all()
    assert set(metrics[metrics["metric"].str.startswith("val/")]["n"]) == {30}
    assert table["late", "signal", "test/biased/auroc"] > 0.99 > 0.9 > table["early", NEURON, "test/biased/auroc"]


def test_the_neuron_is_chosen_on_validation(latents):
    labels = labels_of(latents)
    cavs = fit_cavs(latents, labels, PARAMS)
    metrics = retrieval_metrics(latents, cavs, labels, latents.truth("test"), seed=0, n_boot=10)
    chosen = metrics[(metrics["kind"] == NEURON) & (metrics["layer"] == "late")]
    assert chosen["neuron"].nunique() == 1 and chosen["neuron"].iloc[0] in range(8, 12) and set(chosen["sign"]) == {1}
    test = latents.truth("test")
    flipped = retrieval_metrics(latents, cavs, labels, test.assign(artifact=~test["artifact"]), seed=0, n_boot=10)
    assert (
        flipped[flipped["kind"] == NEURON]["neuron"].to_numpy()
        == metrics[metrics["kind"] == NEURON]["neuron"].to_numpy()
    ).all()


def test_a_neuron_may_speak_with_its_silence():
    artifact = np.arange(10) < 4
    features = np.random.default_rng(0).normal(size=(10, 3))
    features[:, 1] -= 10 * artifact
    assert best_neuron(features, artifact) == (1, -1)


def test_the_choice_looks_at_validation_only(latents):
    labels = labels_of(latents)
    metrics = retrieval_metrics(latents, fit_cavs(latents, labels, PARAMS), labels, latents.truth("test"), 0, n_boot=10)
    layer, kind = choose_cav(metrics)
    assert layer == "late"
    worse = metrics.copy()
    worse.loc[worse["metric"].str.startswith("test/"), "value"] = np.random.default_rng(0).random(
        (worse["metric"].str.startswith("test/")).sum()
    )
    assert choose_cav(worse) == (layer, kind)
    with pytest.raises(InputError, match="validation rows"):
        choose_cav(metrics[metrics["metric"].str.startswith("test/")])


def test_train_labels_serve_where_the_reviewed_validation_samples_lack_a_class(latents):
    labels = labels_of(latents)
    labels.loc[labels["split"] == "val", "artifact"] = False
    metrics = retrieval_metrics(latents, fit_cavs(latents, labels, PARAMS), labels, None, 0, n_boot=10)
    assert metrics["metric"].str.startswith("train/biased/").all() and choose_cav(metrics)[0] == "late"
    assert set(metrics["n"]) == {80}


def test_nothing_confirmed_gives_empty_results(clean_latents):
    labels = labels_of(clean_latents)
    cavs = fit_cavs(clean_latents, labels, PARAMS)
    assert len(cavs) == 0
    metrics = retrieval_metrics(clean_latents, cavs, labels, clean_latents.truth("test"), seed=0)
    assert metrics.empty and list(metrics.columns) == list(RETRIEVAL_COLUMNS) and choose_cav(metrics) is None
    scores = bias_scores(clean_latents, Cavs(), ("test",))
    assert list(scores.columns) == ["sample_id", "split", "class"] and len(scores) == 150
