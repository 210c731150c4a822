from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import zarr
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score, roc_auc_score

from xai_robustness.attribution.latents import Latents
from xai_robustness.concepts import labelled
from xai_robustness.concepts.baselines import Baseline, best_direction, nmf_parts
from xai_robustness.concepts.cav import CavParams, Cavs, save_cavs
from xai_robustness.concepts.retrieval import (
    RETRIEVAL_COLUMNS,
    bias_scores,
    choose_cav,
    fit_cavs,
    retrieval_metrics,
    suspect_classes,
)
from xai_robustness.concepts.samples import sample_table
from xai_robustness.pipelines.sample_retrieval.nodes import choose_vector
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


@pytest.mark.parametrize("feature", ["activations", "relevances"])
def test_the_store_on_disk_gives_the_same_vectors_and_scores(latents, feature, tmp_path, monkeypatch):
    monkeypatch.setattr(labelled, "BLOCK", 24 * 30)
    root = zarr.create_group(tmp_path / "latents.zarr", attributes={"layers": ["early", "late"], "model": "f1a9"})
    for split in ("train", "test"):
        arrays = {"sample_ids": latents.sample_ids(split), "targets": latents.targets(split)}
        for layer in latents.layers:
            arrays |= {f"activations/{layer}/max": latents.activations(split, layer, "max")}
            arrays |= {f"relevances/{layer}/sum": latents.relevances(split, layer, "sum")}
        for key, values in arrays.items():
            root.create_array(f"{split}/biased/{key}", data=values)
    labels, params = labels_of(latents), CavParams(kinds=("signal", "ridge", "svm"), features=(feature,))
    labels = labels[labels["split"] == "train"]
    stored, drawn = (fit_cavs(reader, labels, params) for reader in (Latents(root), latents))
    for a, b in zip(stored, drawn, strict=True):
        np.testing.assert_array_equal(a.vector, b.vector)
        assert (a.name, a.intercept, a.n_clean) == (b.name, b.intercept, b.n_clean)
    both = [bias_scores(reader, drawn, ("test",)) for reader in (Latents(root), latents)]
    pd.testing.assert_frame_equal(*both)
    with pytest.raises(InputError, match="must hold 'val/biased/activations/early/max'"):
        Latents(root).stored("val", "activations/early/max")


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
    assert list(metrics.columns) == list(RETRIEVAL_COLUMNS) and len(metrics) == 2 * 3 * 2 * 4
    table = metrics.set_index(["layer", "kind", "metric"])["value"]
    truth = latents.has_artifact("test")
    for cav in cavs:
        scores = cav.scores(latents.activations("test", cav.layer, "max"))
        spread = np.sqrt((scores[truth].var() + scores[~truth].var()) / 2)
        for name, expected in (
            ("auroc", roc_auc_score(truth, scores)),
            ("average_precision", average_precision_score(truth, scores)),
            ("kendall_tau", kendalltau(scores, truth).statistic),
            ("separation", (scores[truth].mean() - scores[~truth].mean()) / spread),
        ):
            assert table[cav.layer, cav.kind, f"test/biased/{name}"] == pytest.approx(expected, abs=1e-9)
    assert (metrics["ci_low"] <= metrics["value"] + 1e-12).all() and (
        metrics["value"] <= metrics["ci_high"] + 1e-12
    ).all()
    assert set(metrics[metrics["metric"].str.startswith("val/")]["n"]) == {30}
    assert table["late", "signal", "test/biased/auroc"] > 0.99 > 0.9 > table["early", "neuron", "test/biased/auroc"]


def test_each_cav_is_scored_with_its_own_pooling(latents, monkeypatch):
    pooled = type(latents).activations

    def activations(self, split, layer, pool):
        x = pooled(self, split, layer, pool)
        return x if pool == "max" else np.random.default_rng(0).normal(size=x.shape)  # says nothing

    monkeypatch.setattr(type(latents), "activations", activations)
    labels = labels_of(latents)
    first = fit_cavs(latents, labels, CavParams(kinds=("signal",), layers=("late",)))
    other = replace(first.items[0], kind="mean", pool="mean")
    both = Cavs((*first.items, other), latents.model)
    metrics = retrieval_metrics(latents, both, labels, latents.truth("test"), seed=0, n_boot=1, baselines=())
    table = metrics.set_index(["kind", "metric"])["value"]
    scores = bias_scores(latents, both, ("test",))
    for kind in ("signal", "mean"):
        expected = roc_auc_score(latents.has_artifact("test"), scores[f"late/{kind}"])
        assert table[kind, "test/biased/auroc"] == pytest.approx(expected)
    assert table["signal", "test/biased/auroc"] > 0.95 > 0.7 > table["mean", "test/biased/auroc"]


