"""The page: views of samples and neurons, box-select, thumbnails with heatmaps, ticks, buttons that save."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from dash import Dash, Input, Output, Patch, State, ctx, dcc, html, no_update

from xai_robustness.figures.style import GRAY, PALETTE
from xai_robustness.review.data import ReviewData
from xai_robustness.review.tiles import SMALL, neuron_tile, neurons_at, sample_tile, samples_at

AT_ONCE, NEURONS_AT_ONCE = 60, 12
"""Samples, and neurons, shown at most of one selection."""

MAPLESS = "without heatmaps"
"""Group of the neurons that have none."""

THROUGH = (
    "Below each image stands the relevance that passes through the neuron alone: red speaks for the sample's class, "
    "blue against it. The first neurons of a layer have such heatmaps (reveal.neurons.explained), and those that the "
    "last run knew as ticked."
)


def make_app(data: ReviewData) -> Dash:
    """The page over a study; `make_app(data).run()` serves it."""
    app = Dash(__name__, title=f"Review of {data.title}", suppress_callback_exceptions=True)
    kept = f"Answers are kept in {data.labels.parent}; neither make clean nor a run deletes anything there. {data.note}"
    app.layout = html.Div(
        [
            html.H3(f"Review of {data.title}"),
            html.P(kept, id="kept"),
            dcc.Tabs([_sample_tab(data), _neuron_tab(data)]),
            dcc.Store("ticks", data={}),
            dcc.Store("neuron-ticks", data={}),
        ],
        style={"fontFamily": "sans-serif", "maxWidth": "1200px", "margin": "auto"},
    )
    _sample_callbacks(app, data)
    _neuron_callbacks(app, data)
    _keep_one_state(app)
    _save_samples(app, data, "samples", "samples")
    _save_samples(app, data, "neurons", "references")
    return app


def _sample_tab(data: ReviewData) -> dcc.Tab:
    views = list(data.views)
    content: list[Any] = [
        dcc.Dropdown(views, views[0] if views else None, id="view", clearable=False),
        dcc.Graph(id="samples", figure=scatter(None), config={"displaylogo": False}),
        html.P(id="chosen"),
        html.Button("Save: the ticked ones carry the artifact, the others shown do not", id="save-samples"),
        html.P(id="saved-samples"),
        html.Div(id="shown-samples"),
    ]
    return dcc.Tab(content, label="Samples", id="tab-samples")


def _neuron_tab(data: ReviewData) -> dcc.Tab:
    layers = list(dict.fromkeys(data.neurons["layer"])) if len(data.neurons) else []
    content: list[Any] = [
        dcc.Dropdown(layers, layers[0] if layers else None, id="layer", clearable=False),
        dcc.Graph(id="neurons", figure=scatter(None), config={"displaylogo": False}),
        html.P(id="chosen-neurons"),
        html.P(THROUGH, style=SMALL),
        html.Button("Save neurons: the ticked ones answer to the artifact", id="save-neurons"),
        " ",
        html.Button("Save images: the ticked ones carry the artifact", id="save-references"),
        html.P(id="saved-neurons"),
        html.P(id="saved-references"),
        html.Div(id="shown-neurons"),
    ]
    return dcc.Tab(content, label="Neurons", id="tab-neurons")


def scatter(table: pd.DataFrame | None, axes: tuple[str, str] = ("", "")) -> go.Figure:
    """Points by group, ready for a box-select; each carries its id."""
    figure = go.Figure(layout={"dragmode": "select", "height": 420, "margin": {"l": 40, "r": 10, "t": 20, "b": 40}})
    figure.update_layout(xaxis_title=axes[0], yaxis_title=axes[1], plot_bgcolor="white", legend_itemsizing="constant")
    for i, (group, own) in enumerate(table.groupby("group") if table is not None else ()):
        colour = GRAY if group in ("no suspect", MAPLESS) else PALETTE[i % len(PALETTE)]
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
        Output("shown-samples", "children"),
        Output("chosen", "children"),
        Input("samples", "selectedData"),
        State("ticks", "data"),
    )
    def show(event: dict[str, Any] | None, ticks: dict[str, bool]) -> tuple[list[Any], str]:
        ids = [int(i) for i in selected(event) if int(i) in data.places]
        answers = data.answers()
        said = _said(answers, ticks)
        tiles = [sample_tile(data, i, answers.get(i), said.get(i, False)) for i in ids[:AT_ONCE]]
        return tiles, f"{len(ids)} samples selected, {len(tiles)} shown." if ids else "Draw a box around some samples."


def _said(answers: Mapping[int, bool], ticks: Mapping[str, bool]) -> dict[int, bool]:
    """What was answered of samples and, since then, ticked or unticked."""
    return {**answers, **{int(i): on for i, on in ticks.items()}}


def _neuron_callbacks(app: Dash, data: ReviewData) -> None:
    @app.callback(Output("neurons", "figure"), Input("layer", "value"))
    def draw(layer: str | None) -> go.Figure:
        if layer is None:
            return scatter(None)
        own = data.neurons[data.neurons["layer"] == layer]
        explained = own["neuron"].isin(data.neuron_heatmaps.neurons(layer))
        group = explained.map({True: "with heatmaps", False: MAPLESS})
        table = own.assign(id=[f"{layer}/{k}" for k in own["neuron"]], group=group)
        return scatter(table, ("first axis of the distances", "second axis"))

    @app.callback(
        Output("shown-neurons", "children"),
        Output("chosen-neurons", "children"),
        Input("neurons", "selectedData"),
        Input("layer", "value"),
        State("ticks", "data"),
        State("neuron-ticks", "data"),
    )
    def show(
        event: dict[str, Any] | None, layer: str | None, ticks: dict[str, bool], turned: dict[str, bool]
    ) -> tuple[list[Any], str]:
        names = [str(i) for i in selected(event) if str(i).rpartition("/")[0] == layer]
        own = data.neurons[data.neurons["layer"] == layer].sort_values("rank")
        ranked = [f"{layer}/{k}" for k in own["neuron"]]
        chosen = [name for name in ranked if name in set(names)] if names else ranked
        ticked, said = data.ticked_neurons(), _said(data.answers(), ticks)
        before = set(ticked["layer"].astype(str) + "/" + ticked["neuron"].astype(str))
        on = {**dict.fromkeys(before, True), **turned}
        tiles = [neuron_tile(data, name, on.get(name, False), said) for name in chosen[:NEURONS_AT_ONCE]]
        kind = "selected" if names else "in the layer"
        return tiles, f"{len(chosen)} neurons {kind}, the first {len(tiles)} by rank are shown."

    @app.callback(
        Output("saved-neurons", "children"),
        Input("save-neurons", "n_clicks"),
        State("neuron-ticks", "data"),
        prevent_initial_call=True,
    )
    def save(clicks: int | None, turned: dict[str, bool]) -> Any:
        if not clicks:
            return no_update
        count = data.save_neurons(turned, [name for name, on in turned.items() if on])
        return f"Saved to {data.marked}: {count} neurons."

    @app.callback(Output("neuron-ticks", "data"), Input(neurons_at(), "value"), prevent_initial_call=True)
    def keep(_: list[list[int]]) -> Patch:
        """What is ticked stays so until it is saved, shown or not."""
        ticks = Patch()
        ticks.update({name: bool(value) for name, value in _turned("name").items()})
        return ticks


def _turned(part: str) -> dict[Any, Any]:
    """Values of the boxes that called, by a part of their ids."""
    names = ctx.triggered_prop_ids
    return {names[one["prop_id"]][part]: one["value"] for one in ctx.triggered if one["prop_id"] in names}


def _keep_one_state(app: Dash) -> None:
    """What is ticked in one place is ticked wherever it is shown, and stays so until it is saved."""

    @app.callback(
        Output(samples_at(), "value"),
        Output("ticks", "data"),
        Input(samples_at(), "value"),
        prevent_initial_call=True,
    )
    def turn(_: list[list[int]]) -> tuple[list[Any], Patch]:
        turned = _turned("sample")
        ticks = Patch()
        ticks.update({str(i): bool(value) for i, value in turned.items()})
        return [turned.get(box["id"]["sample"], no_update) for box in ctx.inputs_list[0]], ticks


def _save_samples(app: Dash, data: ReviewData, tab: str, button: str) -> None:
    """Samples shown beside views are answered, ticked or not; of references those that are ticked, or were answered."""

    @app.callback(
        Output(f"saved-{button}", "children"),
        Input(f"save-{button}", "n_clicks"),
        State(samples_at(tab), "value"),
        prevent_initial_call=True,
    )
    def save(clicks: int | None, _: list[list[int]]) -> Any:
        if not clicks:
            return no_update
        boxes = {box["id"]["sample"]: bool(box["value"]) for box in ctx.states_list[0]}
        ticked = [i for i, on in boxes.items() if on]
        judged = list(boxes) if tab == "samples" else [*ticked, *(data.answers().keys() & boxes.keys())]
        if not judged:
            return "Nothing is ticked or shown, so nothing was saved."
        yes, no = data.save_answers(judged, ticked)
        return f"Saved to {data.labels}: {yes} with, {no} without the artifact."
