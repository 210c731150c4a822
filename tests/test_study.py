import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xai_robustness.study import QUANTITIES, aggregate, control_row, control_sentence, student, text_table


def test_student_is_scipys_interval():
    values = np.array([0.7, 0.8, 0.95])
    mean, low, high = student(values)
    expected = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (mean, low, high) == pytest.approx((values.mean(), *expected))


def test_one_seed_has_no_interval_and_none_no_mean():
    assert student(np.array([0.5]))[0] == 0.5
    assert np.isnan(student(np.array([0.5]))[1:]).all()
    assert np.isnan(student(np.array([]))).all()


def results() -> pd.DataFrame:
    rows = []
    for seed in (0, 1, 2):
        for name, method, attacked in (("vanilla", "vanilla", 0.5), ("rrr-1", "rrr", 0.8 + 0.01 * seed)):
            values = dict.fromkeys(QUANTITIES, 0.1) | {"clean": 0.9, "attacked": attacked}
            rows.append(
                {"candidate": name, "method": method, "layer": None, "strength": np.nan, "seed": seed}
                | {"selected": name == "rrr-1" and seed != 2}
                | values
            )
    return pd.DataFrame(rows)


def test_what_each_seed_selected_stands_first_and_failures_stay_in_the_table():
    table = aggregate(results())
    assert table.candidate.tolist() == ["selected on validation", "vanilla", "rrr-1"]
    assert table.seeds.tolist() == [3, 3, 3]
    assert table.attacked.tolist() == pytest.approx([(0.5 + 0.8 + 0.81) / 3, 0.5, 0.81])
    assert text_table(table)["attacked"][2].startswith("0.810 [0.785")


def test_nothing_selected_in_any_seed():
    table = aggregate(results().assign(selected=False))
    assert table.candidate.tolist() == ["vanilla", "rrr-1"]


def test_the_control_has_a_row_of_its_own_and_its_gap_is_taken_off_seed_by_seed():
    study = results().assign(gap=[0.3, 0.3, 0.2, 0.2, 0.4, 0.4])
    controls = results().query("candidate == 'vanilla'").assign(gap=[0.02, -0.01, 0.02])
    row = control_row(controls)
    assert row.candidate.tolist() == ["control (rate 0)"] and row.method.tolist() == ["corrected in 0 of 3 seeds"]
    assert row.gap.tolist() == pytest.approx([0.01]) and text_table(row)["gap recovered"].tolist() == ["-"]
    left = student(np.array([0.28, 0.21, 0.38]))
    assert "{:.3f} [{:.3f}, {:.3f}] of the study's gap".format(*left) in control_sentence(study, controls)
    assert control_row(results()).method.tolist() == ["corrected in 2 of 3 seeds"]
