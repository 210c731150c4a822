"""What the retrieval benchmark says of its cells together: metrics by kind and layer, and labels by strategy."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from reveal_cells import Cell

from xai_robustness.concepts.cav import BASELINES, CavParams
from xai_robustness.concepts.retrieval import best_subject, choose_cav
from xai_robustness.concepts.suspect_evaluation import wilson_interval
from xai_robustness.study import student

RANGES = {"average_precision": (0, 1), "auroc": (0, 1), "kendall_tau": (-1, 1)}
TEST = tuple(RANGES)
RANDOM_ALL = "random, all classes"
BAR, LABELS = 0.9, 20
Found = tuple[Cell, dict, pd.DataFrame]


def chosen_of(metrics: pd.DataFrame, chosen: dict[str, str]) -> dict[str, object]:
    """Test metrics with intervals of the chosen vector, of the one among the default kinds, and of the baselines.

    Each baseline stands for the layer that validation chooses, the best baseline for the one of the three that it
    chooses; all of activations.
    """
    activations = metrics[metrics["feature"] == "activations"]
    subjects = {"chosen": (chosen["layer"], chosen["kind"])}
    default = choose_cav(activations[activations["kind"].isin(CavParams().kinds)])
    subjects |= {"chosen_of_default_kinds": default} if default else {}
    subjects |= {name: best_subject(activations[activations["kind"] == name]) for name in BASELINES}
    subjects["best_baseline"] = best_subject(activations[activations["kind"].isin(BASELINES)])
    return {name: _test_metrics(activations, *subject) for name, subject in subjects.items()}


def _test_metrics(metrics: pd.DataFrame, layer: str, kind: str) -> dict[str, object]:
    own = metrics[(metrics["layer"] == layer) & (metrics["kind"] == kind)].set_index("metric")
    intervals = own[["value", "ci_low", "ci_high"]].astype(float).T.to_dict("list")
    return {"layer": layer, "kind": kind, **{k: [round(x, 4) for x in intervals[f"test/biased/{k}"]] for k in TEST}}


def metric_rows(found: Sequence[Found]) -> list[dict[str, object]]:
    """Test metrics by study, feature, kind and layer; layer "by validation" is the one that each cell chooses.

    Means over the cells with Student's intervals, cut where the metric ends; the first three rows of a study say in
    how many of the cells average precision reaches the bar (Wilson's interval).
    """
    rows = []
    for study, own in by_study(found):
        for name in ("chosen", "chosen_of_default_kinds", "best_baseline"):
            values = {metric: [result[name][metric][0] for _, result, _ in own] for metric in TEST}
            reached = sum(value >= BAR for value in values["average_precision"])
            row: dict[str, object] = {"study": study, "feature": "activations", "kind": name, "layer": "chosen"}
            row |= {"cells": len(own)} | {metric: _mean(v, *RANGES[metric]) for metric, v in values.items()}
            rows.append(row | {"reached_0.9": reached, "share": _rounded(wilson_interval(reached, len(own)))})
        rows += _rows_by_kind(study, pd.concat([_tests(metrics) for _, _, metrics in own]))
    return rows


def _tests(metrics: pd.DataFrame) -> pd.DataFrame:
    """Test metrics of a cell, a row a feature, kind and layer, with rows for the layer that validation chooses."""
    tests = metrics[metrics["metric"].isin([f"test/biased/{name}" for name in TEST])]
    table = tests.pivot_table(index=["feature", "kind", "layer"], columns="metric", values="value", sort=False)
    table = table.reset_index().rename(columns=lambda name: name.rpartition("/")[2])
    best = {key: best_subject(own)[0] for key, own in metrics.groupby(["feature", "kind"], sort=False)}
    picked = [
        table[(table["feature"] == f) & (table["kind"] == k) & (table["layer"] == v)] for (f, k), v in best.items()
    ]
    return pd.concat([pd.concat(picked).assign(layer="by validation"), table])


def _rows_by_kind(study: str, table: pd.DataFrame) -> list[dict[str, object]]:
    rows = []
    for (feature, kind, layer), own in table.groupby(["feature", "kind", "layer"], sort=False):
        row = {"study": study, "feature": feature, "kind": kind, "layer": layer, "cells": len(own)}
        rows.append(row | {metric: _mean(own[metric], *RANGES[metric]) for metric in TEST})
    return rows


def effort_rows(found: Sequence[Found], most: Mapping[str, int]) -> list[dict[str, object]]:
    """Labels by study and strategy; a repeat that never reaches the target counts with the most labels given.

    The interval is Student's over the means of the cells; `within_20` counts repeats that needed 20 labels or fewer.
    """
    rows = []
    for study, own in by_study(found):
        right = sum(result["reveal_names_the_class"] for _, result, _ in own)
        for strategy, limit in most.items():
            needed = [result["labels"][strategy] for _, result, _ in own]
            means = [float(np.mean([limit if n is None else n for n in repeats])) for repeats in needed]
            flat = [n for repeats in needed for n in repeats]
            row: dict[str, object] = {"study": study, "strategy": strategy, "cells": len(own), "class_named": right}
            row |= {"repeats": len(flat), "reached": sum(n is not None for n in flat)}
            row |= {"within_20": sum(n is not None and n <= LABELS for n in flat), "most_labels": limit}
            rows.append(row | {"labels": _mean(means, 1, limit)})
    return rows


def by_study(found: Sequence[Found]) -> list[tuple[str, list[Found]]]:
    """The cells of every study, and of all together."""
    groups: dict[str, list[Found]] = {}
    for one in found:
        groups.setdefault(one[0].study, []).append(one)
    return [*groups.items(), ("all", list(found))]


def _mean(values: Iterable[float], least: float, most: float) -> list[float | None]:
    mean, *bounds = student(np.asarray(list(values), float))
    return _rounded([mean, *np.clip(bounds, least, most)])


def _rounded(numbers: Iterable[float]) -> list[float | None]:
    return [round(float(x), 4) if np.isfinite(x) else None for x in numbers]
