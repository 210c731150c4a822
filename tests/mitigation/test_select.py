import json

import numpy as np
import pandas as pd
import pytest

from xai_robustness.mitigation.params import MitigationParams
from xai_robustness.mitigation.select import select, verdict
from xai_robustness.types import METRIC_COLUMNS

PARAMS = MitigationParams(allowed_clean_loss=0.03)
EMPTY = pd.DataFrame(columns=["candidate", *METRIC_COLUMNS])


def rows_of(candidate, method, clean, attacked, split="val", layer="", strength=np.nan, collapsed=False, sure=True):
    """Rows of one candidate; the reference has 0.9 and 0.5."""
    width = 0.01 if sure else 0.9
    about = {"candidate": candidate, "method": method, "layer": layer, "strength": strength, "collapsed": collapsed}
    values = {
        "clean/balanced_accuracy": (clean, clean - 0.9),
        "attacked/balanced_accuracy": (attacked, attacked - 0.5),
        "attacked/balanced_accuracy_gap": (clean - attacked, clean - attacked - 0.4),
        "attacked/gap_recovered": ((attacked - 0.5) / 0.4, np.nan),
    }
    return [
        {
            **about,
            "metric": f"{split}/{name}",
            **{"value": v, "ci_low": v - width, "ci_high": v + width, "n": 100},
            **{"difference": d, "difference_low": d - width, "difference_high": d + width},
        }
        for name, (v, d) in values.items()
    ]


def table(*candidates, sure=True):
    base = [("vanilla", "vanilla", 0.9, 0.5), ("vanilla_finetuned", "vanilla", 0.93, 0.95)]
    return pd.DataFrame([row for c in (*base, *candidates) for row in rows_of(*c, sure=sure)])


def test_the_highest_attacked_accuracy_within_the_allowed_loss_is_chosen():
    found = select(table(("a", "rrr", 0.88, 0.7), ("b", "rr_clarc", 0.871, 0.85), ("c", "rr_clarc", 0.86, 0.95)), 0.03)
    assert (found.best, found.status) == ("b", "selected")
    assert found.best_by_method == {"vanilla": "vanilla_finetuned", "rrr": "a", "rr_clarc": "b"}
    assert found.qualifying == ["b", "a"]
    assert json.loads(json.dumps(found.to_json()))["best"] == "b"


def test_a_loss_of_exactly_the_allowed_points_qualifies_and_zero_points_may_be_asked():
    assert select(table(("a", "rrr", 0.87, 0.7)), 0.03).best == "a"
    assert select(table(("a", "rrr", 0.869, 0.7)), 0.03).status == "none qualifies"
    assert select(table(("a", "rrr", 0.9, 0.7), ("b", "rrr", 0.899, 0.9)), 0.0).best == "a"


def test_none_qualifies_when_no_candidate_gains_or_all_collapse():
    assert select(table(("a", "rrr", 0.9, 0.5)), 0.03).status == "none qualifies"
    collapsed = table(("a", "rrr", 0.9, 0.8))
    collapsed.loc[collapsed.candidate == "a", "collapsed"] = True
    found = select(collapsed, 0.03)
    assert found.best is None and found.best_by_method["rrr"] == "a"


def test_the_fine_tuned_control_is_never_selected():
    assert select(table(("a", "rrr", 0.9, 0.6)), 0.03).best == "a"


def test_without_a_certain_gap_nothing_is_corrected():
    found = select(table(("a", "rrr", 0.9, 0.8), sure=False), 0.03)
    assert (found.best, found.status) == (None, "no gap")


def test_without_candidates_nothing_is_corrected():
    found = select(table(), 0.03)
    assert (found.best, found.status) == (None, "no candidate")
    said = verdict(table(), EMPTY, found.to_json(), PARAMS, split="val")
    assert said["selected"] is None and said["sentence"].startswith("Nothing was corrected.")
    assert said["sentence"].endswith("from clean to attacked, which is certain.")
    calm = verdict(table(sure=False), EMPTY, found.to_json(), PARAMS, split="val")["sentence"]
    assert calm.endswith("from clean to attacked, which is no certain gap.")


def test_among_equals_the_cleaner_then_the_gentler_is_taken():
    strong, gentle = ("a", "rr_clarc", 0.9, 0.8, "val", "relu", 1e4), ("b", "rr_clarc", 0.9, 0.8, "val", "relu", 1e2)
    assert select(table(strong, gentle), 0.03).best == "b"
    assert select(table(("a", "rrr", 0.89, 0.8), ("b", "rrr", 0.9, 0.8)), 0.03).best == "b"


