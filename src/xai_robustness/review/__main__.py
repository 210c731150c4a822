"""Command line of the review page: `python -m xai_robustness.review --env isic_ruler --seed 0`."""

from pathlib import Path
from typing import Any, cast

import click
import pandas as pd

from xai_robustness.review.data import ReviewData, embedding_views, score_view

SETS = ("train/biased", "val/biased")


@click.command()
@click.option("--env", default="base", help="The study's folder below conf/; base is the phantom study.")
@click.option("--seed", default=0, help="Seed of the run.")
@click.option("--port", default=8050, help="Port of the page.")
def main(env: str, seed: int, port: int) -> None:
    """Bring reveal up to date and serve its results for review."""
    try:
        from xai_robustness.review.page import make_app
    except ImportError as error:
        raise click.ClickException(
            f"The review page needs Dash ({error}). Install it with: pip install 'xai_robustness[review]'."
        ) from None
    data = load(env, seed)
    click.echo(
        f"Answers go to {data.labels}. A run uses them with, in the study's parameters:\n"
        f"  sample_retrieval: {{review: {{reviewer: csv, csv: {data.labels}}}}}\n"
        f"  reveal: {{neurons: {{spurious: {data.marked}}}}}   # once neurons were ticked\n"
        f"http://127.0.0.1:{port}"
    )
    make_app(data).run(host="127.0.0.1", port=port, debug=False)


def load(env: str, seed: int) -> ReviewData:
    """Run what reveal lacks, and read what the page shows."""
    from kedro.framework.startup import bootstrap_project
    from kedro.utils import find_kedro_project

    from xai_robustness.session import IncrementalSession

    project = find_kedro_project(Path.cwd()) or Path.cwd()
    bootstrap_project(project)
    session = cast(IncrementalSession, IncrementalSession.create(project, env=env, runtime_params={"seed": seed}))
    with session:
        session.run(pipeline_name="reveal")
        catalog = session.finished_catalog()
        folder = project / "data" / "05_model_input" / session.study / f"seed_{seed}"
        return read(catalog, f"{session.study}, seed {seed}", folder)


def read(catalog: Any, title: str, folder: Path) -> ReviewData:
    """What the page shows, from the data sets of a finished run.

    Args:
        catalog: with the data sets of reveal; scores are shown where bias_scores and chosen_cav are there.
        title: of the page.
        folder: where the tables of answers lie, or will.
    """
    images = catalog.load("images_fit")
    latents = catalog.load("latents")
    parts = tuple(images[key] for key in SETS)
    splits = [key.partition("/")[0] for key in SETS]
    heatmaps = {int(i): m for s in splits for i, m in zip(latents.sample_ids(s), latents.heatmaps(s))}
    names = parts[0].info.class_names
    views = embedding_views(catalog.load("embeddings"), catalog.load("suspect_members"), names)
    if catalog.exists("bias_scores") and (chosen := catalog.load("chosen_cav")):
        column = "{layer}/{kind}".format(**chosen)
        scores: pd.DataFrame = catalog.load("bias_scores")
        views[f"score of {column}"] = score_view(scores, column, heatmaps, names)
    return ReviewData(
        title=title,
        images=parts,
        heatmaps=heatmaps,
        views=views,
        neurons=catalog.load("neuron_ranking"),
        references=catalog.load("neuron_references"),
        model=latents.model,
        labels=folder / "review.csv",
        marked=folder / "ticked_neurons.csv",
    )


if __name__ == "__main__":
    main()
