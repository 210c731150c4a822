"""What a run says at its end: a small table, the verdict, and where to look next."""

from collections.abc import Collection
from typing import Any

import click
import pandas as pd
from kedro.io import DataCatalog

from xai_robustness.io.datasets import Figure, Page, versioned

COLUMNS = {
    "clean": "test/clean/balanced_accuracy",
    "attacked": "test/attacked/balanced_accuracy",
    "artifact relevance": "test/attacked/absolute_artifact_relevance",
}


def summarize(catalog: DataCatalog, study: str, seed: int, outputs: Collection[str]) -> None:
    """Print the summary of the outputs that a run was asked for; what is absent is left out.

    Args:
        catalog: versions pinned to the current ones.
        study: name of the study.
        seed: seed of the run.
        outputs: data sets that were asked for.
    """
    tables = {
        name: _load(catalog, name)
        for name in ("selection", "correction_metrics", "relevance_metrics", "verdict")
        if name in outputs
    }
    if all(value is not None for value in tables.values()) and len(tables) == 4:
        table = summary_table(tables["selection"], tables["correction_metrics"], tables["relevance_metrics"])
        click.echo(f"\nStudy {study}, seed {seed}; test images, 95 % intervals")
        click.echo(table.to_string(index=False))
        click.echo(f"\nVerdict: {tables['verdict']['sentence']}")
    shown = [d for name in sorted(outputs) if isinstance(d := versioned(catalog, name), Figure | Page) and d.exists()]
    if shown:
        click.echo("\nTo look at:")
        for picture in shown:
            click.echo(f"  {picture.path()}")
        click.echo(f"Flow:     make viz STUDY={study}\nRuns:     make mlflow")


def _load(catalog: DataCatalog, name: str) -> Any:
    dataset = versioned(catalog, name)
    return dataset.load() if dataset and dataset.exists() else None


def summary_table(selection: dict[str, Any], metrics: pd.DataFrame, relevance: pd.DataFrame) -> pd.DataFrame:
    """One row for vanilla and for the best candidate of each method.

    Args:
        selection: `best_by_method` maps a method to its best candidate, `best` names the winner or is null.
        metrics: correction_metrics.
        relevance: relevance_metrics.

    Returns:
        Columns method, candidate, selected, then the three quantities as `value [low, high]`.
    """
    both = pd.concat([metrics, relevance], ignore_index=True)
    rows = []
    for method, candidate in {"uncorrected": "vanilla", **selection["best_by_method"]}.items():
        row = {"method": method, "candidate": candidate, "selected": "*" if candidate == selection["best"] else ""}
        for title, metric in COLUMNS.items():
            found = both[(both.candidate == candidate) & (both.metric == metric)]
            row[title] = _text(found.iloc[0]) if len(found) else "-"
        rows.append(row)
    return pd.DataFrame(rows)


def _text(row: pd.Series) -> str:
    if pd.isna(row.value):
        return "undefined"
    return f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"


def seed_results(catalog: DataCatalog) -> pd.DataFrame:
    """One row a candidate of one finished run: clean and attacked balanced accuracy, gap, recovery, loss, relevance.

    Args:
        catalog: a finished run of the whole graph, versions pinned.

    Returns:
        Columns candidate, method, layer, strength, selected, clean, attacked, gap (of the uncorrected model),
        gap_recovered (share of it), clean_loss, artifact_relevance (NaN where it was not measured).
    """
    metrics, relevance = catalog.load("correction_metrics"), catalog.load("relevance_metrics")
    selection = catalog.load("selection")
    wide = metrics.pivot_table(index="candidate", columns="metric", values="value", sort=False)
    table = metrics.drop_duplicates("candidate")[["candidate", "method", "layer", "strength"]].set_index("candidate")
    table["selected"] = table.index == selection["best"]
    table["clean"], table["attacked"] = wide[COLUMNS["clean"]], wide[COLUMNS["attacked"]]
    reference = table.loc["vanilla"]
    table["gap"] = reference.clean - reference.attacked
    table["gap_recovered"] = (table.attacked - reference.attacked) / table.gap
    table["clean_loss"] = reference.clean - table.clean
    measured = relevance[relevance.metric == COLUMNS["artifact relevance"]].set_index("candidate").value
    table["artifact_relevance"] = measured
    return table.reset_index()
