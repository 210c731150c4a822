"""Command line of the review page: `python -m xai_robustness.review --env isic_ruler --seed 0`."""

from pathlib import Path
from typing import Any, cast

import click
import pandas as pd

from xai_robustness.concepts.neuron_heatmaps import NeuronHeatmaps
from xai_robustness.concepts.synthetic import SyntheticReferences
from xai_robustness.io.datasets import versioned
from xai_robustness.review.data import ReviewData, embedding_views, score_view

SETS = ("train/biased", "val/biased")
NO_SCORES = (
    "No bias scores are shown: none on disk belong to this classifier and a confirmed artifact. Run sample_retrieval."
)


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
        f"{data.note}\nAnswers go to {data.labels}, which stays. A run uses them with, in the study's parameters:\n"
        f"  sample_retrieval: {{review: {{reviewer: csv, csv: {data.labels}}}}}   # or a list, earlier rounds first\n"
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
        return read(catalog, f"{session.study}, seed {seed}", answers_folder(project, session.study, seed))


def answers_folder(project: Path, study: str, seed: int) -> Path:
    """Where a person's answers are kept; neither `make clean` nor a run deletes anything there."""
    return project / "data" / "09_answers" / study / f"seed_{seed}"


def read(catalog: Any, title: str, folder: Path) -> ReviewData:
    """What the page shows, from the data sets of a finished run.

    Args:
        catalog: with the data sets of reveal; scores are shown where there are some of the same classifier.
        title: of the page.
        folder: where the tables of answers lie, or will.
    """
    images = catalog.load("images_fit")
    latents = catalog.load("latents")
    parts = tuple(images[key] for key in SETS)
    splits = [key.partition("/")[0] for key in SETS]
    heatmaps = {int(i): m for s in splits for i, m in zip(latents.sample_ids(s), latents.heatmaps(s))}
    names = parts[0].info.class_names
    listed, members = catalog.load("suspect_list"), catalog.load("suspect_list_members")
    views = embedding_views(catalog.load("embeddings"), listed, members, names)
    found = scores_of(catalog)
    if found:
        column, scores = found
        views[f"score of {column}"] = score_view(scores, column, heatmaps, names)
    return ReviewData(
        title=title,
        images=parts,
        heatmaps=heatmaps,
        views=views,
        neurons=catalog.load("neuron_ranking"),
        references=catalog.load("neuron_references"),
        neuron_heatmaps=NeuronHeatmaps(catalog.load("neuron_heatmaps")),
        synthetic=SyntheticReferences(catalog.load("synthetic_references")),
        model=latents.model,
        labels=folder / "review.csv",
        marked=folder / "ticked_neurons.csv",
        note="" if found else NO_SCORES,
    )


def scores_of(catalog: Any) -> tuple[str, pd.DataFrame] | None:
    """The newest bias scores that were made from the same latents as what reveal shows, whatever the review said then.

    Args:
        catalog: with neuron_ranking in the version that is shown, bias_scores and chosen_cav.

    Returns:
        Column `layer/kind` of the vector that was chosen among those that the scores are of, and all scores; None
        where there are none of this classifier, or no artifact was confirmed.
    """
    shown, scores, chosen = (versioned(catalog, name) for name in ("neuron_ranking", "bias_scores", "chosen_cav"))
    if not (shown and scores and chosen):
        return None
    latents = shown.provenances()[shown.path().parent.name]["components"]["input:latents"]
    choices = {_made_from(record): version for version, record in chosen.provenances().items()}
    for version, record in reversed(scores.provenances().items()):
        made_from = _made_from(record)
        if made_from[0] == latents and made_from in choices:
            choice = chosen.load_version(choices[made_from])
            return ("{layer}/{kind}".format(**choice), scores.load_version(version)) if choice else None
    return None


def _made_from(record: dict[str, Any]) -> tuple[str | None, str | None]:
    """Fingerprints of the latents and the concept vectors that a version was made from."""
    components = record.get("components", {})
    return components.get("input:latents"), components.get("input:cavs")


if __name__ == "__main__":
    main()
