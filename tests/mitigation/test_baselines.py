from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.mitigation.toys import image_set, same, state

from xai_robustness.mitigation.base import METHODS, Candidate, grid
from xai_robustness.mitigation.dfr import balanced_rows, fit_head, group_ids, last_linear
from xai_robustness.mitigation.finetune import finetune
from xai_robustness.mitigation.objectives import Penalised, Step
from xai_robustness.mitigation.params import DfrParams, GroupDroParams, JttParams, MitigationParams
from xai_robustness.mitigation.penalties import sample_losses
from xai_robustness.mitigation.reweighting import ById, Upweighted, WorstGroups, error_set, reinitialised
from xai_robustness.models.zoo import ModelParams, build


def strand_of(model, strength, name="a"):
    candidate = type("C", (), {"strength": strength, "name": name})()
    return type("Strand", (), {"trained": staticmethod(model), "candidate": candidate})()


def made_by(name, params, material):
    method = METHODS[name](params)
    return {c.candidate.name: c for c in method.correct(method.candidates(()), material)}


def test_groups_and_balanced_subsets():
    labels, artifact = np.array([0, 0, 0, 1, 1, 0]), np.array([1, 1, 0, 0, 0, 0], bool)
    groups = group_ids(labels, artifact)
    assert groups.tolist() == [1, 1, 0, 2, 2, 0]
    rows = balanced_rows(np.array([0] * 7 + [1] * 3 + [2] * 5), np.random.default_rng(0))
    assert np.bincount(np.repeat([0, 1, 2], [7, 3, 5])[rows]).tolist() == [3, 3, 3] and len(set(rows)) == 9


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_head_predicts_as_scikit_learn_does_on_the_balanced_subset(n_classes):
    rng = np.random.default_rng(0)
    labels = np.arange(90) % n_classes
    artifact = (labels == 0) & (rng.random(90) < 0.5)
    x = rng.normal(size=(90, 4)) * [1, 5, 0.1, 1] + labels[:, None] + 3
    weights, biases = fit_head(x, labels, artifact, 2.0, 1, 7, n_classes)
    from xai_robustness.randomness import numpy_rng

    rows = balanced_rows(group_ids(labels, artifact), numpy_rng(7, "mitigation", "dfr", 0))
    scaled = (x - x.mean(0)) / x.std(0)
    peer = LogisticRegression(C=0.5, class_weight="balanced", max_iter=1000, tol=1e-6).fit(scaled[rows], labels[rows])
    logits = x @ weights.T + biases
    found = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found, peer.predict_proba(scaled), atol=1e-6)


def test_dfr_changes_the_last_layer_alone_and_ignores_a_feature_that_tells_the_artifact(labelled):
    found = made_by("dfr", DfrParams(enabled=True, lambdas=(1.0, 100.0), repeats=3), labelled)
    before = state(labelled.model)
    weak, strong = (state(found[f"dfr-{s}"].model) for s in (1, 100))
    changed = {key for key in before if not torch.equal(before[key], weak[key])}
    assert changed == {"fc.weight", "fc.bias"} and strong["fc.weight"].norm() < weak["fc.weight"].norm()
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    artifact = rng.random(400) < np.where(labels == 0, 0.9, 0.1)
    x = np.stack([labels + rng.normal(size=400), artifact * 4.0 + rng.normal(size=400) * 0.1], 1)
    weights, _ = fit_head(x, labels, artifact, 1.0, 5, 0, 2)
    plain = LogisticRegression().fit(x, labels).coef_[0]
    ratio = abs((weights[1] - weights[0])[1]) / abs((weights[1] - weights[0])[0])
    assert ratio < 0.2 * abs(plain[1]) / abs(plain[0])


def test_the_features_of_dfr_are_what_enters_the_last_linear_layer(model):
    assert last_linear(model) == ("flatten", "fc")
    vgg = build(ModelParams(name="vgg11"), 2, (3, 28, 28), [0.5] * 3, [0.5] * 3, 0)
    assert last_linear(vgg) == ("classifier.5", "classifier.6")
    params = MitigationParams(**{n: {"enabled": False} for n in METHODS} | {"dfr": {"enabled": True, "lambdas": [1.0]}})
    assert [c.layer for c in grid(params, model)] == [None, "flatten"]


