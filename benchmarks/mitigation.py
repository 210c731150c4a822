"""Every correction on every study, artifact, rate, architecture and seed: `make bench-mitigation`.

Each cell runs the whole chain, from the data to the verdict, in a scratch project below `--folder`; a finished cell is
kept, and an interrupted one goes on with what it has. `--limit` stops after so many new cells; the results name what
was run.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from mitigation_cells import STUDIES, Cell, cells, run, table_of
from records import write_record

from xai_robustness.study import student

RESULTS = Path(__file__).parent / "results" / "mitigation.json"
METRICS = {
    "attacked gap recovered": ("correction_metrics.csv", "test/attacked/gap_recovered", "value", 1),
    "clean loss": ("correction_metrics.csv", "test/clean/balanced_accuracy", "difference", -1),
    "artifact relevance": ("relevance_metrics.csv", "test/attacked/artifact_relevance", "value", 1),
    "TCAV distance from 0.5": ("tcav_metrics.csv", "test/attacked/tcav_distance", "value", 1),
}
LOCALIZABLE = ("ruler", "timestamp", "band_aid", "dark_corner")
LOCALIZATION = ("artifact_relevance", "iou", "iou_area", "iou_random_pairing", "iou_gradient", "iou_times_area")


def rows_of(cell: Cell, results: Path) -> list[dict[str, object]]:
    """What the best of each method, chosen on validation images, does on test images; and the selected one."""
    selection = json.loads((results / "selection.json").read_text())
    seconds = json.loads((results / "cell.json").read_text())["seconds"]
    tables = {name: table_of(results, name) for name, *_ in METRICS.values()}
    chosen = {"uncorrected": "vanilla", **selection["best_by_method"]}
    chosen |= {"selected": selection["best"]} if selection["best"] else {}
    rows = []
    for method, candidate in chosen.items():
        row: dict[str, object] = {"method": method, "candidate": candidate, "seconds": seconds.get(candidate)}
        for title, (name, metric, column, sign) in METRICS.items():
            table = tables[name]
            found = table[(table["candidate"] == candidate) & (table["metric"] == metric)][column]
            row[title] = sign * float(found.iloc[0]) if len(found) and np.isfinite(found.iloc[0]) else None
        table = tables["correction_metrics.csv"].query("metric == 'test/attacked/balanced_accuracy'")
        gain = table[table["candidate"] == candidate]["difference"]
        row["gain"] = float(gain.iloc[0]) if np.isfinite(gain.iloc[0]) else 0.0  # the reference has no difference
        rows.append(vars(cell) | row | gap_of(tables["correction_metrics.csv"]))
    return rows


def gap_of(metrics: pd.DataFrame) -> dict[str, object]:
    """What the uncorrected model loses on attacked test images, and whether its interval lies above 0."""
    rows = metrics[(metrics["candidate"] == "vanilla") & (metrics["metric"] == "test/attacked/balanced_accuracy_gap")]
    return {"gap": float(rows["value"].iloc[0]), "gap_is_certain": bool(rows["ci_low"].iloc[0] > 0)}


def pooled(rows: list[dict[str, object]], n_boot: int = 10_000) -> list[dict[str, object]]:
    """What corrections of localizable artifacts win back of all their gaps together: sum of gains over sum of gaps.

    So cells with hardly a gap do not decide. Each method's best and the selected correction, over the cells whose gap
    on test images is certain; and the selected one over all cells that have one. Intervals: bootstrap over cells for
    the share, Student's for the clean loss.
    """
    table = pd.DataFrame(rows)
    table = table[table["artifact"].isin(LOCALIZABLE)]
    certain, every = table[table["gap_is_certain"]], table[table["method"] == "selected"]
    groups = [(study, method, True, own) for (study, method), own in certain.groupby(["study", "method"], sort=False)]
    groups += [("all", method, True, own) for method, own in certain.groupby("method", sort=False)]
    found: list[dict[str, object]] = []
    for study, method, only, own in [*groups, ("all", "selected", False, every)]:
        gains, gaps, losses = (own[name].to_numpy(float) for name in ("gain", "gap", "clean loss"))
        drawn = np.random.default_rng(0).integers(0, len(own), (n_boot, len(own)))
        shares = gains[drawn].sum(1) / gaps[drawn].sum(1)
        row: dict[str, object] = {"study": study, "method": method, "certain_gaps_only": only, "cells": len(own)}
        row["share_recovered"] = [float(gains.sum() / gaps.sum()), *np.quantile(shares, [0.025, 0.975]).tolist()]
        row["mean_of_shares"] = float(own["attacked gap recovered"].mean())
        found.append(row | {"clean_loss": [float(x) for x in student(losses)]})
    return found


def localization_of(cell: Cell, results: Path) -> dict[str, object]:
    """Localization and its controls; empty where no artifact was confirmed or it has no place."""
    table = table_of(results, "localization_metrics.csv")
    found = dict(zip(table["metric"], table["value"]))
    values = {name: found.get(f"test/attacked/{name}") for name in LOCALIZATION}
    return vars(cell) | {k: None if v is None or not np.isfinite(v) else float(v) for k, v in values.items()}


def summary(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Mean over the cells with Student's 95 % interval, and their number, for every study, model and method."""
    table, found = pd.DataFrame(rows), []
    for (study, model, method), own in table.groupby(["study", "model", "method"], sort=False):
        row: dict[str, object] = {"study": study, "model": model, "method": method, "cells": len(own)}
        for title in (*METRICS, "seconds"):
            values = own[title].dropna().to_numpy(float)
            numbers = student(values) if len(values) else (np.nan,) * 3
            row[title] = [None if np.isnan(v) else round(float(v), 4) for v in numbers]
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", default=list(STUDIES), help=f"of {', '.join(STUDIES)}")
    parser.add_argument("--limit", type=int, default=None, help="new cells at most")
    parser.add_argument("--folder", type=Path, default=Path("data") / "bench_mitigation")
    parser.add_argument("--device", default="cpu", help="where everything is computed")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every N-th cell from I")
    given = parser.parse_args()
    rows, places, done, new = [], [], [], 0
    wanted = list(cells(given.studies))[given.part[0] :: given.part[1]]
    for cell in wanted:
        finished = (given.folder / "cells" / cell.name / "cell.json").exists()
        if not finished and given.limit is not None and new >= given.limit:
            continue
        results = run(cell, given.folder, given.device)
        new += not finished
        rows += rows_of(cell, results)
        places.append(localization_of(cell, results))
        done.append(cell.name)
        print(f"{len(done)} of {len(wanted)}: {cell.name}")
    versions = {name: version(name) for name in ("torch", "zennit", "scikit-learn")}
    record: dict[str, object] = {"machine": platform.processor() or platform.machine(), "versions": versions}
    record |= {"cells_planned": len(wanted), "cells_run": done}
    table, together = (summary(rows), pooled(rows)) if rows else ([], [])
    record |= {"rows": table, "pooled": together, "localization": places, "results": rows}
    write_record(RESULTS, record)
    for row in together:
        print(row)
    for row in table:
        print({key: value[0] if isinstance(value, list) else value for key, value in row.items()})


if __name__ == "__main__":
    main()
