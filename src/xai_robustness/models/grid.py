"""A grid of model x optimiser x learning rate: which cells there are, one cell trained, the best by validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.classification import classification_metrics
from xai_robustness.models.adversarial import TrainingAttack
from xai_robustness.models.checkpoint import load_model
from xai_robustness.models.pretrained import IMAGENET
from xai_robustness.models.training import HISTORY, TrainingJob, TrainingParams, predict_logits
from xai_robustness.models.zoo import ModelParams, build
from xai_robustness.types import InputError

CRITERION = "val/biased/balanced_accuracy"


@dataclass(frozen=True)
class Cell:
    """One combination.

    Attributes:
        model: architecture.
        training: recipe with the cell's optimiser and rate.
    """

    model: ModelParams
    training: TrainingParams

    @property
    def name(self) -> str:
        """`resnet50-adam-0.0005`; of a network of one's own, its function or file alone."""
        return f"{Path(self.model.name.rpartition(':')[2]).name}-{self.training.optimizer}-{self.training.lr:g}"

    @property
    def values(self) -> dict[str, str | float]:
        """What tells it from the others: model, optimizer, lr."""
        return {"model": self.model.name, "optimizer": self.training.optimizer, "lr": self.training.lr}


def grid_cells(
    model: ModelParams, training: TrainingParams, models: Sequence[str], optimizers: Sequence[str], lrs: Sequence[float]
) -> list[Cell]:
    """All combinations; an empty axis keeps the study's own value.

    Args:
        model: the study's model, whose stem and statistics all cells share.
        training: the study's training; a given checkpoint is not used.
        models: architectures.
        optimizers: sgd, adam, adamw.
        lrs: learning rates.

    Raises:
        InputError: an unknown name, a rate that is not positive, a combination twice, or start weights for several
            architectures.
    """
    base = {**training.model_dump(), "checkpoint": None}
    cells = []
    for name, optimizer, lr in product(
        models or [model.name], optimizers or [training.optimizer], lrs or [training.lr]
    ):
        try:
            own = ModelParams.model_validate({**model.model_dump(), "name": name})
            recipe = TrainingParams.model_validate({**base, "optimizer": optimizer, "lr": lr})
        except ValueError as error:
            raise InputError(
                f"Every cell of the grid must be a model, an optimizer (sgd, adam, adamw) and a rate above 0. "
                f"Got {name}, {optimizer} and {lr} instead: {_reason(error)}"
            ) from None
        cells.append(Cell(own, recipe))
    if len({cell.name for cell in cells}) < len(cells):
        raise InputError(f"The cells of the grid must differ. Got {', '.join(cell.name for cell in cells)} instead.")
    if training.start not in (None, IMAGENET) and len(set(models)) > 1:
        raise InputError(
            f"The start parameter of training must be null or imagenet in a grid of several models. "
            f"Got {training.start} instead."
        )
    return cells


def _reason(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    return str(errors()[0]["msg"]).removeprefix("Value error, ") if errors else str(error)


def check_cells(cells: Sequence[Cell], image_shape: Sequence[int], n_classes: int) -> None:
    """Build each architecture once, so that one that does not fit is named before hours of training.

    Raises:
        InputError: images too small, or a layer to be frozen that a model does not have.
    """
    statistics = [0.5] * image_shape[0]
    for model in {cell.model.name: cell.model for cell in cells}.values():
        build(model, n_classes, image_shape, statistics, statistics, seed=0)


def train_cell(
    cell: Cell, train: ImageSet, val: ImageSet, seed: int, device: str, attack: TrainingAttack | None, folder: Path
) -> pd.DataFrame:
    """Train a cell into a folder, or find it there, and score its best epoch on the biased validation images.

    Returns:
        Rows with METRIC_COLUMNS, `val/biased/…`, and `epochs`, how many were trained.

    Raises:
        InputError: the loss became infinite.
    """
    kept = folder / "metrics.csv"
    if not kept.exists():
        TrainingJob(cell.model, train, val, cell.training, seed, device, attack).write(folder)
        logits = predict_logits(load_model(folder), val, cell.training.eval_batch_size, device)
        table = classification_metrics(logits, val.labels, val.info.task, "val/biased", seed=seed)
        epochs = int(pd.read_csv(folder / HISTORY)["epoch"].max())
        partial = folder / "metrics.csv.part"
        table.assign(epochs=epochs).to_csv(partial, index=False)
        partial.replace(kept)
    return pd.read_csv(kept)


def summarize_grid(
    cells: Sequence[Cell], metrics: Sequence[pd.DataFrame | None], errors: Sequence[str]
) -> pd.DataFrame:
    """One row a cell, the best first by balanced accuracy on biased validation images; cells that failed stand last.

    Args:
        cells: the grid.
        metrics: what `train_cell` gave, None for a cell that failed.
        errors: why a cell failed, else "".

    Returns:
        Columns cell, model, optimizer, lr, selected (bool), epochs, n, balanced_accuracy with `_low` and `_high`,
        accuracy, auroc, error.
    """
    rows = []
    for cell, table, error in zip(cells, metrics, errors, strict=True):
        row: dict[str, Any] = {"cell": cell.name, **cell.values, "selected": False, "error": error}
        if table is not None:
            found = table.set_index("metric")
            best: Any = found.loc[CRITERION]
            row |= {"epochs": int(best["epochs"]), "n": int(best["n"]), "balanced_accuracy": best["value"]}
            row |= {"balanced_accuracy_low": best["ci_low"], "balanced_accuracy_high": best["ci_high"]}
            row |= {name: found["value"].get(f"val/biased/{name}", np.nan) for name in ("accuracy", "auroc")}
        rows.append(row)
    columns = ["cell", "model", "optimizer", "lr", "selected", "epochs", "n", "balanced_accuracy"]
    columns += ["balanced_accuracy_low", "balanced_accuracy_high", "accuracy", "auroc", "error"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    table = table.sort_values(["balanced_accuracy", "cell"], ascending=[False, True], ignore_index=True)
    table.loc[0, "selected"] = bool(table["balanced_accuracy"].notna()[0])
    return table