def test_rows_of_other_splits_are_not_looked_at():
    val = table(("a", "rrr", 0.9, 0.7), ("b", "rrr", 0.9, 0.6))
    test = val.assign(metric=val.metric.str.replace("val/", "test/"), value=1 - val.value, difference=-val.difference)
    assert select(pd.concat([val, test]), 0.03) == select(val, 0.03)


def test_a_proven_removal_is_stated_with_its_numbers():
    metrics = table(("a", "rr_clarc", 0.89, 0.86, "val", "relu", 1e4))
    test = pd.DataFrame(
        rows_of("vanilla", "vanilla", 0.9, 0.5, "test") + rows_of("a", "rr_clarc", 0.89, 0.86, "test", "relu", 1e4)
    )
    whole = pd.concat([metrics, test])
    said = verdict(whole, EMPTY, select(metrics, 0.03).to_json(), PARAMS)
    assert said["status"] == "proven"
    assert said["selected"] == {"candidate": "a", "method": "rr_clarc", "layer": "relu", "strength": 1e4}
    for text in ("a, chosen on validation images", "from 50.0 to 86.0 %", "90 % of the gap", "-1.0 points"):
        assert text in said["sentence"]
    assert said["metrics"]["rr_clarc"]["attacked/gap_recovered"]["value"] == pytest.approx(0.9)
    assert said["metrics"]["rr_clarc"]["attacked/artifact_relevance"]["value"] is None
    json.dumps(said, allow_nan=False)


@pytest.mark.parametrize(("clean", "attacked"), [(0.86, 0.9), (0.9, 0.505)])
def test_too_much_clean_loss_or_an_uncertain_gain_is_not_proof(clean, attacked):
    metrics = table(("a", "rrr", 0.89, 0.86))
    test = pd.DataFrame(rows_of("vanilla", "vanilla", 0.9, 0.5, "test") + rows_of("a", "rrr", clean, attacked, "test"))
    said = verdict(pd.concat([metrics, test]), EMPTY, select(metrics, 0.03).to_json(), PARAMS)
    assert said["status"] == "not proven" and "not proven" in said["sentence"]


def test_artifact_relevance_is_taken_from_its_own_table():
    metrics = table(("a", "rrr", 0.89, 0.86))
    row = dict(zip(METRIC_COLUMNS, ("val/attacked/artifact_relevance", 0.2, 0.1, 0.3, 50)))
    relevance = pd.DataFrame([{"candidate": "a", **row, "difference": -0.4, "difference_low": -0.5}])
    said = verdict(metrics, relevance, select(metrics, 0.03).to_json(), PARAMS, split="val")
    assert said["metrics"]["rrr"]["attacked/artifact_relevance"]["difference"] == -0.4


def test_the_verdict_on_a_saved_table_is_strict_json(tmp_path):
    table(("a", "rrr", 0.89, 0.86)).to_csv(tmp_path / "metrics.csv", index=False)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    said = verdict(metrics, EMPTY, select(metrics, 0.03).to_json(), PARAMS, split="val")
    assert said["selected"]["candidate"] == "a" and said["selected"]["layer"] is None
    json.dumps(said, allow_nan=False)


def test_criteria_and_evidence_stand_beside_the_verdict():
    metrics = table(("a", "rr_clarc", 0.89, 0.86, "val", "relu", 1e4))
    tcav = pd.DataFrame(
        [
            {"candidate": c, "layer": "relu", "linear": False, "metric": "val/attacked/tcav_quotient", "value": v}
            for c, v in (("vanilla", 0.9), ("a", 0.55))
        ]
    ).assign(ci_low=0.1, ci_high=0.99, n=50, difference=np.nan, difference_low=np.nan, difference_high=np.nan)
    chosen = select(metrics, 0.03).to_json()
    said = verdict(metrics, EMPTY, chosen, PARAMS, split="val", tcav_metrics=tcav)
    assert {c["name"]: c["passed"] for c in said["criteria"]} == {
        "gain_on_attacked_low": True,
        "gap_recovered": True,
        "clean_loss": True,
    }
    assert said["evidence"]["tcav"]["before"]["tcav_quotient"]["value"] == 0.9
    assert said["evidence"]["tcav"]["after"]["tcav_quotient"]["value"] == 0.55
    assert said["evidence"]["tcav"]["after"]["tcav_p_value"]["value"] is None
    assert said["evidence"]["artifact_relevance"] == {"before": None, "after": None}
    strict = verdict(metrics, EMPTY, chosen, MitigationParams(required_recovery=0.95), split="val")
    assert [c["passed"] for c in strict["criteria"]] == [True, False, True] and strict["status"] == "not proven"
    json.dumps(said, allow_nan=False)
