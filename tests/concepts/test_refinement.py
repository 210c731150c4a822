import numpy as np
import pandas as pd
import pytest
from sklearn.covariance import shrunk_covariance
from sklearn.metrics import average_precision_score

from xai_robustness.concepts.answers import read_review
from xai_robustness.concepts.refinement import (
    CURVE_COLUMNS,
    EffortParams,
    Refiner,
    ReportSet,
    Whitening,
    _seeds,
    effort_curves,
    label_curve,
    label_effort,
    suspect_rows,
)
from xai_robustness.concepts.review import PROPOSAL_COLUMNS, ReviewParams, propose_samples, refine_labels
from xai_robustness.concepts.suspicion import LIST_COLUMNS, LIST_MEMBER_COLUMNS
from xai_robustness.types import InputError

NONE = [pd.DataFrame(columns=list(columns)) for columns in (LIST_COLUMNS, LIST_MEMBER_COLUMNS)]
PARAMS = EffortParams(repeats=2, n_seeds=2, batch=3, max_labels=20)


def data(n=120, n_artifact=20, seed=0, gap=3.0):
    rng = np.random.default_rng(seed)
    artifact = np.zeros(n, bool)
    artifact[rng.choice(n, n_artifact, replace=False)] = True
    noise, clear = rng.normal(size=(n, 6)), rng.normal(size=(n, 8))
    clear[artifact, :3] += gap
    return {"noise": noise, "clear": clear}, artifact


def test_means_of_whitened_features_differ_along_the_discriminant_of_the_shrunk_covariance(monkeypatch):
    monkeypatch.setattr("xai_robustness.concepts.labelled.BLOCK", 35)
    rng = np.random.default_rng(0)
    x, some = rng.normal(size=(50, 5)) @ rng.normal(size=(5, 5)) + 3, np.arange(50) % 3 == 0
    white = Whitening.of(x)(x)
    shrunk = shrunk_covariance(np.cov(x.T, bias=True), 0.5)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(white @ white.T, (x - x.mean(0)) @ np.linalg.solve(shrunk, (x - x.mean(0)).T))
    direction = np.linalg.solve(shrunk, x[some].mean(0) - x[~some].mean(0))
    along = white @ (white[some].mean(0) - white[~some].mean(0))
    np.testing.assert_allclose(along, (x - x.mean(0)) @ direction)


def test_constant_features_stay_and_features_that_are_not_finite_are_named():
    assert not Whitening.of(np.ones((4, 3)))(np.ones((4, 3))).any()
    with pytest.raises(InputError, match="finite"):
        Whitening.of(np.array([[1.0, np.nan], [0.0, 1.0]]))


def test_of_a_class_the_first_suspect_that_labels_confirm_stands_for_its_members():
    features, artifact = data(n=240, n_artifact=40, gap=1.0)
    carriers, clean = np.flatnonzero(artifact), np.flatnonzero(~artifact)
    labels = {int(carriers[0]): True, int(carriers[1]): True, int(clean[0]): False, int(clean[1]): False}
    wrong, right = np.array([*clean[:30], carriers[0]]), np.array([*carriers[:25], clean[0]])  # 1 of 3, 2 of 3
    own = [wrong, right, clean[40:]]
    alone, told = Refiner(features, labels).scorer(), Refiner(features, labels, [own]).scorer()
    assert average_precision_score(artifact, told(features)) > average_precision_score(artifact, alone(features)) + 0.1
    misled = Refiner(features, labels, [[wrong, clean[40:]]]).scorer()
    np.testing.assert_array_equal(misled(features), alone(features))
    refiner = Refiner(features, labels, [own])
    counted, weight = refiner._sides()
    assert counted[right[:-1]].all() and not counted[clean].any() and not counted[carriers[25:]].any()
    assert (weight[list(labels)] == 1).all() and set(np.delete(weight, list(labels))) == {0.2}


def test_labels_overrule_a_suspect_and_outweigh_it():
    features, artifact = data(n=80, n_artifact=30, gap=1.5)
    x, carriers, clean = features["clear"], np.flatnonzero(artifact), np.flatnonzero(~artifact)
    rows = [*carriers[:6], *clean[:8]]
    labels = {int(row): bool(artifact[row]) for row in rows}
    members = np.array([*carriers[:12], *clean[:4]])  # 6 of the 10 that were looked at carry it
    scores = Refiner({"clear": x}, labels, [[members]]).scorer()({"clear": x})
    counted, weight = np.isin(np.arange(80), carriers[:12]), np.full(80, 0.2)
    weight[rows] = 1
    difference = np.average(x[counted], axis=0, weights=weight[counted])
    difference = difference - np.average(x[~counted], axis=0, weights=weight[~counted])
    assert np.corrcoef(scores, x @ difference)[0, 1] == pytest.approx(1)


