"""The choice of a correction on validation images, and the verdict on test images."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from xai_robustness.mitigation.base import REFERENCE
from xai_robustness.mitigation.params import MitigationParams

METRIC = "balanced_accuracy"
REPORTED = (
    f"clean/{METRIC}",
    f"attacked/{METRIC}",
    f"attacked/{METRIC}_gap",
    "attacked/gap_recovered",
    "attacked/artifact_relevance",
)
RELEVANCE = ("artifact_relevance", "absolute_artifact_relevance")
TCAV = (
    "tcav_quotient",
    "mean_tcav_quotient",
    "tcav_sensitivity",
    "tcav_alignment",
    "tcav_distance",
    "tcav_random_high",
    "tcav_p_value",
)
SCHEMA = 3
"""Version of the verdict's JSON."""

CONTROL = "vanilla"
"""Method whose candidates are compared with, but never selected."""


@dataclass(frozen=True)
class Selection:
    """What was chosen on validation images.

    Attributes:
        best: the chosen candidate, or None.
        status: "selected", "none qualifies", "no gap" or "no candidate".
        reason: why, in one sentence.
        best_by_method: method -> its best candidate, for the report; a method of which none qualifies is there too.
        qualifying: all candidates that lose at most the allowed balanced accuracy on clean images.
        allowed_clean_loss: what was allowed, in [0,1].
    """

    best: str | None
    status: str
    reason: str
    best_by_method: dict[str, str]
    qualifying: list[str]
    allowed_clean_loss: float

    def to_json(self) -> dict[str, Any]:
        """JSON values, one key an attribute."""
        return asdict(self)


def select(correction_metrics: pd.DataFrame, allowed_clean_loss: float, split: str = "val") -> Selection:
    """Choose the candidate with the highest balanced accuracy on attacked images.

    Only candidates count that lose at most `allowed_clean_loss` on clean images, that have not collapsed, and that are
    better on attacked images than the uncorrected model. Among equals the one with more on clean images is taken, then
    the gentler one. Where the uncorrected model shows no gap, its interval touching 0, nothing is chosen. Rows of
    other splits are not looked at.

    Args:
        correction_metrics: the table of all candidates.
        allowed_clean_loss: in [0,1].
        split: whose rows are used.
    """
    table = _candidates(correction_metrics, split, allowed_clean_loss)
    corrected = table[table.method != CONTROL]
    qualifying = corrected[corrected.qualifies]
    better = qualifying[qualifying.gain > 0]
    gap = _row(correction_metrics, REFERENCE, f"{split}/attacked/{METRIC}_gap")
    best = None
    if corrected.empty:
        status, reason = "no candidate", "There is no corrected model, since no artifact was confirmed."
    elif not gap["ci_low"] > 0:
        status = "no gap"
        reason = f"The uncorrected model loses nothing that is certain on attacked images: {_points(gap)}."
    elif better.empty:
        status = "none qualifies"
        reason = (
            f"None of {len(corrected)} candidates is better on attacked images and loses at most "
            f"{100 * allowed_clean_loss:.3g} points on clean ones."
        )
    else:
        status, best = "selected", str(better.iloc[0].candidate)
        reason = (
            f"The best of {len(qualifying)} candidates, of {len(corrected)}, that lose at most "
            f"{100 * allowed_clean_loss:.3g} points on clean images."
        )
    firsts = table[table.candidate != REFERENCE].drop_duplicates("method").set_index("method").candidate
    methods = correction_metrics.loc[correction_metrics.candidate != REFERENCE, "method"].unique()
    best_by_method = {str(method): str(firsts[method]) for method in methods}
    return Selection(best, status, reason, best_by_method, list(qualifying.candidate), allowed_clean_loss)


