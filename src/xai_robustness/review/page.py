"""The page: views of samples and neurons, box-select, thumbnails, ticks, one button that saves."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from dash import Dash, Input, Output, State, dcc, html, no_update

from xai_robustness.figures.style import GRAY, PALETTE
from xai_robustness.review.data import ReviewData

AT_ONCE = 60
"""Samples shown at most of one selection."""

NEURONS_AT_ONCE, REFERENCES = 12, 5
TILE = {"display": "inline-block", "margin": "4px", "padding": "4px", "border": "1px solid #dddddd"}


def make_app(data: ReviewData) -> Dash:
    """The page over a study; `make_app(data).run()` serves it."""
    app = Dash(__name__, title=f"Review of {data.title}", suppress_callback_exceptions=True)
    views = list(data.views)
    layers = list(dict.fromkeys(data.neurons["layer"])) if len(data.neurons) else []
    samples = [
        dcc.Dropdown(views, views[0] if views else None, id="view", clearable=False),
        dcc.Graph(id="samples", figure=scatter(None), config={"displaylogo": False}),
        html.P(id="chosen"),
        html.Button("Save: the ticked ones carry the artifact, the others shown do not", id="save"),
        html.P(id="saved"),
        dcc.Checklist([], [], id="ticks", inline=True),
    ]
    neurons = [
        dcc.Dropdown(layers, layers[0] if layers else None, id="layer", clearable=False),
        dcc.Graph(id="neurons", figure=scatter(None), config={"displaylogo": False}),
        html.P(id="chosen-neurons"),
        html.Button("Save: the ticked neurons answer to the artifact", id="save-neurons"),
        html.P(id="saved-neurons"),
        dcc.Checklist([], [], id="neuron-ticks"),
    ]
    tabs = [dcc.Tab(samples, label="Samples", id="tab-samples"), dcc.Tab(neurons, label="Neurons", id="tab-neurons")]
    kept = f"Answers are kept in {data.labels.parent}; neither make clean nor a run deletes anything there. {data.note}"
    app.layout = html.Div(
        [html.H3(f"Review of {data.title}"), html.P(kept, id="kept"), dcc.Tabs(tabs)],
        style={"fontFamily": "sans-serif", "maxWidth": "1200px", "margin": "auto"},
    )
    _sample_callbacks(app, data)
    _neuron_callbacks(app, data)
    return app


def scatter(table: pd.DataFrame | None, axes: tuple[str, str] = ("", "")) -> go.Figure:
    """Points by group, ready for a box-select; each carries its id."""
    figure = go.Figure(layout={"dragmode": "select", "height": 420, "margin": {"l": 40, "r": 10, "t": 20, "b": 40}})
    figure.update_layout(xaxis_title=axes[0], yaxis_title=axes[1], plot_bgcolor="white", legend_itemsizing="constant")
    for i, (group, own) in enumerate(table.groupby("group") if table is not None else ()):
        colour = GRAY if group == "no suspect" else PALETTE[i % len(PALETTE)]
        trace = go.Scattergl if len(own) > 5000 else go.Scatter
        figure.add_trace(
            trace(
                x=own["x"].tolist(),
                y=own["y"].tolist(),
                customdata=own["id"].tolist(),
                mode="markers",
                name=str(group),
                marker={"color": colour, "size": 6},
                hovertemplate="%{customdata}<extra>" + str(group) + "</extra>",
            )
        )
    return figure


def selected(event: dict[str, Any] | None) -> list[Any]:
    """Ids of the points of a selection."""
    return [point["customdata"] for point in (event or {}).get("points", []) if "customdata" in point]


def _sample_callbacks(app: Dash, data: ReviewData) -> None:
    @app.callback(Output("samples", "figure"), Input("view", "value"))
    def draw(view: str | None) -> go.Figure:
        if view is None:
            return scatter(None)
        table = data.views[view].rename(columns={"sample_id": "id"})
        return scatter(table, ("rank", view) if view.startswith("score") else ("first axis", "second axis"))

    @app.callback(
        Output("ticks", "options"),
        Output("ticks", "value"),
        Output("chosen", "children"),
        Input("samples", "selectedData"),
    )
    def show(event: dict[str, Any] | None) -> tuple[list[dict[str, Any]], list[int], str]:
        ids = [int(i) for i in selected(event) if int(i) in data.places]
        said = data.answers()
        options = [{"label": sample_tile(data, i, said.get(i)), "value": i} for i in ids[:AT_ONCE]]
        words = f"{len(ids)} samples selected, {len(options)} shown." if ids else "Draw a box around some samples."
        return options, [i for i in ids[:AT_ONCE] if said.get(i)], words

    @app.callback(
        Output("saved", "children"),
        Input("save", "n_clicks"),
        State("ticks", "options"),
        State("ticks", "value"),
        prevent_initial_call=True,
    )
    def save(_: int | None, options: list[dict[str, Any]], ticked: list[int]) -> Any:
        if not options:
            return "Nothing is shown, so nothing was saved."
        yes, no = data.save_answers([option["value"] for option in options], ticked)
        return f"Saved to {data.labels}: {yes} with, {no} without the artifact."


def sample_tile(data: ReviewData, sample_id: int, said: bool | None) -> html.Div:
    """Image and heatmap of a sample, with what was said of it."""
    words = {None: "not reviewed", True: "artifact", False: "no artifact"}[said]
    shown = [html.Img(src=data.picture(sample_id), height=72)]
    if sample_id in data.heatmaps:
        shown.append(html.Img(src=data.picture(sample_id, heatmap=True), height=72))
    return html.Div([*shown, html.Div(f"{sample_id}, {words}", style={"fontSize": "11px"})], style=TILE)


def _neuron_callbacks(app: Dash, data: ReviewData) -> None:
    @app.callback(Output("neurons", "figure"), Input("layer", "value"))
    def draw(layer: str | None) -> go.Figure:
        if layer is None:
            return scatter(None)
        own = data.neurons[data.neurons["layer"] == layer]
        named = {"id": [f"{layer}/{k}" for k in own["neuron"]], "group": "neurons"}
        return scatter(own.assign(**named), ("first axis of the distances", "second axis"))

    @app.callback(
        Output("neuron-ticks", "options"),
        Output("neuron-ticks", "value"),
        Output("chosen-neurons", "children"),
        Input("neurons", "selectedData"),
        Input("layer", "value"),
    )
    def show(event: dict[str, Any] | None, layer: str | None) -> tuple[list[dict[str, Any]], list[str], str]:
        names = [str(i) for i in selected(event) if str(i).rpartition("/")[0] == layer]
        own = data.neurons[data.neurons["layer"] == layer].sort_values("rank")
        ranked = [f"{layer}/{k}" for k in own["neuron"]]
        chosen = [name for name in ranked if name in set(names)] if names else ranked
        ticked = data.ticked_neurons()
        before = set(ticked["layer"].astype(str) + "/" + ticked["neuron"].astype(str))
        options = [{"label": neuron_tile(data, name), "value": name} for name in chosen[:NEURONS_AT_ONCE]]
        kind = "selected" if names else "in the layer"
        words = f"{len(chosen)} neurons {kind}, the first {len(options)} by rank are shown."
        return options, [name for name in chosen[:NEURONS_AT_ONCE] if name in before], words

    @app.callback(
        Output("saved-neurons", "children"),
        Input("save-neurons", "n_clicks"),
        State("neuron-ticks", "options"),
        State("neuron-ticks", "value"),
        prevent_initial_call=True,
    )
    def save(clicks: int | None, options: list[dict[str, Any]], ticked: list[str]) -> Any:
        if not clicks:
            return no_update
        count = data.save_neurons([option["value"] for option in options], ticked)
        return f"Saved to {data.marked}: {count} neurons."


def neuron_tile(data: ReviewData, name: str) -> html.Div:
    """Reference samples of a neuron by relevance and by activation."""
    layer, _, neuron = name.rpartition("/")
    own = data.references[(data.references["layer"] == layer) & (data.references["neuron"] == int(neuron))]
    rows = []
    for by in ("relevance", "activation"):
        ids = own[own["by"] == by].sort_values("place")["sample_id"].head(REFERENCES)
        tiles = [html.Img(src=data.picture(int(i)), height=56, style={"margin": "1px"}) for i in ids]
        rows.append(
            html.Div([html.Span(f"most {by} ", style={"fontSize": "11px"}), *tiles], style={"display": "inline-block"})
        )
    return html.Div([html.Div(name, style={"fontSize": "12px"}), *rows], style=TILE)