def test_one_look_does_not_make_a_suspect_believed_and_the_share_of_carriers_is_that_of_the_review():
    features, artifact = data(n=80, n_artifact=30)
    carriers, clean = np.flatnonzero(artifact), np.flatnonzero(~artifact)
    labels = {int(row): bool(artifact[row]) for row in [*carriers[:3], *clean[:8]]}
    alone = Refiner(features, labels).scorer()(features)
    once = np.array([carriers[0], *clean[8:30]])
    np.testing.assert_array_equal(Refiner(features, labels, [[once]]).scorer()(features), alone)
    impure = [[np.array([*carriers, *clean[:5]])]]  # 3 of 8
    np.testing.assert_array_equal(Refiner(features, labels, impure).scorer()(features), alone)
    assert np.abs(Refiner(features, labels, impure, min_purity=0.3).scorer()(features) - alone).max() > 0.1


def test_suspects_come_as_rows_of_their_class():
    suspects = pd.DataFrame(
        {"place": [2, 1, 3, 4], "name": list("abcd"), "class": [0, 1, 1, 0], "kind": ["joined", "cluster"] * 2}
    )
    suspects.loc[3, "kind"] = "sample"
    members = pd.DataFrame({"name": [*"aabbbcd"], "sample_id": [11, 17, 12, 99, 13, 13, 14]})
    first, second = suspect_rows(suspects, members, np.array([17, 11, 13, 12, 14]))
    assert [rows.tolist() for rows in first] == [[3, 2], [2]] and [rows.tolist() for rows in second] == [[1, 0]]


def test_scores_come_from_the_layer_that_tells_the_labels_apart():
    features, artifact = data()
    rows = np.concatenate([np.flatnonzero(artifact)[:6], np.flatnonzero(~artifact)[:10]])
    refiner = Refiner(features, {int(row): bool(artifact[row]) for row in rows})
    scores = refiner.scorer()(features)
    assert average_precision_score(artifact, scores) > 0.9
    swapped = {"noise": features["noise"][::-1], "clear": features["clear"]}
    np.testing.assert_array_equal(refiner.scorer()(swapped), scores)


@pytest.mark.parametrize("n_positive, n_negative", [(1, 0), (2, 0), (3, 1), (1, 5)])
def test_few_labels_already_rank_and_unlabelled_samples_stand_for_the_missing_side(n_positive, n_negative):
    features, artifact = data(gap=5.0)
    rows = [*np.flatnonzero(artifact)[:n_positive], *np.flatnonzero(~artifact)[:n_negative]]
    scores = Refiner({"clear": features["clear"]}, {int(row): bool(artifact[row]) for row in rows}).scorer()(features)
    assert average_precision_score(artifact, scores) > 2 * artifact.mean()


@pytest.mark.parametrize("n_positive, n_negative", [(2, 6), (3, 6), (6, 2)])
def test_few_labels_do_not_choose_a_layer_for_its_many_channels(n_positive, n_negative):
    """In sample, noise of 500 channels tells any labels apart, and further than what they are about."""
    chosen = []
    for seed in range(6):
        features, artifact = data(seed=seed, gap=5.0)
        features["noise"] = 5 * np.random.default_rng(seed).normal(size=(120, 500))
        features = {"clear": features["clear"], "noise": features["noise"]}
        rows = [*np.flatnonzero(artifact)[:n_positive], *np.flatnonzero(~artifact)[:n_negative]]
        scores = Refiner(features, {int(row): bool(artifact[row]) for row in rows}).scorer()(features)
        chosen.append(average_precision_score(artifact, scores) > 0.8)
    assert np.mean(chosen) >= 5 / 6


def test_a_single_positive_label_is_scored_in_the_last_layer():
    features, artifact = data()
    features["noise"] = 5 * np.random.default_rng(0).normal(size=(120, 500))
    labels = {int(np.flatnonzero(artifact)[0]): True, **dict.fromkeys(np.flatnonzero(~artifact)[:5].tolist(), False)}
    both, last = (Refiner(some, labels).scorer() for some in (features, {"clear": features["clear"]}))
    np.testing.assert_array_equal(both(features), last(features))


def test_without_a_positive_label_there_is_no_score():
    features, artifact = data()
    assert Refiner(features, {int(np.flatnonzero(~artifact)[0]): False}).scorer() is None


def test_proposals_follow_the_strategy_and_never_repeat_a_label():
    refiner = Refiner({"a": np.zeros((6, 2))}, {4: True})
    scores = np.array([0.1, 5.0, -0.2, 3.0, 9.0, -7.0])
    assert refiner.propose(scores, 3, "highest").tolist() == [1, 3, 0]
    assert refiner.propose(scores, 3, "uncertain").tolist() == [0, 2, 3]
    assert refiner.propose(scores, 4, "mixed").tolist() == [1, 0, 3, 2]
    assert sorted(refiner.propose(scores, 99, "mixed").tolist()) == [0, 1, 2, 3, 5]
    assert len(refiner.propose(scores, 0, "mixed")) == 0


