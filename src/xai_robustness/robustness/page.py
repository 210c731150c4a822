"""The one table on one page: a self-contained HTML document with its figures."""

import math
from collections.abc import Mapping
from html import escape

import pandas as pd

from xai_robustness.figures.html import document, embedded

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:72rem;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.6rem}table{border-collapse:collapse;width:100%;font-size:.85rem}
th,td{padding:.3rem .5rem;text-align:right;vertical-align:top;border-bottom:1px solid #ddd;white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal}th{border-bottom:2px solid #999}
td.sure{font-weight:600}.small,figcaption,td span{color:#555;font-size:.85em}
figure{margin:1.4rem 0}img{max-width:100%;height:auto}
"""
LEGEND = (
    "Test images; brackets are 95 % bootstrap intervals. The second line of a cell is the paired difference to the "
    "uncorrected model with its p-value; bold where p < 0.05. The p-values are not adjusted for the number of cells."
)


def robustness_html(study: str, table: pd.DataFrame, figures: Mapping[str, bytes]) -> str:
    """The page of one study and seed.

    Args:
        study: its name.
        table: the one table, columns TABLE_COLUMNS; the first model is the uncorrected one.
        figures: caption -> PNG.

    Returns:
        An HTML document that needs no other file and runs no script.
    """
    models = list(dict.fromkeys(table["model"]))
    head = "".join(f"<th>{escape(str(model).replace('_', ' '))}</th>" for model in models)
    lines = []
    for metric in dict.fromkeys(table["metric"]):
        rows = table[table["metric"] == metric].set_index("model")
        cells = "".join(_cell(rows.loc[[model]]) if model in rows.index else "<td></td>" for model in models)
        n = int(rows["n"].max())
        name = str(metric).removeprefix("test/").replace("_", " ").replace("/", ", ")
        lines.append(f"<tr><td>{escape(name)}<br><span>n = {n}</span></td>{cells}</tr>")
    pictures = "".join(embedded(caption, png) for caption, png in figures.items())
    body = (
        f"<h1>Robustness of the models of study {escape(study)}</h1><p class=small>{LEGEND}</p>"
        f"<table><tr><th>Quantity</th>{head}</tr>{''.join(lines)}</table>{pictures}"
    )
    return document(f"{study}: robustness", STYLE, body)


def _cell(row: pd.DataFrame) -> str:
    columns = ["value", "ci_low", "ci_high", "difference", "p_value"]
    value, low, high, difference, p = row[columns].to_numpy(dtype=float)[0].tolist()
    text = f"{value:.3f}<br><span>[{low:.3f}, {high:.3f}]</span>"
    if math.isnan(p):
        return f"<td>{text}</td>"
    sure = " class=sure" if p < 0.05 else ""
    return f"<td{sure}>{text}<br><span>{difference:+.3f}, p {'&lt; 0.001' if p < 0.001 else f'= {p:.3f}'}</span></td>"
