from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.mitigation.toys import image_set
from tests.reference import clarc as naive

from xai_robustness.metrics.classification import classification_metrics
from xai_robustness.mitigation import evaluate
from xai_robustness.mitigation.base import REFERENCE, Candidate
from xai_robustness.mitigation.evaluate import _recovered, candidate_logits, correction_metrics, evaluate_candidates
from xai_robustness.mitigation.job import CorrectedModels, CorrectionJob
from xai_robustness.mitigation.params import MitigationParams
from xai_robustness.models.training import predict_logits
from xai_robustness.types import InputError

PARAMS = MitigationParams(
    rrr={"lambdas": [1.0]},
    rr_clarc={"layers": ["relu", "block"], "lambdas": [1.0, 100.0]},
    p_clarc={"layers": ["relu", "block"]},
    reactive_p_clarc={"layers": ["block"]},
    eval_batch_size=7,
)


@pytest.fixture
def sets():
    clean, other = image_set(30, 2, first_id=200), image_set(30, 3, first_id=200)
    attacked = replace(other, sample_ids=clean.sample_ids, labels=clean.labels)
    return {"val/clean": clean, "val/attacked": attacked, "test/clean": other, "test/attacked": other}


@pytest.fixture
def folder(model, description, train, val, cavs, masks, tmp_path):
    CorrectionJob(model, description, train, val, cavs, masks, PARAMS).write(tmp_path)
    return tmp_path


@pytest.mark.parametrize("limit", [0, 2**30])
def test_logits_with_shared_layers_equal_those_of_whole_models(folder, model, sets, limit):
    models = CorrectedModels(folder)
    found = candidate_logits(models, model, sets, 7, "cpu", limit)
    whole = {candidate.name: models.load(candidate.name) for candidate in models.candidates()}
    for key, images in sets.items():
        assert list(found[key]) == [candidate.name for candidate in models.candidates()]
        for name, logits in found[key].items():
            np.testing.assert_allclose(logits, predict_logits(whole[name], images, 7, "cpu"), atol=1e-6)


def test_another_model_than_the_corrected_one_is_refused(folder, model, sets):
    with torch.no_grad():
        model.conv.weight += 0.1
    with pytest.raises(InputError, match="made from"):
        candidate_logits(CorrectedModels(folder), model, sets, 7, "cpu")


def test_the_table_has_every_candidate_set_and_metric(folder, model, sets):
    table = evaluate_candidates(folder, model, sets, PARAMS, seed=0, device="cpu", n_boot=20)
    names = {candidate.name for candidate in CorrectedModels(folder).candidates()}
    plain = ("accuracy", "balanced_accuracy", "auroc", "macro_f1", *evaluate.RATES)
    paired = ("balanced_accuracy_gap", "gap_recovered", "worst_group_accuracy")
    metrics = {f"{key}/{m}" for key in sets for m in plain}
    metrics |= {f"{s}/attacked/{m}" for s in ("val", "test") for m in paired}
    assert set(table.candidate) == names and set(table.metric) == metrics
    assert len(table) == len(names) * len(metrics)
    row = table[(table.candidate == "rr_clarc-block-100") & (table.metric == "val/clean/accuracy")].iloc[0]
    assert (row.method, row.layer, row.strength, row.cav, row.n) == ("rr_clarc", "block", 100.0, "signal", 30)
    reference = table[(table.candidate == REFERENCE) & table.metric.str.endswith("accuracy")]
    assert (reference.difference == 0).all() and (reference.layer == "").all() and reference.strength.isna().all()


def toy_logits(labels, right):
    logits = np.zeros((len(labels), 3), np.float32)
    logits[np.arange(len(labels)), np.where(right, labels, (labels + 1) % 3)] = 1
    return logits


