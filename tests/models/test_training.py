import hashlib
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from tests.models.tiny import image_set, tiny_stages
from torch import nn

from xai_robustness.models import training
from xai_robustness.models.checkpoint import load_description, load_model
from xai_robustness.models.training import TrainingJob, TrainingParams, make_optimizer, predict_logits
from xai_robustness.models.zoo import MODELS, ModelParams
from xai_robustness.types import InputError

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._entries, "tiny", tiny_stages)
    monkeypatch.setitem(MODELS._entries, "tiny_dropout", with_dropout)


def with_dropout(channels: int, n_classes: int, stem: str) -> dict[str, nn.Module]:
    stages = tiny_stages(channels, n_classes)
    stages["fc"] = nn.Sequential(nn.Dropout(0.3), stages["fc"])
    return stages


def job(seed: int = 0, model: str = "tiny_dropout", task: str = "multi-class", **params: object) -> TrainingJob:
    settings = {"epochs": 3, "batch_size": 16, "lr": 0.01, "augment": True, **params}
    train, val = image_set(50, task=task), image_set(20, task=task, seed=1)
    return TrainingJob(ModelParams(name=model), train, val, TrainingParams(**settings), seed, "cpu")


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS._entries, "tiny_dropout", with_dropout)
        job().write(folder)
    return hashes(folder)


def test_leaves_model_and_history_alone(undisturbed: dict[str, str]) -> None:
    assert set(undisturbed) == {"model.safetensors", "model.json", "history.csv"}


def test_same_seed_same_bytes_other_seed_other_bytes(undisturbed: dict[str, str], tmp_path: Path) -> None:
    torch.manual_seed(99)  # the global stream must not matter
    job().write(tmp_path / "same")
    job(seed=1).write(tmp_path / "other")
    assert hashes(tmp_path / "same") == undisturbed
    assert hashes(tmp_path / "other")["model.safetensors"] != undisturbed["model.safetensors"]