def _candidates(metrics: pd.DataFrame, split: str, allowed: float) -> pd.DataFrame:
    """One row a candidate, in the order of preference; methods keep their order of first appearance."""
    columns = ["candidate", "method", "strength", "collapsed"]
    clean = metrics[metrics.metric == f"{split}/clean/{METRIC}"]
    attacked = metrics[metrics.metric == f"{split}/attacked/{METRIC}"]
    table = clean[[*columns, "value", "difference"]].merge(
        attacked[["candidate", "value", "difference"]], on="candidate", suffixes=("_clean", "_attacked")
    )
    table = table.assign(gain=table.difference_attacked.where(table.candidate != REFERENCE, 0.0))
    lost = -table.difference_clean.where(table.candidate != REFERENCE, 0.0)
    table["qualifies"] = (lost <= allowed + 1e-9) & ~table.collapsed.astype(bool)
    keys = ["qualifies", "value_attacked", "value_clean", "strength"]
    return table.sort_values(keys, ascending=[False, False, False, True], kind="stable")


def _row(metrics: pd.DataFrame, candidate: str, metric: str) -> dict[str, float]:
    rows = metrics[(metrics.candidate == candidate) & (metrics.metric == metric)]
    names = ("value", "ci_low", "ci_high", "difference", "difference_low", "difference_high")
    if rows.empty:
        return dict.fromkeys(names, math.nan)
    return {name: float(rows.iloc[0].get(name, math.nan)) for name in names}


def _points(row: Mapping[str, float]) -> str:
    value, low, high = (100 * row[key] for key in ("value", "ci_low", "ci_high"))
    return f"{value:.1f} points, 95 % interval {low:.1f} to {high:.1f}"