def test_values_differences_and_gaps_equal_the_naive_ones(sets):
    labels, n = sets["val/clean"].labels, 30
    rng = np.random.default_rng(0)
    right = {key: rng.random((2, n)) < p for key, p in (("val/clean", 0.9), ("val/attacked", 0.5))}
    right["val/attacked"][1] |= rng.random(n) < 0.5
    logits = {key: {REFERENCE: toy_logits(labels, r[0]), "a": toy_logits(labels, r[1])} for key, r in right.items()}
    used = {key: sets[key] for key in logits}
    candidates = [Candidate(REFERENCE, "vanilla"), Candidate("a", "p_clarc", "relu", None, "signal")]
    table = correction_metrics(candidates, logits, used, n_boot=200).set_index(["candidate", "metric"])

    def accuracy(key, model):
        return np.mean([right[key][model][labels == c].mean() for c in range(3)])

    clean, attacked = accuracy("val/clean", 0), accuracy("val/attacked", 0)
    row = table.loc[("a", "val/attacked/balanced_accuracy")]
    assert row.value == pytest.approx(accuracy("val/attacked", 1))
    assert row.difference == pytest.approx(accuracy("val/attacked", 1) - attacked)
    plain = classification_metrics(logits["val/attacked"]["a"], labels, "multi-class", n_boot=200).set_index("metric")
    assert (row.ci_low, row.ci_high) == tuple(plain.loc["balanced_accuracy", ["ci_low", "ci_high"]])
    gap = table.loc[(REFERENCE, "val/attacked/balanced_accuracy_gap")]
    assert gap.value == pytest.approx(clean - attacked) and gap.ci_low < gap.value < gap.ci_high
    recovered = table.loc[("a", "val/attacked/gap_recovered")]
    wanted = naive.gap_recovered(clean, attacked, accuracy("val/attacked", 1))
    assert recovered.value == pytest.approx(wanted) and recovered.ci_low < wanted < recovered.ci_high
    assert table.loc[(REFERENCE, "val/attacked/gap_recovered")].value == 0

    def worst(model):
        return min(right[key][model][labels == c].mean() for key in right for c in range(3))

    group = table.loc[("a", "val/attacked/worst_group_accuracy")]
    assert group.value == pytest.approx(worst(1)) and group.ci_low <= group.value <= group.ci_high
    assert group.difference == pytest.approx(worst(1) - worst(0))


def test_full_recovery_is_one_and_no_gap_is_undefined(sets):
    labels = sets["val/clean"].labels
    perfect, poor = toy_logits(labels, np.ones(30, bool)), toy_logits(labels, np.arange(30) % 2 == 0)
    candidates = [Candidate(REFERENCE, "vanilla"), Candidate("a", "p_clarc")]
    used = {key: sets[key] for key in ("val/clean", "val/attacked")}
    good = {"val/clean": {REFERENCE: perfect, "a": perfect}, "val/attacked": {REFERENCE: poor, "a": perfect}}
    table = correction_metrics(candidates, good, used, n_boot=20).set_index(["candidate", "metric"])
    assert table.loc[("a", "val/attacked/gap_recovered")].value == 1
    none = {"val/clean": {REFERENCE: poor, "a": poor}, "val/attacked": {REFERENCE: poor, "a": perfect}}
    table = correction_metrics(candidates, none, used, n_boot=20).set_index(["candidate", "metric"])
    assert np.isnan(table.loc[("a", "val/attacked/gap_recovered")].value)


def test_collapsed_candidates_are_marked(sets):
    labels = sets["val/clean"].labels
    fine, flat = toy_logits(labels, np.ones(30, bool)), np.tile(np.float32([1, 0, 0]), (30, 1))
    logits = {key: {REFERENCE: fine, "a": flat} for key in ("val/clean", "val/attacked")}
    logits["val/attacked"][REFERENCE] = flat
    used = {key: sets[key] for key in logits}
    table = correction_metrics([Candidate(REFERENCE, "vanilla"), Candidate("a", "rrr")], logits, used, n_boot=5)
    assert table[table.candidate == "a"].collapsed.all() and not table[table.candidate == REFERENCE].collapsed.any()


def test_splits_that_do_not_match_are_refused(sets):
    labels = sets["val/clean"].labels
    fine = toy_logits(labels, np.ones(30, bool))
    used = {"val/clean": sets["val/clean"], "val/attacked": replace(sets["val/attacked"], sample_ids=np.arange(30))}
    with pytest.raises(InputError, match="same samples"):
        correction_metrics([Candidate(REFERENCE, "vanilla")], {key: {REFERENCE: fine} for key in used}, used, n_boot=5)


def test_a_gap_of_rounding_errors_is_none():
    clean = np.array([0.3, 0.9])
    attacked = np.array([np.nextafter(0.3, 0), 0.5])
    recovered = _recovered(np.stack([clean, np.array([0.5, 0.7])]), np.stack([clean, attacked]))
    assert np.isnan(recovered[0]) and recovered[1] == pytest.approx(0.5)