def test_the_neuron_is_chosen_on_validation(latents):
    labels = labels_of(latents)
    cavs = fit_cavs(latents, labels, PARAMS)
    metrics = retrieval_metrics(latents, cavs, labels, latents.truth("test"), seed=0, n_boot=10)
    chosen = metrics[(metrics["kind"] == "neuron") & (metrics["layer"] == "late")]
    assert chosen["neuron"].nunique() == 1 and chosen["neuron"].iloc[0] in range(8, 12) and set(chosen["sign"]) == {1}
    test = latents.truth("test")
    flipped = retrieval_metrics(latents, cavs, labels, test.assign(artifact=~test["artifact"]), seed=0, n_boot=10)
    assert (
        flipped[flipped["kind"] == "neuron"]["neuron"].to_numpy()
        == metrics[metrics["kind"] == "neuron"]["neuron"].to_numpy()
    ).all()


def test_a_neuron_may_speak_with_its_silence():
    artifact = np.arange(10) < 4
    features = np.random.default_rng(0).normal(size=(10, 3))
    features[:, 1] -= 10 * artifact
    assert best_direction(features, artifact) == (1, -1)


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


@pytest.mark.parametrize("reviewed", [0, 30])
def test_where_a_class_carries_it_throughout_all_classes_serve_the_choice(latents, reviewed):
    all_of_it = replace(latents, rate=1.0)
    labels = labels_of(all_of_it, reviewed)
    metrics = retrieval_metrics(all_of_it, fit_cavs(all_of_it, labels, PARAMS), labels, None, 0, n_boot=10)
    assert set(metrics["n"]) == {240} and metrics["value"].notna().all() and choose_cav(metrics)[0] == "late"


def test_one_reviewed_sample_of_each_kind_is_enough_to_choose_by(latents):
    labels = labels_of(latents)
    val = labels[labels["split"] == "val"].drop_duplicates("artifact")
    labels = pd.concat([labels[labels["split"] == "train"], val])
    metrics = retrieval_metrics(latents, fit_cavs(latents, labels, PARAMS), labels, None, 0, n_boot=10)
    assert set(metrics["n"]) == {2} and choose_cav(metrics) == ("early", "signal")  # all rank these two well


def test_given_cavs_need_no_labels(latents):
    labels = labels_of(latents)
    cavs = fit_cavs(latents, labels, PARAMS)
    unknown = labels[labels["split"] == "train"].assign(artifact=False, source="assumed")
    metrics = retrieval_metrics(latents, cavs, unknown, latents.truth("test"), 0, n_boot=10)
    assert metrics["metric"].str.startswith("test/").all() and set(metrics["kind"]) == {"signal", "ridge"}
    assert choose_vector(latents, cavs, unknown, 0) == {"layer": "early", "kind": "signal"}
    assert choose_vector(latents, Cavs(), unknown, 0) == {}
    shares = fit_cavs(latents, labels, PARAMS.model_copy(update={"features": ("relevances",)}))
    assert len(shares) and choose_vector(latents, shares, unknown, 0) == {}


def test_nothing_confirmed_gives_empty_results(clean_latents):
    labels = labels_of(clean_latents)
    cavs = fit_cavs(clean_latents, labels, PARAMS)
    assert len(cavs) == 0
    metrics = retrieval_metrics(clean_latents, cavs, labels, clean_latents.truth("test"), seed=0)
    assert metrics.empty and list(metrics.columns) == list(RETRIEVAL_COLUMNS) and choose_cav(metrics) is None
    scores = bias_scores(clean_latents, Cavs(), ("test",))
    assert list(scores.columns) == ["sample_id", "split", "class"] and len(scores) == 150


