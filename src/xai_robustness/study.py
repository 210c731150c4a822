"""Several seeds of one study, and their summary: `python -m xai_robustness.study --env breastmnist --seeds "0 1 2"`."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import pandas as pd
from kedro.framework.cli.utils import _split_params
from kedro.framework.startup import bootstrap_project
from kedro.utils import find_kedro_project
from scipy import stats

from xai_robustness.figures.study import summary
from xai_robustness.pipelines.summary import seed_results
from xai_robustness.session import IncrementalSession

log = logging.getLogger(__name__)
SUBJECT = ["candidate", "method", "layer", "strength"]
CONTROL = "control (rate 0)"
QUANTITIES = ["clean", "attacked", "gap", "gap_recovered", "clean_loss", "artifact_relevance"]


@click.command()
@click.option("--env", default="base", help="The study's folder below conf/; base is the phantom study.")
@click.option("--seeds", default="0 1 2", help="Seeds, separated by spaces.")
@click.option("--control", is_flag=True, help="Run each seed also with artifact.rate 0, and compare the gaps.")
@click.option("--params", default="", callback=_split_params, help="Further parameters, as for kedro run.")
def main(env: str, seeds: str, control: bool, params: dict[str, Any]) -> None:
    """Run a study for each seed, reusing what is current, and write and print its summary."""
    project = find_kedro_project(Path.cwd()) or Path.cwd()
    bootstrap_project(project)
    tables: list[pd.DataFrame] = []
    controls: list[pd.DataFrame] = []
    failed: list[str] = []
    runs = [("seed", params, tables)]
    if control:
        without = {**params, "artifact": {**params.get("artifact", {}), "rate": 0.0}}
        runs.append(("control of seed", without, controls))
    for seed in [int(word) for word in seeds.replace(",", " ").split()]:
        for kind, given, kept in runs:
            try:
                study, found = _run(project, env, {**given, "seed": seed})
                kept.append(found.assign(seed=seed))
            except Exception as error:
                log.exception("%s %d failed", kind.capitalize(), seed)
                failed.append(f"{kind} {seed}: {error}")
    if not tables:
        raise click.ClickException("No seed finished. " + " ".join(failed))
    results = pd.concat(tables, ignore_index=True)
    table, words = aggregate(results), ""
    if controls:
        control_results = pd.concat(controls, ignore_index=True)
        table = pd.concat([table, control_row(control_results)], ignore_index=True)
        words = control_sentence(results, control_results)
        uncorrected = control_results[control_results.candidate == "vanilla"]
        uncorrected = uncorrected.assign(candidate=CONTROL, gap_recovered=np.nan, clean_loss=np.nan)
        results = pd.concat([results, uncorrected], ignore_index=True)
    folder = project / "data" / "08_reporting" / study
    write(folder, results, table, failed)
    done = ", ".join(map(str, sorted(results.seed.unique())))
    click.echo(f"\nStudy {study}, seeds {done}; test images; mean over seeds [95 % interval]\n")
    click.echo(text_table(table).to_string(index=False))
    click.echo(f"\n{words}\n" if words else "")
    click.echo(f"{folder / 'summary.csv'}\n{folder / 'summary.md'}\n{folder / 'summary.png'}")
    if failed:
        raise click.ClickException("Some seeds failed: " + " ".join(failed))


def _run(project: Path, env: str, runtime: dict[str, Any]) -> tuple[str, pd.DataFrame]:
    """Name of the study and `seed_results` of one run."""
    session = cast(IncrementalSession, IncrementalSession.create(project, env=env, runtime_params=runtime))
    with session:
        session.run()
        return session.study, seed_results(session.finished_catalog())


def control_row(controls: pd.DataFrame) -> pd.DataFrame:
    """The row of the summary for runs without the artifact in training: the uncorrected models, and what was corrected.

    Args:
        controls: `seed_results` of the controls, with a column seed.
    """
    nothing = {"selected": False, "gap_recovered": np.nan, "clean_loss": np.nan}
    table = aggregate(controls[controls.candidate == "vanilla"].assign(**nothing))
    corrected = int(controls.groupby("seed").selected.any().sum())
    return table.assign(candidate=CONTROL, method=f"corrected in {corrected} of {controls.seed.nunique()} seeds")


def control_sentence(results: pd.DataFrame, controls: pd.DataFrame) -> str:
    """How large the gap of the control is, and how much of the study's gap is left without it, paired by seed."""
    gaps, own = (t[t.candidate == "vanilla"].set_index("seed").gap.sort_index() for t in (results, controls))
    both = gaps.index.intersection(own.index)
    found, left = student(own.to_numpy()), student((gaps.loc[both] - own.loc[both]).to_numpy())
    return (
        f"Without the artifact in training the gap is {_cell(*found)}; "
        f"{_cell(*left)} of the study's gap is there because of it (differences within a seed)."
    )


def aggregate(results: pd.DataFrame) -> pd.DataFrame:
    """Mean over the seeds with Student's 95 % interval for every candidate, and for what each seed selected.

    Args:
        results: one row a seed and candidate: SUBJECT, `selected` (bool), QUANTITIES, seed. Gaps and losses are
            differences within a seed, so their intervals are paired.

    Returns:
        One row a candidate, the row `selected` first (a seed that selected nothing counts there as
        uncorrected), columns SUBJECT, seeds, and for each quantity its mean, `_low` and `_high` (NaN with one
        seed).
    """
    selecting = results.groupby("seed").selected.transform("any")
    chosen = results[results.selected | (~selecting & (results.candidate == "vanilla"))]
    chosen = chosen.assign(candidate="selected on validation", layer=None, strength=None)
    chosen = chosen.assign(method=", ".join(sorted(chosen.method.unique())))
    both = pd.concat([chosen, results], ignore_index=True) if selecting.any() else results
    rows = []
    for key, group in both.groupby(SUBJECT, dropna=False, sort=False):
        row: dict[str, Any] = dict(zip(SUBJECT, key))
        row["seeds"] = len(group)
        for name in QUANTITIES:
            row[name], row[f"{name}_low"], row[f"{name}_high"] = student(group[name].dropna().to_numpy())
        rows.append(row)
    return pd.DataFrame(rows)


def student(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % Student interval; the interval of fewer than two values is NaN."""
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan, np.nan
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def text_table(table: pd.DataFrame) -> pd.DataFrame:
    """The summary as text, in points of balanced accuracy for gaps and losses."""
    text = table[["candidate", "method", "seeds"]].copy()
    for name in QUANTITIES:
        text[name.replace("_", " ")] = [
            _cell(v, low, high) for v, low, high in table[[name, f"{name}_low", f"{name}_high"]].to_numpy(float)
        ]
    return text


def _cell(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.3f}" if np.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def write(folder: Path, results: pd.DataFrame, table: pd.DataFrame, failed: Sequence[str]) -> None:
    """Write the summary as CSV, Markdown and PNG, and the results by seed."""
    folder.mkdir(parents=True, exist_ok=True)
    results.to_csv(folder / "seeds.csv", index=False)
    table.to_csv(folder / "summary.csv", index=False)
    text = text_table(table).astype(str)
    lines = ["| " + " | ".join(row) + " |" for row in [list(text.columns), ["---"] * len(text.columns)]]
    lines += ["| " + " | ".join(row) + " |" for row in text.to_numpy().tolist()]
    (folder / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "failed.json").write_text(json.dumps(list(failed)), encoding="utf-8")
    summary(table, results).savefig(folder / "summary.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