def test_a_curve_counts_what_was_looked_at_and_ends_at_the_budget():
    features, artifact = data()
    test_features, test_artifact = data(seed=1)
    rng = np.random.default_rng(0)
    seeds = np.flatnonzero(artifact)[:2].tolist()
    test = ReportSet(test_features, test_artifact)
    curve = label_curve(Refiner(features), artifact, seeds, test, PARAMS, "highest", rng)
    assert curve["labels"].tolist() == [2, 5, 8, 11, 14, 17, 20]
    assert curve["found"].iloc[0] == 2 and curve["found"].is_monotonic_increasing
    np.testing.assert_allclose(curve["recall"], curve["found"] / 20)
    assert curve["recall"].iloc[-1] > 0.6 and curve["average_precision"].iloc[-1] > 0.9
    few = PARAMS.model_copy(update={"n_seeds": 8, "max_labels": 4})
    assert label_curve(Refiner(features), artifact, range(9), test, few, "highest", rng)["labels"].tolist() == [4]


def test_looking_at_suspects_needs_fewer_labels_than_looking_at_random():
    features, artifact = data(n=240, n_artifact=16)
    test_features, test_artifact = data(n=240, n_artifact=16, seed=1)
    suspects = [np.flatnonzero(artifact)]
    params = EffortParams(repeats=2, n_seeds=3, batch=6, max_labels=33, strategies=("mixed",), target=0.8)
    curves = effort_curves(features, artifact, suspects, ReportSet(test_features, test_artifact), params, seed=0)
    assert list(curves.columns) == list(CURVE_COLUMNS)
    effort = label_effort(curves, 0.8, 33).set_index("strategy")
    assert effort.loc["mixed", "reached"] == 2
    assert effort.loc["mixed", "labels_mean"] < effort.loc["random", "labels_mean"]


def test_a_repeat_that_never_reaches_the_target_counts_with_all_its_labels():
    rows = [("a", 0, 4, 1, 0.1, np.nan), ("a", 0, 8, 2, 0.2, 0.95), ("a", 1, 4, 1, 0.1, 0.3), ("a", 1, 8, 2, 0.2, 0.5)]
    effort = label_effort(pd.DataFrame(rows, columns=list(CURVE_COLUMNS)), 0.9, 60).iloc[0]
    assert (effort["repeats"], effort["reached"], effort["labels_mean"]) == (2, 1, 34)
    assert (effort["labels_low"], effort["labels_high"]) == (8, 60)


def test_effort_needs_test_samples_of_both_kinds():
    features, artifact = data()
    with pytest.raises(InputError, match="with and without"):
        effort_curves(features, artifact, [], ReportSet(features, np.zeros(120, bool)), PARAMS, seed=0)


def labels_of(latents, n_seen=12):
    truth = latents.truth("train")
    table = pd.DataFrame({"sample_id": truth["sample_id"], "split": "train", "class": truth["class"]})
    table["artifact"], table["suspect"], table["source"] = truth["artifact"], 0, "oracle"
    table["confirmed"] = table["class"] == 0
    return table[table["class"] == 0][:n_seen]


@pytest.mark.parametrize("strategy", ["highest", "uncertain", "mixed"])
def test_every_strategy_labels_the_rest_well_and_keeps_the_budget(latents, strategy):
    params = ReviewParams(budget=24, strategy=strategy, rounds=2)
    labels = refine_labels(labels_of(latents), *NONE, latents, params, latents.truth("train"))
    assert (labels["source"] == "reviewed").sum() == 24
    truth = latents.truth("train").set_index("sample_id")["artifact"]
    assert (labels["artifact"].to_numpy() == truth[labels["sample_id"]].to_numpy()).mean() > 0.95


def test_a_person_gets_a_table_to_edit_that_can_be_read_back(latents, tmp_path):
    params = ReviewParams(budget=12, strategy="highest")
    labels = refine_labels(labels_of(latents), *NONE, latents, params, None)
    proposed = propose_samples(labels, *NONE, latents, params, count=10)
    assert list(proposed.columns) == list(PROPOSAL_COLUMNS) and len(proposed) == 10
    assert (proposed["class"] == 0).all() and proposed["score"].is_monotonic_decreasing
    reviewed = labels.loc[labels["source"] == "reviewed", "sample_id"]
    assert not proposed["sample_id"].isin(reviewed).any()
    proposed["artifact"] = ["1", "0", "", "1", *[""] * 6]
    proposed.to_csv(tmp_path / "mine.csv", index=False)
    said = read_review(tmp_path / "mine.csv")
    assert said["artifact"].tolist() == [True, False, True]
    assert said["sample_id"].tolist() == proposed["sample_id"].iloc[[0, 1, 3]].tolist()
    assert propose_samples(labels.assign(artifact=False), *NONE, latents, params).empty


def test_repeats_start_from_suspects_and_from_others():
    rng = np.random.default_rng(0)
    seeds = _seeds([5, 6, 7, 8], 40, 6, rng)
    assert len(set(seeds)) == 6 and set(seeds[::2]) <= {5, 6, 7, 8} and not set(seeds[1::2]) & {5, 6, 7, 8}
    assert sorted(_seeds([], 5, 9, rng)) == [0, 1, 2, 3, 4] and sorted(_seeds(range(5), 5, 9, rng)) == [0, 1, 2, 3, 4]
    assert {5, 6} <= set(_seeds([5, 6], 40, 8, rng)) and len(_seeds([5, 6], 40, 8, rng)) == 8
