"""The grid from the command line, on a small piece of the smoke study."""

import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

from xai_robustness.grid import main
from xai_robustness.models.training import TrainingJob

SMALL = "data.n_train=48,data.n_val=24,data.n_test=12,training.epochs=1"


@pytest.fixture
def trained(monkeypatch):
    """Names of the cells that are trained."""
    names = []
    original = TrainingJob.write

    def write(self, folder):
        names.append(folder.name.rpartition("-")[0])
        original(self, folder)

    monkeypatch.setattr(TrainingJob, "write", write)
    return names


def run(project, monkeypatch, *options):
    monkeypatch.chdir(project.folder)
    arguments = ["--env", "smoke", "--models", "resnet18", "--optimizers", "sgd", "--params", SMALL, *options]
    return CliRunner().invoke(main, arguments)


@pytest.mark.slow
def test_cells_are_trained_once_ranked_and_tracked(fresh, monkeypatch, trained):
    done = run(fresh, monkeypatch, "--lrs", "0.01 1e30")
    assert done.exit_code == 0, done.output
    assert trained == ["resnet18-sgd-0.01", "resnet18-sgd-1e+30"]
    table = pd.read_csv(fresh.folder / "data" / "08_reporting" / "smoke" / "grid_seed_0.csv")
    assert table["cell"].tolist() == trained and table["selected"].tolist() == [True, False]
    assert "must be small enough for a finite loss" in table["error"][1] and table["n"][0] == 24
    best = f"training.checkpoint={table['folder'][0]}/model.safetensors"
    assert best in done.output and (fresh.folder / table["folder"][0] / "model.safetensors").is_file()

    trained.clear()
    again = run(fresh, monkeypatch, "--lrs", "0.01 0.001")
    assert again.exit_code == 0 and trained == ["resnet18-sgd-0.001"]  # the first is found

    client = MlflowClient(tracking_uri=f"sqlite:///{fresh.folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("smoke").experiment_id])
    parents = [r for r in runs if r.info.run_name == "smoke-seed0-grid"]
    assert [r.info.status for r in parents] == ["FINISHED"] * 2
    cells = [r for r in runs if r.data.tags.get("mlflow.parentRunId") in {p.info.run_id for p in parents}]
    assert sorted((r.data.params["lr"], r.info.status) for r in cells) == [
        ("0.001", "FINISHED"), ("0.01", "FINISHED"), ("0.01", "FINISHED"), ("1e+30", "FAILED"),
    ]  # fmt: skip
    finished = next(r for r in cells if r.data.params["lr"] == "0.01")
    assert finished.data.metrics["val/biased/balanced_accuracy"] == pytest.approx(table["balanced_accuracy"][0])


NETWORK = """
from collections import OrderedDict
from torch import nn

def net(channels, classes):
    stages = {f"layer{i}": nn.Conv2d(channels if i == 1 else 4, 4, 3, 2) for i in (1, 2)}
    end = {"act": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(4, classes)}
    return nn.Sequential(OrderedDict({**stages, **end}))
"""


@pytest.mark.slow
def test_a_network_of_ones_own_is_trained_again_once_its_code_is_another(fresh, monkeypatch, trained):
    monkeypatch.syspath_prepend(fresh.folder)
    for source in (NETWORK, NETWORK, NETWORK.replace("ReLU", "Tanh")):
        (fresh.folder / "grid_network.py").write_text(source)
        done = run(fresh, monkeypatch, "--models", "grid_network:net", "--lrs", "0.01")
        assert done.exit_code == 0, done.output
    assert trained == ["net-sgd-0.01"] * 2


def test_a_bad_axis_is_one_sentence_before_any_data_are_made(fresh, monkeypatch):
    done = run(fresh, monkeypatch, "--lrs", "fast")
    assert done.exit_code == 1 and "The lrs parameter of grid must be numbers. Got 'fast' instead." in done.output
    assert not (fresh.folder / "data").exists()
