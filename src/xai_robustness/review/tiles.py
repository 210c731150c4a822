"""What can be ticked on the page: samples and neurons, each with its pictures."""

from collections.abc import Mapping
from typing import Any

from dash import ALL, dcc, html

from xai_robustness.review.data import ReviewData

REFERENCES = 6
"""References of a neuron shown of each kind."""

SMALL = {"fontSize": "11px"}
TILE = {"display": "inline-block", "margin": "2px", "padding": "3px", "border": "1px solid #dddddd"}
NEURON = {"borderTop": "1px solid #999999", "padding": "6px 0"}
SIDE_BY_SIDE = {"display": "flex", "flexWrap": "wrap", "gap": "10px"}


def samples_at(tab: Any = ALL, place: Any = ALL, sample: Any = ALL) -> dict[str, Any]:
    """Id of a sample's tick at one place of a tab, or the pattern of many: a sample may be shown more than once."""
    return {"kind": "sample", "tab": tab, "place": place, "sample": sample}


def neurons_at(name: Any = ALL) -> dict[str, Any]:
    """Id of a neuron's tick, `layer/number`, or the pattern of all."""
    return {"kind": "neuron", "name": name}


def _tick(where: dict[str, Any], label: Any, ticked: bool) -> dcc.Checklist:
    return dcc.Checklist(
        [{"label": label, "value": 1}], [1] if ticked else [], id=where, className=where["kind"], style=TILE
    )


def sample_tile(data: ReviewData, sample_id: int, answer: bool | None, ticked: bool) -> dcc.Checklist:
    """Image and heatmap of a sample to tick, with what was answered before."""
    words = {None: "not reviewed", True: "artifact", False: "no artifact"}[answer]
    shown = [html.Img(src=data.picture(sample_id), height=72)]
    if sample_id in data.heatmaps:
        shown.append(html.Img(src=data.picture(sample_id, heatmap=True), height=72))
    label = html.Div([*shown, html.Div(f"{sample_id}, {words}", style=SMALL)])
    return _tick(samples_at("samples", "view", sample_id), label, ticked)


def neuron_tile(data: ReviewData, name: str, ticked: bool, said: Mapping[int, bool]) -> html.Div:
    """A neuron to tick, its reference samples by relevance and by activation, to tick too, and images made for it."""
    layer, _, neuron = name.rpartition("/")
    own = data.references[(data.references["layer"] == layer) & (data.references["neuron"] == int(neuron))]
    maps = data.concept_pictures(layer, int(neuron))
    rows = []
    for by in ("relevance", "activation"):
        ids = own[own["by"] == by].sort_values("place")["sample_id"].head(REFERENCES).tolist()
        place = f"{name} {by}"
        tiles = [_tick(samples_at("neurons", place, i), _reference(data, i, maps), said.get(i, False)) for i in ids]
        rows.append(html.Div([html.Div(f"most {by}", style=SMALL), *tiles]))
    made = [html.Img(src=address, height=64, style=TILE) for address in data.made_pictures(layer, int(neuron))]
    if made:
        rows.append(html.Div([html.Div("made for it", style=SMALL), *made[:REFERENCES]], className="made"))
    return html.Div(
        [_tick(neurons_at(name), f"neuron {name}", ticked), html.Div(rows, style=SIDE_BY_SIDE)], style=NEURON
    )


def _reference(data: ReviewData, sample_id: int, maps: Mapping[int, str]) -> html.Div:
    """A reference sample above its heatmap through the neuron, where that is kept."""
    addresses = [data.picture(sample_id), *([maps[sample_id]] if sample_id in maps else [])]
    shown = [html.Img(src=address, height=64, style={"display": "block"}) for address in addresses]
    return html.Div([*shown, html.Div(str(sample_id), style=SMALL)])