def test_relevance_cavs_are_fitted_and_scored_on_the_same_feature(latents):
    labels = labels_of(latents)
    params = CavParams(kinds=("signal",), layers=("late",), features=("activations", "relevances"))
    cavs = fit_cavs(latents, labels, params)
    cav = cavs.find("late", "signal", "relevances")
    raw = latents.relevances("test", "late", "sum").astype(float)
    shares = raw / np.abs(raw).sum(1, keepdims=True)
    scores = bias_scores(latents, cavs, ("test",))
    assert list(scores.columns[3:]) == ["late/signal", "late/signal/relevances"]
    np.testing.assert_allclose(scores["late/signal/relevances"], cav.scores(shares), atol=1e-9)
    metrics = retrieval_metrics(latents, cavs, labels, latents.truth("test"), seed=0, n_boot=10)
    assert set(metrics["feature"]) == {"activations", "relevances"} and choose_cav(metrics) == ("late", "signal")
    assert choose_cav(metrics[metrics["feature"] == "relevances"]) is None


def test_baselines_stand_beside_the_cavs_and_a_random_direction_is_the_worst(latents):
    labels = labels_of(latents)
    cavs = fit_cavs(latents, labels, PARAMS)
    names = ("neuron", "nmf", "random")
    metrics = retrieval_metrics(latents, cavs, labels, latents.truth("test"), seed=0, n_boot=10, baselines=names)
    table = metrics.set_index(["layer", "kind", "metric"])["value"]
    found = {kind: table["late", kind, "test/biased/separation"] for kind in ("signal", *names)}
    assert found["random"] < found["signal"] and found["neuron"] < found["signal"] and found["nmf"] > 0
    assert choose_cav(metrics)[1] not in names


def test_nmf_parts_are_unit_directions_that_rebuild_a_mixture_of_parts():
    rng = np.random.default_rng(0)
    parts = np.kron(np.eye(3), np.ones(4))
    x = rng.exponential(size=(60, 3)) @ parts
    found = nmf_parts(x, seed=0, layer="late")
    assert (found >= 0).all() and np.allclose(np.linalg.norm(found, axis=1), 1)
    best = Baseline("nmf", x, 0, "late")
    artifact = x[:, 0] > np.quantile(x[:, 0], 0.8)
    best.choose(x, artifact)
    first = best.choice
    best.choose(x, ~artifact)
    assert best.choice == first and average_precision_score(artifact, best.scores(x)) > 0.9
    nothing = Baseline("nmf", -x, 0, "late")
    nothing.choose(-x, artifact)
    assert (nothing.scores(-x) == 0).all()


def test_given_cavs_are_used_if_they_are_of_the_classifier(latents, tmp_path):
    labels = labels_of(latents)
    cavs = fit_cavs(latents, labels, PARAMS)
    assert cavs.model == latents.model and (cavs.study, cavs.seed) == ("", None)
    again = fit_cavs(latents, labels, PARAMS, "phantom", 3)
    assert (again.model, again.study, again.seed) == (latents.model, "phantom", 3)
    save_cavs(tmp_path / "mine.safetensors", cavs)
    params = CavParams(given=str(tmp_path / "mine.safetensors"))
    used = fit_cavs(latents, labels.assign(artifact=False), params)
    assert [c.name for c in used] == [c.name for c in cavs] and used.model == latents.model
    np.testing.assert_array_equal(used.find("late", "ridge").vector, cavs.find("late", "ridge").vector)
    with pytest.raises(InputError, match="fingerprint is 0000"):
        fit_cavs(replace(latents, model="0000"), labels, params)
    with pytest.raises(InputError, match=r"early \(24\)"):
        save_cavs(tmp_path / "mine.safetensors", Cavs((replace(cavs.items[0], layer="none"),), latents.model))
        fit_cavs(latents, labels, params)
    first = cavs.items[0]
    for change, message in (
        ({"vector": 2 * first.vector}, "of length 1. Got 2: divide"),
        ({"intercept": float("nan")}, "must have finite entries"),
        ({"vector": np.where(np.arange(24) == 3, np.nan, first.vector)}, "must have finite entries"),
        ({"kind": "rigde"}, "Did you mean 'ridge'"),
        ({"pool": "sum"}, "the pooling max or mean"),
        ({"feature": "gradients"}, "must be of activations or relevances"),
        ({"kind": "ridge"}, "early/ridge twice"),
    ):
        save_cavs(tmp_path / "mine.safetensors", Cavs((replace(first, **change), *cavs.items[1:]), latents.model))
        with pytest.raises(InputError, match=message):
            fit_cavs(latents, labels, params)
    (tmp_path / "mine.safetensors").write_bytes(b"something else")
    with pytest.raises(InputError, match="must be a file of CAVs"):
        fit_cavs(latents, labels, params)
    with pytest.raises(InputError, match="No CAVs at"):
        fit_cavs(latents, labels, CavParams(given=str(tmp_path / "other.safetensors")))