@pytest.mark.parametrize("step", [1, 4, 6, 8, 11])
def test_killed_between_steps(
    undisturbed: dict[str, str], step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = training._Run._step

    def dying(self: object, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == step:
            raise Killed
        return original(self, *arguments)

    monkeypatch.setattr(training._Run, "_step", dying)
    with pytest.raises(Killed):
        job().write(tmp_path)
    job().write(tmp_path)
    assert hashes(tmp_path) == undisturbed
    finished = (step - 1) // 4  # four steps an epoch
    assert len(calls) == step + 12 - 4 * finished


@pytest.mark.parametrize("moment", ["torch.save", "rename", "after best", "final", "before cleaning", "cleaning"])
def test_killed_while_writing(
    undisturbed: dict[str, str], moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object, **options: object) -> None:
        raise Killed

    def half(state: object, path: Path) -> None:
        path.write_bytes(b"half a state")
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "torch.save":
            patch.setattr(torch, "save", half)
        elif moment == "rename":
            patch.setattr(Path, "replace", die)
        elif moment == "after best":
            patch.setattr(torch, "save", die)
        elif moment == "final":
            patch.setattr(training, "save_model", die)
        elif moment == "before cleaning":
            patch.setattr(Path, "unlink", die)
        else:
            patch.setattr(Path, "glob", die)
        with pytest.raises(Killed):
            job().write(tmp_path)
    job().write(tmp_path)
    assert hashes(tmp_path) == undisturbed


def test_killed_by_the_system(undisturbed: dict[str, str], tmp_path: Path) -> None:
    script = f"""
        import os, signal, sys
        from pathlib import Path
        import torch
        torch.set_num_threads({torch.get_num_threads()})
        from tests.models import test_training as t
        from xai_robustness.models import training
        t.MODELS._entries["tiny_dropout"] = t.with_dropout
        original, calls = training._Run._step, []
        def step(self, *arguments):
            calls.append(1)
            if len(calls) == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, *arguments)
        training._Run._step = step
        t.job().write(Path({str(tmp_path)!r}))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / ".state.pt").exists()
    job().write(tmp_path)
    assert hashes(tmp_path) == undisturbed


def test_a_finished_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job(epochs=1).write(tmp_path)
    before = hashes(tmp_path)
    monkeypatch.setattr(training._Run, "_step", None)
    job(epochs=1).write(tmp_path)
    assert hashes(tmp_path) == before


def test_state_of_another_job_is_not_resumed(
    undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_model", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            job(lr=0.02).write(tmp_path)
    job().write(tmp_path)
    assert hashes(tmp_path) == undisturbed


def test_history_and_best_epoch(tmp_path: Path) -> None:
    job(epochs=6).write(tmp_path)
    history = pd.read_csv(tmp_path / "history.csv", float_precision="round_trip")
    assert list(history) == ["epoch", "split", "loss", "accuracy", "balanced_accuracy", "auroc"]
    assert list(history["split"]) == ["train", "val"] * 6
    val = history[history["split"] == "val"]
    best = val.sort_values(["balanced_accuracy", "loss"], ascending=[False, True]).iloc[0]
    logits = predict_logits(load_model(tmp_path), image_set(20, seed=1), 7, "cpu")
    assert (logits.argmax(1) == image_set(20, seed=1).labels).mean() == pytest.approx(best["accuracy"])
    train = history[history["split"] == "train"]
    assert train["loss"].iloc[-1] < train["loss"].iloc[0]
    assert load_description(tmp_path)["training"]["epochs"] == 6
    assert "eval_batch_size" not in load_description(tmp_path)["training"]


def test_learns_and_stops_early(tmp_path: Path) -> None:
    job(model="tiny", epochs=30, patience=4, lr=0.02, augment=False).write(tmp_path)
    history = pd.read_csv(tmp_path / "history.csv")
    val = history[history["split"] == "val"]
    assert val["balanced_accuracy"].max() > 0.9
    epochs = int(history["epoch"].max())
    reached = list(zip(val["balanced_accuracy"], -val["loss"]))
    assert epochs == 30 or epochs - 1 - reached.index(max(reached)) == 4
    assert epochs < 30


@pytest.mark.parametrize("task", ["multi-label", "ordinal"])
def test_other_tasks(task: str, tmp_path: Path) -> None:
    job(model="tiny", task=task, epochs=4, augment=False).write(tmp_path)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["loss"].iloc[-2] < history["loss"].iloc[0]


def test_given_checkpoint_is_used_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job(epochs=1).write(tmp_path / "trained")
    monkeypatch.setattr(training._Run, "_step", None)
    given = str(tmp_path / "trained" / "model.safetensors")
    job(checkpoint=given, seed=4).write(tmp_path / "taken")
    assert (tmp_path / "taken" / "model.safetensors").read_bytes() == Path(given).read_bytes()
    assert pd.read_csv(tmp_path / "taken" / "history.csv").empty
    with pytest.raises(InputError, match="does not fit the model"):
        job(checkpoint=given, model="tiny").write(tmp_path / "wrong")


def test_a_rate_that_explodes_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lr parameter of training must be small enough"):
        job(lr=1e30, optimizer="sgd").write(tmp_path)


def test_learning_rates() -> None:
    cosine = TrainingParams(epochs=4, lr=1.0, scheduler="cosine")
    assert cosine.lr_at(1) == 1.0
    assert cosine.lr_at(3) == pytest.approx(0.5)
    assert cosine.lr_at(4) == pytest.approx((1 + math.cos(0.75 * math.pi)) / 2)
    steps = TrainingParams(lr=1.0, scheduler="multistep", milestones=[2, 4])
    assert [steps.lr_at(e) for e in (1, 2, 3, 4, 5)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert TrainingParams(lr=0.3, scheduler="none", milestones=[1]).lr_at(9) == 0.3


def test_one_cycle_is_torchs():
    ours = TrainingParams(epochs=5, lr=0.4, scheduler="one_cycle")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    peer = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.4, total_steps=1001, cycle_momentum=False)
    for step in range(1000):
        if step % 97 == 0:
            epoch, within = divmod(step, 200)
            assert ours.lr_at(epoch + 1, within / 200) == pytest.approx(peer.get_last_lr()[0], rel=0.02, abs=1e-4)
        optimizer.step()
        peer.step()


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"lr": 0}, {"optimizer": "lion"}, {"rate": 1}, {"batch_size": 1}])
def test_bad_parameters(bad: dict) -> None:
    with pytest.raises(ValidationError):
        TrainingParams(**bad)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_optimizer_takes_what_is_not_frozen(name: str, kind: type) -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = make_optimizer(model, TrainingParams(optimizer=name, weight_decay=0.1))
    assert type(optimizer) is kind
    assert [p is model.weight for group in optimizer.param_groups for p in group["params"]] == [True]
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_predictions_do_not_depend_on_batches_and_keep_the_mode() -> None:
    stages = tiny_stages(3, 3)
    model = nn.Sequential(stages).train()
    data = image_set(11)
    logits = predict_logits(model, data, 4, "cpu")
    assert model.training and model.bn1.training
    assert logits.dtype == "float32" and logits.shape == (11, 3)
    with torch.no_grad():
        expected = model.eval()(data.tensor(slice(0, 11)))
    torch.testing.assert_close(torch.from_numpy(logits), expected)