def test_dfr_of_a_multi_label_task_has_one_head_a_label(material):
    train = image_set(48, 0, task="multi-label")
    multi = replace(material, train=train, artifact=train.has_artifact)
    (found,) = made_by("dfr", DfrParams(enabled=True, lambdas=(1.0,), repeats=2), multi).values()
    with torch.no_grad():
        logits = found.model(train.tensor(slice(None)))
    assert logits.shape == (48, 3) and ((logits > 0).numpy() == train.labels).mean() > 0.6


def test_group_weights_grow_with_their_losses():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    step = Step(torch.zeros(3, 1), torch.tensor([0, 0, 1]), np.array([5, 3, 9]))
    groups = ById(np.array([9, 5, 3, 1]), np.array([2, 0, 1, 3]))
    objective = WorstGroups(groups)
    strand = strand_of(lambda _: logits, 0.5)
    value, fit, worst = objective(strand, step, None)
    losses = [np.log(1 + np.exp(-2)), np.log(1 + np.exp(2)), np.log(2), 0.0]
    weights = np.exp(0.5 * np.array(losses)) / np.exp(0.5 * np.array(losses)).sum()
    assert float(value) == pytest.approx(weights @ losses) and float(worst) == pytest.approx(losses[1])
    assert float(fit) == pytest.approx(np.mean(losses[:3]))
    again = float(objective(strand, step, None)[0])
    twice = np.exp(np.array(losses)) / np.exp(np.array(losses)).sum()
    assert again == pytest.approx(twice @ losses)
    other = float(objective(strand_of(lambda _: logits, 0.0, "b"), step, None)[0])
    assert other == pytest.approx(np.mean(losses))


def test_upweighting_counts_errors_more_often():
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    step = Step(torch.zeros(4, 1), labels, np.arange(4))
    objective = Upweighted(ById(np.arange(4), np.array([False, True, False, True])))
    value, fit, wrong = objective(strand_of(lambda _: logits, 3.0), step, None)
    each = sample_losses(logits, labels)
    repeated = torch.cat([each, each[[1, 3]], each[[1, 3]]])
    assert float(value) == pytest.approx(float(repeated.mean()))
    assert float(fit) == pytest.approx(float(each.mean())) and float(wrong) == pytest.approx(float(each[[1, 3]].mean()))


def test_the_error_set_comes_from_a_fresh_model_and_is_the_same_again(material):
    params = JttParams(enabled=True, identification_epochs=1, batch_size=16)
    before = state(material.model)
    fresh = reinitialised(material.model, 3)
    assert not same(state(fresh), before) and same(state(fresh), state(reinitialised(material.model, 3)))
    errors = error_set(material, params)
    assert errors.shape == (48,) and errors.any()
    assert np.array_equal(errors, error_set(material, params)) and same(before, state(material.model))


@pytest.mark.parametrize(("name", "params"), [("group_dro", GroupDroParams), ("jtt", JttParams)])
def test_reweighted_fine_tuning_differs_from_plain_and_repeats(labelled, name, params):
    group = params(enabled=True, lambdas=(4.0,), batch_size=16)
    (a,), (b,) = (made_by(name, group, labelled).values() for _ in range(2))
    (plain,) = finetune([Candidate("plain", name, None, 0.0)], labelled, group, Penalised())
    assert same(state(a.model), state(b.model)) and not same(state(a.model), state(plain.model))


def test_without_labels_only_jtt_can_be_made(material):
    wanted = {"dfr": True, "group_dro": True, "jtt": False}
    for name, absent in wanted.items():
        method = METHODS[name]({"dfr": DfrParams, "group_dro": GroupDroParams, "jtt": JttParams}[name](enabled=True))
        assert bool(method.absence(method.candidates(())[0], material)) is absent
