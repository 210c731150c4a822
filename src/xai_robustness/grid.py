"""Models x optimisers x learning rates of a study, the best by validation: `python -m xai_robustness.grid --env …`.

    python -m xai_robustness.grid --env isic_ruler --models "vgg16 resnet50" --optimizers "sgd adam" --lrs "5e-4 1e-3"

The study's data are made current first; each cell is trained into a folder that is named after all that it depends on,
so that an interrupted grid goes on where it stopped and a changed one trains what changed.
"""

import logging
from pathlib import Path
from typing import Any, cast

import click
import pandas as pd
from kedro.framework.cli.utils import _split_params
from kedro.framework.startup import bootstrap_project
from kedro.utils import find_kedro_project

from xai_robustness.attacks.training import training_attack
from xai_robustness.code_hashes import code_hashes
from xai_robustness.datasets.base import ImageSet
from xai_robustness.hooks.cells import CellRuns
from xai_robustness.hooks.plan import digest
from xai_robustness.models.grid import Cell, check_cells, grid_cells, summarize_grid, train_cell
from xai_robustness.parameters import StudyParams, files_of, network_files, read_parameters
from xai_robustness.pipelines.training.nodes import train_classifier
from xai_robustness.session import IncrementalSession, one_sentence, study_lock
from xai_robustness.types import InputError

log = logging.getLogger(__name__)


@click.command()
@click.option("--env", default="base", help="The study's folder below conf/; base is the phantom study.")
@click.option("--models", default="", help="Architectures, separated by spaces; the study's own by default.")
@click.option("--optimizers", default="", help="Of sgd, adam, adamw; the study's own by default.")
@click.option("--lrs", default="", help="Learning rates; the study's own by default.")
@click.option("--seed", default=0, help="Seed of all cells.")
@click.option("--params", default="", callback=_split_params, help="Further parameters, as for kedro run.")
def main(env: str, models: str, optimizers: str, lrs: str, seed: int, params: dict[str, Any]) -> None:
    """Train every cell, write and print the table, and say how to go on with the best."""
    project = find_kedro_project(Path.cwd()) or Path.cwd()
    bootstrap_project(project)
    runtime = {**params, "seed": seed}
    session = cast(IncrementalSession, IncrementalSession.create(project, env=env, runtime_params=runtime))
    table, path = _whole(project, session, seed, (models, optimizers, lrs))
    shown = table.drop(columns="error").to_string(index=False, float_format=lambda value: f"{value:.4g}")
    title = f"Study {session.study}, seed {seed}; biased validation images; 95 % intervals"
    click.echo(f"\n{title}\n\n{shown}\n\n{path}")
    _say_best(table)


def _whole(
    project: Path, session: IncrementalSession, seed: int, axes: tuple[str, str, str]
) -> tuple[pd.DataFrame, Path]:
    """Check the grid, make the data current, run the cells."""
    with session, one_sentence():
        loader = session._get_config_loader()
        study = read_parameters(loader["parameters"])
        cells = grid_cells(study.model, study.training, _words(axes[0]), _words(axes[1]), _numbers(axes[2]))
        session.run(pipeline_names=["data_ingest"])
        sets = session.finished_catalog().load("images_fit")
        runs = CellRuns(project, loader["mlflow"], study.study, seed, study.flat())
        with study_lock(project, study):
            return _run(project, study, cells, sets, runs)


def _run(
    project: Path, study: StudyParams, cells: list[Cell], sets: dict[str, ImageSet], runs: CellRuns
) -> tuple[pd.DataFrame, Path]:
    """Train what is missing, log each cell, write the table."""
    train, val = sets["train/biased"], sets["val/biased"]
    check_cells(cells, train.image_shape, train.info.n_classes)
    root = project / "data" / "06_models" / study.study / f"seed_{study.seed}" / "grid"
    path = project / "data" / "08_reporting" / study.study / f"grid_seed_{study.seed}.csv"
    common = {
        "data": [train.fingerprint(), val.fingerprint()],
        "code": code_hashes(train_classifier),
        "files": files_of(study, "training"),
        "seed": study.seed,
    }
    metrics: list[pd.DataFrame | None] = []
    errors: list[str] = []
    folders: list[str] = []
    try:
        for number, cell in enumerate(cells, 1):
            own: dict[str, Any] = {"model": cell.model.result_values(), "training": cell.training.result_values()}
            own["network"] = network_files(cell.model.name)
            folder = root / f"{cell.name}-{digest({**common, **own})[:12]}"
            log.info("Cell %d of %d: %s", number, len(cells), cell.name)
            found, why = _train(cell, train, val, study, folder)
            metrics.append(found)
            errors.append(why)
            folders.append(str(folder.relative_to(project)))
            runs.cell(cell.name, cell.values, found)
    except BaseException:
        runs.close(path, "FAILED")
        raise
    table = summarize_grid(cells, metrics, errors)
    table["folder"] = table["cell"].map(dict(zip((cell.name for cell in cells), folders)))
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    runs.close(path)
    return table, path


def _train(
    cell: Cell, train: ImageSet, val: ImageSet, study: StudyParams, folder: Path
) -> tuple[pd.DataFrame | None, str]:
    """Metrics of a cell, or why it has none: a rate that is too large is a result of a grid, not its end."""
    try:
        attack = training_attack(cell.training.adversarial)
        return train_cell(cell, train, val, study.seed, study.device, attack, folder), ""
    except InputError as error:
        log.warning("Cell %s: %s", cell.name, error)
        return None, str(error)


def _say_best(table: pd.DataFrame) -> None:
    if not table["selected"].any():
        raise click.ClickException("No cell finished; the table says why.")
    best = table[table["selected"]].iloc[0]
    values = f"model.name={best['model']},training.optimizer={best['optimizer']},training.lr={best['lr']:g}"
    click.echo(f"\nGo on with the best, trained already:\n  --params {values},", nl=False)
    click.echo(f"training.checkpoint={best['folder']}/model.safetensors")


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in _words(text)]
    except ValueError:
        raise InputError(f"The lrs parameter of grid must be numbers. Got '{text}' instead.") from None


if __name__ == "__main__":
    main()
