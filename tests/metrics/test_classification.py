import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn import metrics as oracle
from tests.reference import metrics as naive

from xai_robustness.metrics import classification as module
from xai_robustness.metrics.bootstrap import Resamples
from xai_robustness.metrics.classification import (
    METRICS,
    Predictions,
    Weighted,
    classification_metrics,
    compare_models,
    metric_names,
    paired_difference,
)
from xai_robustness.types import METRIC_COLUMNS, InputError


def sample(k: int, n: int = 90, seed: int = 0, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    return (rng.normal(size=(n, k)) + signal * np.eye(k)[labels]).astype(np.float32), labels


def multi_label(k: int = 4, n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    labels = (rng.random((n, k)) < 0.3).astype(int)
    return rng.normal(size=(n, k)) + labels, labels


def false_positives(table: np.ndarray, both: bool) -> list[float]:
    return [table[0, 1] / table[0].sum()]


def recalls(table: np.ndarray, both: bool) -> list[float]:
    return [table[1, 1] / table[1].sum(), *([table[0, 0] / table[0].sum()] if both else [])]


EXTREMES = {
    "false_positive_rate": (np.mean, false_positives),
    "largest_false_positive_rate": (np.max, false_positives),
    "worst_recall": (np.min, recalls),
}


def expected(name: str, logits: np.ndarray, labels: np.ndarray, task: str) -> float:
    """The metric as scikit-learn computes it."""
    scores, answer = softmax(logits.astype(float), axis=1), logits.argmax(axis=1)
    if name in EXTREMES:
        reduce, rate = EXTREMES[name]
        if task == "multi-label":
            tables = oracle.multilabel_confusion_matrix(labels, logits > 0)
            return float(reduce([r for t in tables for r in rate(t, both=True)]))
        tables = oracle.multilabel_confusion_matrix(labels, answer, labels=np.arange(logits.shape[1]))
        return float(reduce([r for t in tables for r in rate(t, both=False)]))
    if task == "multi-label":
        columns = [(labels[:, j], (logits[:, j] > 0).astype(int), logits[:, j]) for j in range(labels.shape[1])]
        each = {
            "accuracy": lambda y, a, s: oracle.accuracy_score(y, a),
            "balanced_accuracy": lambda y, a, s: oracle.balanced_accuracy_score(y, a),
            "auroc": lambda y, a, s: oracle.roc_auc_score(y, s),
            "macro_f1": lambda y, a, s: oracle.f1_score(y, a),
        }[name]
        return float(np.mean([each(*column) for column in columns]))
    return {
        "accuracy": lambda: oracle.accuracy_score(labels, answer),
        "balanced_accuracy": lambda: oracle.balanced_accuracy_score(labels, answer),
        "auroc": lambda: (
            oracle.roc_auc_score(labels, scores[:, 1])
            if logits.shape[1] == 2
            else oracle.roc_auc_score(labels, scores, multi_class="ovr")
        ),
        "macro_f1": lambda: oracle.f1_score(labels, answer, average="macro"),
        "quadratic_kappa": lambda: oracle.cohen_kappa_score(labels, answer, weights="quadratic"),
        "mae": lambda: oracle.mean_absolute_error(labels, answer),
    }[name]()


CASES = {
    "binary": ("binary", *sample(2)),
    "multi-class": ("multi-class", *sample(5)),
    "ordinal": ("ordinal", *sample(4)),
    "multi-label": ("multi-label", *multi_label()),
}
NAMED = [(case, name) for case in CASES for name in (*metric_names(CASES[case][0]), *EXTREMES)]


def test_every_metric_is_compared_with_the_oracle():
    assert {name for _, name in NAMED} == set(METRICS.names())


@pytest.mark.parametrize(("case", "name"), NAMED)
def test_value_agrees_with_scikit_learn(case, name):
    task, logits, labels = CASES[case]
    table = compare_models({"m": logits}, labels, task, metrics=[name], n_boot=2)
    assert table.value[0] == pytest.approx(expected(name, logits, labels, task), abs=1e-9)


@pytest.mark.parametrize(("case", "name"), NAMED)
def test_a_replicate_is_the_metric_of_the_repeated_samples(case, name):
    task, logits, labels = CASES[case]
    strata = np.zeros(len(labels)) if task == "multi-label" else labels
    weights = next(Resamples(strata, n_boot=5).blocks())
    values = METRICS[name](Weighted(Predictions(logits, labels, task), weights))
    for column in range(5):
        x, y = (naive.repeated(array, weights[:, column]) for array in (logits, labels))
        assert values[column] == pytest.approx(expected(name, x, y, task), abs=1e-9)


def test_interval_agrees_with_scipy():
    _, logits, labels = CASES["binary"]
    right = (logits.argmax(axis=1) == labels).astype(float)
    ours = compare_models({"m": logits}, labels, "binary", metrics=["balanced_accuracy"], n_boot=4000).iloc[0]
    theirs = stats.bootstrap(
        (right[labels == 0], right[labels == 1]),
        lambda a, b, axis: (a.mean(axis=axis) + b.mean(axis=axis)) / 2,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert ours.ci_low == pytest.approx(theirs.low, abs=0.02)
    assert ours.ci_high == pytest.approx(theirs.high, abs=0.02)


def test_table_has_the_metric_columns_and_prefixed_names():
    table = classification_metrics(*CASES["ordinal"][1:], "ordinal", prefix="test/clean", n_boot=20)
    assert tuple(table.columns) == METRIC_COLUMNS
    assert list(table.metric) == [f"test/clean/{name}" for name in metric_names("ordinal")]
    assert (table.n == 90).all()
    assert ((table.ci_low <= table.value) & (table.value <= table.ci_high)).all()


def test_perfect_and_collapsed_models():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    perfect = classification_metrics(np.eye(3)[labels], labels, "multi-class", n_boot=50)
    assert (perfect[["value", "ci_low", "ci_high"]] == 1).all(axis=None)
    collapsed = classification_metrics(np.tile([1.0, 0.0, 0.0], (10, 1)), labels, "multi-class", n_boot=50)
    value = collapsed.set_index("metric").value
    assert value["accuracy"] == 0.6
    assert value["balanced_accuracy"] == pytest.approx(1 / 3)
    assert value["auroc"] == 0.5


def test_auroc_does_not_saturate_for_confident_logits():
    logits = np.array([[0.0, 50.0], [0.0, 60.0], [0.0, 70.0], [0.0, 80.0]])
    table = compare_models({"m": logits}, np.array([0, 0, 1, 1]), "binary", metrics=["auroc"], n_boot=2)
    assert table.value[0] == 1


def test_one_class_alone_leaves_auroc_undefined():
    logits, _ = sample(3)
    table = classification_metrics(logits, np.zeros(90, int), "multi-class", n_boot=10).set_index("metric")
    assert table.loc["auroc", ["value", "ci_low", "ci_high"]].isna().all()
    assert table.value["balanced_accuracy"] == table.value["accuracy"]


def test_an_absent_class_is_left_out_of_the_mean():
    logits, labels = sample(3)
    keep = labels != 2
    table = compare_models({"m": logits[keep]}, labels[keep], "multi-class", metrics=["auroc"], n_boot=2)
    log_odds = [logits[keep, c] - np.log(np.exp(np.delete(logits[keep], c, axis=1)).sum(axis=1)) for c in (0, 1)]
    areas = [oracle.roc_auc_score(labels[keep] == c, log_odds[c]) for c in (0, 1)]
    assert table.value[0] == pytest.approx(np.mean(areas))


def test_multi_label_label_without_positives_is_left_out_of_the_mean():
    logits, labels = multi_label()
    labels[:, 0] = 0
    table = compare_models({"m": logits}, labels, "multi-label", metrics=["auroc"], n_boot=5)
    rest = [oracle.roc_auc_score(labels[:, j], logits[:, j]) for j in (1, 2, 3)]
    assert table.value[0] == pytest.approx(np.mean(rest))


def test_kappa_of_one_same_class_is_undefined():
    logits = np.tile([1.0, 0.0, 0.0], (5, 1))
    table = classification_metrics(logits, np.zeros(5, int), "ordinal", n_boot=5).set_index("metric")
    assert np.isnan(table.value["quadratic_kappa"])
    assert table.value["mae"] == 0


def test_logits_that_are_not_finite_are_undefined_for_that_model_alone():
    logits, labels = sample(3)
    broken = logits.copy()
    broken[4, 1] = np.inf
    table = compare_models({"good": logits, "broken": broken}, labels, "multi-class", "good", n_boot=10)
    assert table[table.model == "broken"].drop(columns=["model", "metric", "n"]).isna().all(axis=None)
    assert table[table.model == "good"].notna().all(axis=None)


def test_differences_are_paired():
    logits, labels = sample(3, n=300)
    other = logits.copy()
    other[:3] = np.eye(3)[labels[:3]] * 9
    table = compare_models({"a": logits, "same": logits, "b": other}, labels, "multi-class", "a", subject="candidate")
    same = table[table.candidate == "same"]
    assert (same[list(module.DIFFERENCE_COLUMNS)] == 0).all(axis=None)
    row = table[(table.candidate == "b") & (table.metric == "accuracy")].iloc[0]
    assert row.difference == pytest.approx(
        (other.argmax(axis=1) == labels).mean() - (logits.argmax(axis=1) == labels).mean()
    )
    assert row.difference_high - row.difference_low < (row.ci_high - row.ci_low) / 3


def test_separate_calls_give_the_same_numbers_as_one():
    logits, labels = sample(3)
    other, _ = sample(3, seed=1)
    both = compare_models({"a": logits, "b": other}, labels, "multi-class", "b", n_boot=50, seed=7)
    alone = classification_metrics(logits, labels, "multi-class", n_boot=50, seed=7)
    joined = both[both.model == "a"].drop(columns=["model", *module.DIFFERENCE_COLUMNS])
    pd.testing.assert_frame_equal(joined.reset_index(drop=True), alone)
    gap = paired_difference(logits, other, labels, "multi-class", "auroc", n_boot=50, seed=7)
    row = both[(both.model == "a") & (both.metric == "auroc")].iloc[0]
    assert gap == tuple(row[list(module.DIFFERENCE_COLUMNS)])


def test_difference_agrees_with_a_loop_over_replicates():
    a, labels = sample(3)
    b, _ = sample(3, seed=1)
    weights = np.concatenate(list(Resamples(labels, 40, seed=2).blocks()), axis=1)
    gaps = []
    for column in weights.T:
        y = naive.repeated(labels, column)
        answers = [naive.repeated(x, column).argmax(axis=1) for x in (a, b)]
        gaps.append(np.subtract(*[oracle.balanced_accuracy_score(y, answer) for answer in answers]))
    gap = paired_difference(a, b, labels, "multi-class", "balanced_accuracy", n_boot=40, seed=2)
    assert gap[1:] == pytest.approx(np.quantile(gaps, [0.025, 0.975]))


def test_the_reference_is_evaluated_once_however_many_models_are_compared(monkeypatch):
    calls: list[int] = []
    accuracy = METRICS["accuracy"]
    monkeypatch.setitem(METRICS._entries, "accuracy", lambda w: calls.append(1) or accuracy(w))
    logits, labels = sample(3)
    compare_models(dict.fromkeys("abcd", logits), labels, "multi-class", "a", metrics=["accuracy"], n_boot=10)
    assert len(calls) == 2 * 4


BAD = {
    "logits of one class": (np.zeros((4, 1)), np.zeros(4, int), "binary", "two classes"),
    "no sample": (np.zeros((0, 2)), np.zeros(0, int), "binary", "at least one sample"),
    "label out of range": (np.zeros((4, 2)), np.array([0, 1, 2, 0]), "binary", r"in 0\.\.1\. Got 0\.\.2"),
    "labels of another length": (np.zeros((4, 2)), np.zeros(3, int), "binary", r"shape \(4,\)"),
    "float labels": (np.zeros((4, 2)), np.zeros(4), "binary", "Got float64"),
    "flat multi-label labels": (np.zeros((4, 3)), np.zeros(4, int), "multi-label", r"shape \(4, 3\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case):
    logits, labels, task, message = BAD[case]
    with pytest.raises(InputError, match=message):
        classification_metrics(logits, labels, task)


def test_unknown_names_are_refused():
    logits, labels = sample(3)
    with pytest.raises(InputError, match=r"Unknown metric 'acuracy'\. Did you mean 'accuracy'"):
        compare_models({"a": logits}, labels, "multi-class", metrics=["acuracy"])
    with pytest.raises(InputError, match="reference parameter of compare_models"):
        compare_models({"a": logits}, labels, "multi-class", "b")