def verdict(
    correction_metrics: pd.DataFrame,
    relevance_metrics: pd.DataFrame,
    selection: Mapping[str, Any],
    params: MitigationParams,
    split: str = "test",
    tcav_metrics: pd.DataFrame | None = None,
    suspicion: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Whether the removal is proven on images that took no part in any choice.

    It is proven where the paired 95 % interval of the gain on attacked images lies above 0, at least the required share
    of the gap is won back, and the loss on clean images is at most the allowed one.

    Args:
        correction_metrics: the table of all candidates.
        relevance_metrics: artifact relevance of the best of each method; may be empty.
        selection: `Selection.to_json()`.
        params: for the allowed loss and the required recovery.
        split: whose rows are used.
        tcav_metrics: TCAV of the best of each method; may be empty or None.
        suspicion: `again.suspected` of the models "before" and "after"; may be None.

    Returns:
        JSON values, described in docs/verdict.md: `schema`; `status` ("proven", "not proven", or the selection's where
        nothing was selected), `sentence`, `selected` (candidate, method, layer, strength, or null); `metrics`: for the
        keys "reference" and each method the candidate's name and, for each of REPORTED, value, ci_low, ci_high,
        difference, difference_low and difference_high (null where undefined); `criteria`, what the proof asks for, each
        with value, threshold and passed; and `evidence`, what it does not ask for, before and after: artifact relevance
        TCAV, and whether reveal lists the artifact (null where it was not measured).
    """
    tables = [table for table in (correction_metrics, relevance_metrics) if len(table)]
    rows = pd.concat(tables, ignore_index=True)
    shown = {"reference": REFERENCE, **selection["best_by_method"]}
    metrics = {
        label: {"candidate": name, **{m: _nulls(_row(rows, name, f"{split}/{m}")) for m in REPORTED}}
        for label, name in shown.items()
    }
    best = selection["best"]
    result = {"status": selection["status"], "sentence": selection["reason"], "selected": None, "metrics": metrics}
    result |= {"schema": SCHEMA, "criteria": [], "evidence": _evidence(rows, tcav_metrics, best, split)}
    result["evidence"]["suspicion"] = {when: (suspicion or {}).get(when) for when in ("before", "after")}
    if best is None:
        left = _row(rows, REFERENCE, f"{split}/attacked/{METRIC}_gap")
        return result | {"sentence": f"Nothing was corrected. {selection['reason']} {_gap_left(left)}".strip()}
    about = correction_metrics[correction_metrics.candidate == best].iloc[0]
    strength = None if pd.isna(about.strength) else float(about.strength)
    layer = None if pd.isna(about.layer) else about.layer or None  # a table that was saved has NaN in place of ""
    chosen = {"candidate": best, "method": about.method, "layer": layer, "strength": strength}
    clean, attacked = (_row(rows, best, f"{split}/{condition}/{METRIC}") for condition in ("clean", "attacked"))
    recovered = _row(rows, best, f"{split}/attacked/gap_recovered")["value"]
    criteria = [
        _criterion("gain_on_attacked_low", attacked["difference_low"], ">", 0.0),
        _criterion("gap_recovered", recovered, ">=", params.required_recovery),
        _criterion("clean_loss", -clean["difference"], "<=", params.allowed_clean_loss),
    ]
    proven = all(criterion["passed"] for criterion in criteria)
    status = "proven" if proven else "not proven"
    return result | {
        "status": status,
        "selected": chosen,
        "criteria": criteria,
        "sentence": _sentence(best, clean, attacked, recovered, proven),
    }


def _criterion(name: str, value: float, relation: str, threshold: float) -> dict[str, Any]:
    """One thing that the proof asks for; a value that is NaN does not pass."""
    holds = {">": value > threshold, ">=": value >= threshold, "<=": value <= threshold + 1e-9}[relation]
    number = None if math.isnan(value) else value
    return {"name": name, "value": number, "relation": relation, "threshold": threshold, "passed": bool(holds)}


def _evidence(rows: pd.DataFrame, tcav: pd.DataFrame | None, best: str | None, split: str) -> dict[str, Any]:
    """What is left of the artifact in explanations, before and after; after is null where nothing was selected."""
    found: dict[str, Any] = {name: {"before": None, "after": None} for name in (*RELEVANCE, "tcav")}
    for when, name in {"before": REFERENCE, "after": best}.items():
        if name is None:
            continue
        for metric in RELEVANCE:
            found[metric][when] = _known(_row(rows, name, f"{split}/attacked/{metric}"))
        table = pd.DataFrame() if tcav is None or tcav.empty else tcav[tcav.candidate == name]
        if len(table):
            about = {"layer": str(table.iloc[0].layer), "linear_behind": bool(table.iloc[0].linear)}
            found["tcav"][when] = about | {m: _nulls(_row(table, name, f"{split}/attacked/{m}")) for m in TCAV}
    return found


def _known(row: Mapping[str, float]) -> dict[str, float | None] | None:
    return None if math.isnan(row["value"]) else _nulls(row)


def _sentence(
    best: str, clean: Mapping[str, float], attacked: Mapping[str, float], recovered: float, proven: bool
) -> str:
    before = attacked["value"] - attacked["difference"]
    share = f", which is {100 * recovered:.0f} % of the gap" if math.isfinite(recovered) else ""
    return (
        f"{'The removal is proven' if proven else 'The removal is not proven'}: {best}, chosen on validation images, "
        f"takes balanced accuracy on attacked test images from {100 * before:.1f} to {100 * attacked['value']:.1f} % "
        f"(difference {100 * attacked['difference']:+.1f} points, 95 % interval "
        f"{100 * attacked['difference_low']:+.1f} to {100 * attacked['difference_high']:+.1f}){share}, "
        f"and changes it on clean ones by {100 * clean['difference']:+.1f} points."
    )


def _gap_left(gap: Mapping[str, float]) -> str:
    if math.isnan(gap["ci_low"]):
        return ""
    certain = "which is certain" if gap["ci_low"] > 0 else "which is no certain gap"
    return f"On test images the uncorrected model loses {_points(gap)}, from clean to attacked, {certain}."


def _nulls(row: Mapping[str, float]) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else value for key, value in row.items()}
