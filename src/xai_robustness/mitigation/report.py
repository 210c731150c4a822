"""The verdict on one page: a self-contained HTML document with its figures, readable without the project."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from xai_robustness.figures.html import document, embedded
from xai_robustness.mitigation.base import REFERENCE

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:68rem;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #ccc}
.verdict{border-left:.5rem solid;padding:.7rem 1rem;margin:1rem 0;background:#f6f6f6;font-size:1.05rem}
.proven{border-color:#009e73}.open{border-color:#d55e00}
table{border-collapse:collapse;width:100%;font-size:.8rem}th,td{padding:.3rem .4rem;text-align:left;vertical-align:top}
th{border-bottom:2px solid #999}td{border-bottom:1px solid #ddd}td.n,th.n{text-align:right}td.n{white-space:nowrap}
tr.chosen{background:#e8f4ee}figure{margin:1.2rem 0}img{max-width:100%;height:auto}
figcaption,.small{color:#555;font-size:.85rem}code{font-size:.85em;overflow-wrap:break-word}
"""
CRITERIA = {
    "gain_on_attacked_low": "Lower end of the interval of the gain on attacked images",
    "gap_recovered": "Share of the gap that is won back",
    "clean_loss": "Balanced accuracy lost on clean images",
}
COLUMNS = (
    ("Clean balanced accuracy", "test/clean/balanced_accuracy"),
    ("Attacked balanced accuracy", "test/attacked/balanced_accuracy"),
    ("Gap recovered", "test/attacked/gap_recovered"),
    ("Worst group", "test/attacked/worst_group_accuracy"),
    ("Artifact relevance", "test/attacked/artifact_relevance"),
    ("Artifact relevance, absolute", "test/attacked/absolute_artifact_relevance"),
    ("TCAV distance from 0.5", "test/attacked/tcav_distance"),
    ("TCAV, chance (95 %)", "test/attacked/tcav_random_high"),
)
LEGEND = (
    "The best of each method was chosen on validation images. Worst group: the smallest accuracy of a class with or "
    "without the artifact. Artifact relevance: share of the explanation that lies on the artifact, by both published "
    "definitions. TCAV: how far the share of positive derivatives along the artifact's direction is from one half; "
    "random directions stay below the chance column in 95 % of cases. Empty: undefined or not measured."
)
RELATIONS = {">": "&gt;", ">=": "&ge;", "<=": "&le;"}


def report_html(
    study: str,
    verdict: Mapping[str, Any],
    selection: Mapping[str, Any],
    tables: Sequence[pd.DataFrame],
    figures: Mapping[str, bytes],
) -> str:
    """The report of one study and seed.

    Args:
        study: its name.
        verdict: of `select.verdict`, with artifact, seed and fingerprints.
        selection: of `Selection.to_json`.
        tables: tables of metrics with candidate and METRIC_COLUMNS.
        figures: caption -> PNG.

    Returns:
        An HTML document that needs no other file and runs no script.
    """
    proven = verdict["status"] == "proven"
    artifact = verdict.get("artifact", {})
    about = f"{artifact.get('kind', 'artifact')} in class {', '.join(map(str, artifact.get('attacked_classes', [])))}"
    parts = [
        f"<h1>Is the shortcut removed? Study {escape(study)}</h1>",
        f"<p class=small>Artifact: {escape(about)}. Seed {verdict.get('seed', 0)}. Metrics are of test images, which "
        "took no part in any choice; brackets are 95 % bootstrap intervals.</p>",
        f"<div class='verdict {'proven' if proven else 'open'}'><b>{escape(str(verdict['status']).capitalize())}.</b> "
        f"{escape(verdict['sentence'])}</div>",
        _criteria(verdict["criteria"]),
        _suspicion(verdict.get("evidence", {}).get("suspicion", {})),
        "<h2>Every method's best correction</h2>",
        _methods(selection, pd.concat([table for table in tables if len(table)], ignore_index=True)),
        f"<p class=small>{LEGEND}</p>",
        *[embedded(caption, png) for caption, png in figures.items()],
        _fingerprints(verdict.get("fingerprints", {})),
    ]
    return document(f"{study}: verdict", STYLE, "".join(parts))


def _criteria(criteria: Sequence[Mapping[str, Any]]) -> str:
    if not criteria:
        return "<p>No correction was selected, so nothing had to be proven.</p>"
    rows = "".join(
        f"<tr><td>{CRITERIA.get(c['name'], escape(c['name']))}</td><td class=n>{_number(c['value'])}</td>"
        f"<td class=n>{RELATIONS[c['relation']]} {_number(c['threshold'])}</td>"
        f"<td>{'yes' if c['passed'] else 'no'}</td></tr>"
        for c in criteria
    )
    head = "<tr><th>Asked for</th><th class=n>Measured</th><th class=n>Bound</th><th>Met</th></tr>"
    return f"<table>{head}{rows}</table>"


def _suspicion(found: Mapping[str, Mapping[str, Any] | None]) -> str:
    """A sentence a model on which reveal was run again."""
    words = {"before": "Before the correction", "after": "After it"}
    lines = []
    for when, one in found.items():
        if one is None:
            continue
        place = f"lists the artifact at place {one['place']}" if one["listed"] else "does not list the artifact"
        lines.append(f"{words[when]} reveal {place} of {one['suspects']} suspects ({one['images']} training images).")
    return f"<p>{escape(' '.join(lines))}</p>" if lines else ""


def _methods(selection: Mapping[str, Any], rows: pd.DataFrame) -> str:
    shown = {"uncorrected": REFERENCE, **selection["best_by_method"]}
    used = [(title, metric) for title, metric in COLUMNS if (rows.metric == metric).any()]
    head = "".join(f"<th class=n>{title}</th>" for title, _ in used)
    lines = []
    for method, candidate in shown.items():
        mine = rows[rows.candidate == candidate].drop_duplicates("metric").set_index("metric")
        cells = "".join(f"<td class=n>{_cell(mine, metric)}</td>" for _, metric in used)
        mark = " class=chosen" if candidate == selection["best"] else ""
        lines.append(f"<tr{mark}><td><b>{escape(method)}</b><br><code>{escape(candidate)}</code></td>{cells}</tr>")
    return f"<table><tr><th>Method</th>{head}</tr>{''.join(lines)}</table>"


def _cell(rows: pd.DataFrame, metric: str) -> str:
    if metric not in rows.index:
        return ""
    row = rows.loc[[metric], ["value", "ci_low", "ci_high"]]
    value, low, high = row.to_numpy(dtype=float)[0].tolist()
    if math.isnan(value):
        return ""
    return _number(value) if math.isnan(low) else f"{_number(value)}<br>[{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _fingerprints(marks: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(mark)}</code></td></tr>" for name, mark in marks.items()
    )
    return f"<h2>Fingerprints of data and models</h2><table>{rows}</table>" if rows else ""
