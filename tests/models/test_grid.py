from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from tests.models.tiny import image_set, tiny_stages

from xai_robustness.models.checkpoint import load_model
from xai_robustness.models.grid import CRITERION, Cell, check_cells, grid_cells, summarize_grid, train_cell
from xai_robustness.models.training import TrainingParams, predict_logits
from xai_robustness.models.zoo import MODELS, ModelParams
from xai_robustness.types import InputError

TRAINING = TrainingParams(epochs=2, batch_size=16, checkpoint="given.pth", scheduler="none")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._entries, "tiny", tiny_stages)


def cells(models=("tiny",), optimizers=("sgd", "adam"), lrs=(0.01, 0.001)) -> list[Cell]:
    return grid_cells(ModelParams(name="tiny"), TRAINING, models, optimizers, lrs)


def test_the_grid_is_the_product_and_an_empty_axis_is_the_studys() -> None:
    found = grid_cells(ModelParams(name="resnet18", stem="small"), TRAINING, ["vgg11", "tiny"], ["sgd"], [])
    assert [cell.name for cell in found] == ["vgg11-sgd-0.001", "tiny-sgd-0.001"]
    (exported,) = grid_cells(ModelParams(), TrainingParams(), ["/elsewhere/net.pt2"], ["sgd"], [0.1])
    assert exported.name == "net.pt2-sgd-0.1"  # a name of one folder
    assert all(cell.training.checkpoint is None and cell.model.stem == "small" for cell in found)
    assert len(cells()) == 4


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"models": ["tinny"]}, r"Got tinny, sgd and 0.01 instead: Unknown \w+ 'tinny'"),
        ({"optimizers": ["lion"]}, "Got tiny, lion and 0.01 instead"),
        ({"lrs": [0.0]}, "Got tiny, sgd and 0.0 instead"),
        ({"lrs": [0.01, 0.010]}, "The cells of the grid must differ"),
    ],
)
def test_a_bad_axis_is_named_before_anything_is_trained(axes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        cells(**axes)


def test_start_weights_fit_one_model_alone() -> None:
    start = TRAINING.model_copy(update={"start": "x.pth"})
    with pytest.raises(
        InputError, match="start parameter of training must be null or imagenet in a grid of several models"
    ):
        grid_cells(ModelParams(name="tiny"), start, ["tiny", "vgg11"], [], [])


def test_images_too_small_for_a_model_are_found_first() -> None:
    with pytest.raises(InputError, match="must be large enough for densenet121"):
        check_cells(cells(models=["tiny", "densenet121"]), (3, 4, 4), 3)


def test_a_cell_is_scored_on_validation_once_and_found_again(tmp_path: Path) -> None:
    train, val = image_set(60), image_set(30, seed=1)
    cell = cells()[0]
    table = train_cell(cell, train, val, 0, "cpu", None, tmp_path)
    predicted = predict_logits(load_model(tmp_path), val, 8, "cpu").argmax(1)
    row = table.set_index("metric").loc[CRITERION]
    assert row["value"] == pytest.approx(balanced_accuracy_score(val.labels, predicted))
    assert row["n"] == 30 and row["epochs"] == 2 and row["ci_low"] <= row["value"] <= row["ci_high"]
    (tmp_path / "model.safetensors").unlink()  # would fail if anything were computed again
    pd.testing.assert_frame_equal(train_cell(cell, train, val, 0, "cpu", None, tmp_path), table)


def test_the_best_stands_first_and_failures_last() -> None:
    def metrics(value: float) -> pd.DataFrame:
        row = {"value": value, "ci_low": value - 0.1, "ci_high": value + 0.1, "n": 30, "epochs": 2}
        return pd.DataFrame([{"metric": CRITERION, **row}, {"metric": "val/biased/auroc", **row, "value": 0.5}])

    grid = cells()
    table = summarize_grid(grid, [metrics(0.4), None, metrics(0.7), metrics(0.6)], ["", "loss", "", ""])
    assert table["cell"].tolist() == [grid[2].name, grid[3].name, grid[0].name, grid[1].name]
    assert table["selected"].tolist() == [True, False, False, False]
    assert table["error"].tolist()[-1] == "loss" and table["auroc"].tolist()[:3] == [0.5] * 3
    nothing = summarize_grid(grid, [None] * 4, ["loss"] * 4)
    assert not nothing["selected"].any() and np.isnan(nothing["balanced_accuracy"]).all()
