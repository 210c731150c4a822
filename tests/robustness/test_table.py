import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from xai_robustness.corruptions.tables import MEDMNIST_C
from xai_robustness.robustness.baselines import ALEXNET, ALEXNET_CLEAN
from xai_robustness.robustness.page import robustness_html
from xai_robustness.robustness.table import TABLE_COLUMNS, accuracy_rows, balanced_errors, sample_rows

LABELS = np.arange(90) % 4
NAMES = ("pixelate", "jpeg_compression")


def logits(seed: int, signal: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(90, 4)) + signal * np.eye(4)[LABELS]


@pytest.fixture(scope="module")
def given():
    found = {("clean", 0): {"vanilla": logits(0, 3.0), "corrected": logits(1, 3.0)}}
    for i, name in enumerate(NAMES):
        for s in range(1, 6):
            strong, weak = logits(100 * i + s, 2.0), logits(50 * i + s + 7, 0.5)
            found[name, s] = {"vanilla": weak, "corrected": strong}
    return found, {"vanilla": logits(5, 0.2), "corrected": logits(6, 2.5)}


@pytest.fixture(scope="module")
def table(given):
    return accuracy_rows(*given, LABELS, "multi-class", "vanilla", "octmnist").set_index(["model", "metric"])


def error(values: np.ndarray) -> float:
    return 1 - balanced_accuracy_score(LABELS, values.argmax(1))


def test_values_agree_with_scikit_learn_and_the_formulas_of_medmnist_c(given, table):
    found, attacked = given
    for model in ("vanilla", "corrected"):
        clean = error(found["clean", 0][model])
        mean = {n: np.mean([error(found[n, s][model]) for s in range(1, 6)]) for n in NAMES}
        be = np.mean([mean[n] / ALEXNET["octmnist"][n] for n in NAMES])
        rbe = np.mean([(mean[n] - clean) / (ALEXNET["octmnist"][n] - ALEXNET_CLEAN["octmnist"]) for n in NAMES])
        expected = {
            "test/clean/balanced_accuracy": 1 - clean,
            "test/attacked/balanced_accuracy": 1 - error(attacked[model]),
            "test/corrupted/balanced_accuracy": 1 - np.mean(list(mean.values())),
            "test/corrupted/be": be,
            "test/corrupted/rbe": rbe,
        }
        assert {m: table.value[model, m] for m in expected} == pytest.approx(expected)


def test_differences_are_paired_and_tested(table):
    row = table.loc["corrected", "test/corrupted/balanced_accuracy"]
    other = table.loc["vanilla", "test/corrupted/balanced_accuracy"]
    assert row.difference == pytest.approx(row.value - other.value)
    assert row.difference_low > 0.1 and row.p_value < 0.01 and row.ci_low < row.value < row.ci_high
    assert np.isnan(other.p_value) and other.difference == 0
    assert table.p_value["corrected", "test/clean/balanced_accuracy"] > 0.01


def test_alexnet_compared_with_itself_is_one():
    for flag, errors in ALEXNET.items():
        be, rbe = balanced_errors(np.array(ALEXNET_CLEAN[flag]), {k: np.array(v) for k, v in errors.items()}, flag)
        assert be == pytest.approx(1) and rbe == pytest.approx(1)
    assert {flag: set(errors) for flag, errors in ALEXNET.items()} == {f: set(t) for f, t in MEDMNIST_C.items()}


def test_a_table_without_alexnet_has_no_balanced_errors(given):
    found = accuracy_rows(*given, LABELS, "multi-class", "vanilla", "standard")
    assert not found.metric.str.endswith("be").any()


def test_rows_of_samples_leave_out_what_is_undefined_for_any_model():
    values = {"vanilla": np.array([0.1, 0.2, np.nan, 0.3] * 9), "corrected": np.array([0.3, 0.4, 0.9, np.nan] * 9)}
    rows = sample_rows(values, "test/corrupted/ssim", "vanilla").set_index("model")
    assert tuple(rows.reset_index().columns) == TABLE_COLUMNS
    assert rows.n.tolist() == [18, 18] and rows.value["corrected"] == pytest.approx(0.35)
    assert rows.difference["corrected"] == pytest.approx(0.2) and rows.p_value["corrected"] < 0.01
    assert len(sample_rows({"vanilla": np.array([np.nan])}, "x", "vanilla")) == 0


def test_the_page_holds_every_cell_and_marks_what_is_sure():
    values = {"vanilla": np.zeros(40), "best_<b>": np.r_[np.ones(30), np.zeros(10)]}
    same = {"vanilla": np.ones(40), "best_<b>": np.ones(40)}
    rows = [sample_rows(values, "test/pgd/accuracy", "vanilla"), sample_rows(same, "test/noise/accuracy", "vanilla")]
    page = robustness_html("a & b", pd.concat(rows), {"A figure": b"png"})
    assert page.count("<td class=sure>") == 1 and "+0.750, p = 0.002" in page
    assert "p = 1.000" in page and page.count("n = 40") == 2
    assert "best &lt;b&gt;" in page and "a &amp; b" in page and "<b>" not in page
    assert "data:image/png;base64,cG5n" in page and "<script" not in page
