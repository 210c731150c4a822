"""Adversarial training through TrainingJob: the attack comes from this package, the loop from models."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from tests.models.tiny import image_set, tiny_model, tiny_stages

from xai_robustness.attacks.training import training_attack
from xai_robustness.models import training
from xai_robustness.models.adversarial import AdversarialParams, FreeSteps
from xai_robustness.models.checkpoint import load_description, load_model
from xai_robustness.models.training import TrainingJob, TrainingParams
from xai_robustness.models.zoo import MODELS, ModelParams
from xai_robustness.types import InputError

METHODS = ("pgd", "fgsm_rs", "free")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._entries, "tiny", tiny_stages)


def job(n: int = 32, seed: int = 0, **params: object) -> TrainingJob:
    settings = TrainingParams(**{"epochs": 2, "batch_size": 16, "lr": 0.01, "augment": True, **params})
    attack = training_attack(settings.adversarial)
    return TrainingJob(ModelParams(name="tiny"), image_set(n), image_set(12, seed=1), settings, seed, "cpu", attack)


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_adversarial_training_is_an_undisturbed_one(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adversarial = {"method": method, "eps": 0.05, "steps": 2, "fade_in": 2}
    job(adversarial=adversarial).write(tmp_path / "whole")
    original, calls = training._Run._step, []

    def dying(self: object, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 4:  # in the second of two epochs
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            job(adversarial=adversarial).write(tmp_path / "killed")
    job(adversarial=adversarial).write(tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    history = pd.read_csv(tmp_path / "whole" / "history.csv")
    assert list(history["split"]) == ["train", "val", "val/adversarial"] * 2
    assert load_description(tmp_path / "whole")["training"]["adversarial"]["method"] == method


def test_without_a_budget_it_is_plain_training(tmp_path: Path) -> None:
    job().write(tmp_path / "plain")
    job(adversarial={"method": "pgd", "eps": 0.0}).write(tmp_path / "none")
    job(adversarial={"method": "pgd", "eps": 0.1, "steps": 1}).write(tmp_path / "some")
    plain, none, some = (load_model(tmp_path / name).state_dict() for name in ("plain", "none", "some"))
    assert all(torch.equal(plain[key], none[key]) for key in plain)
    assert not torch.equal(plain["fc.weight"], some["fc.weight"])


@pytest.mark.parametrize(("method", "norm"), [("pgd", "linf"), ("pgd", "l2"), ("fgsm_rs", "linf"), ("fgsm_rs", "l2")])
def test_training_images_stay_within_the_budget_and_raise_the_loss(method: str, norm: str) -> None:
    model, data, eps = tiny_model(), image_set(16), 0.05 if norm == "linf" else 0.8
    attack = training_attack(AdversarialParams(method=method, norm=norm, eps=eps, steps=3))
    x, y = data.tensor(slice(0, 16)), torch.from_numpy(data.labels)
    found = attack.perturb(model, x, y, 0, data.sample_ids)
    budget = attack._budget(1.0)
    assert not budget.exceeded(found, x) and not budget.exceeded(attack.strong(model, x, y, 0, data.sample_ids), x)
    half = attack.perturb(model, x, y, 0, data.sample_ids, share=0.5)
    assert budget.distance(half, x).max() <= 0.5 * eps + 1e-5 < budget.distance(found, x).max()
    loss = torch.nn.functional.cross_entropy
    assert loss(model(found), y) > loss(model(x), y)
    assert model.fc.weight.grad is None


def test_free_uses_one_gradient_for_weights_and_images() -> None:
    # in float64: a sign near zero must not hang on the order of a sum
    model, data = tiny_model().train().double(), image_set(8)
    twin = tiny_model().train().double()
    attack = training_attack(AdversarialParams(method="free", eps=0.04, steps=3))
    x, y = data.tensor(slice(0, 8)).double(), torch.from_numpy(data.labels)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    free = FreeSteps(attack, 3)
    free.step(model, torch.nn.functional.cross_entropy, optimizer, x, y, 1.0)
    moved = x.clone()
    for _ in range(3):  # the same in plain words
        moved.requires_grad_()
        loss = torch.nn.functional.cross_entropy(twin(moved), y)
        gradients = torch.autograd.grad(loss, [moved, *twin.parameters()])
        with torch.no_grad():
            for weight, gradient in zip(twin.parameters(), gradients[1:]):
                weight -= 0.1 * gradient
            moved = (moved + 0.04 * gradients[0].sign()).clamp(x - 0.04, x + 0.04).clamp(0, 1)
    torch.testing.assert_close(model.fc.weight, twin.fc.weight)
    torch.testing.assert_close(free.kept, moved - x)
    free.step(model, torch.nn.functional.cross_entropy, optimizer, x[:5], y[:5], 1.0)
    assert len(free.kept) == 8
    free.forget()
    assert free.kept is None


def test_frozen_layers_and_their_statistics_stay(tmp_path: Path) -> None:
    job(epochs=1).write(tmp_path / "first")
    start = str(tmp_path / "first" / "model.safetensors")
    job(epochs=2, start=start, frozen_to="layer2", lr=0.02).write(tmp_path / "second")
    before, after = (load_model(tmp_path / name).state_dict() for name in ("first", "second"))
    for key, value in before.items():
        frozen = key.split(".")[0] in ("conv1", "bn1", "layer1", "layer2")
        assert torch.equal(value, after[key]) == frozen, key


def test_head_epochs_train_the_head_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[dict[str, torch.Tensor], float]] = []
    original = training._Run._validate

    def watching(self: training._Run) -> dict[str, float]:
        weights = {key: value.clone() for key, value in self.model.state_dict().items()}
        seen.append((weights, self.optimizer.param_groups[0]["lr"]))
        return original(self)

    monkeypatch.setattr(training._Run, "_validate", watching)
    job(head_epochs=2, head_lr=0.5, epochs=1, lr=0.01, scheduler="none").write(tmp_path)
    (one, _), (two, _), (three, _) = seen
    changed = {key for key in one if not torch.equal(one[key], two[key])}
    assert changed == {"fc.weight", "fc.bias"}
    assert not torch.equal(two["conv1.weight"], three["conv1.weight"])
    assert [lr for _, lr in seen] == [0.5, 0.5, 0.01]
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].max() == 3


def test_the_schedule_begins_after_the_head() -> None:
    plain = TrainingParams(epochs=4, lr=1.0, scheduler="cosine")
    later = TrainingParams(epochs=4, lr=1.0, scheduler="cosine", head_epochs=3, head_lr=0.2)
    assert [later.lr_at(e) for e in (1, 3)] == [0.2, 0.2]
    assert [later.lr_at(3 + e) for e in (1, 2, 4)] == [plain.lr_at(e) for e in (1, 2, 4)]


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="for 8 of 255 grey levels write 0.03137"):
        AdversarialParams(method="pgd", eps=8)
    assert AdversarialParams(norm="l2", eps=3).eps == 3
    with pytest.raises(InputError, match="attack parameter of TrainingJob"):
        TrainingJob(
            ModelParams(name="tiny"),
            image_set(8),
            image_set(8),
            TrainingParams(adversarial=AdversarialParams(method="pgd")),
            0,
            "cpu",
        )
    with pytest.raises(InputError, match="Unknown layer 'layer9'"):
        job(frozen_to="layer9").write(tmp_path / "a")
    with pytest.raises(InputError, match="frozen_to parameter of training must be a layer with weights after it"):
        job(frozen_to="fc").write(tmp_path / "b")
    assert training_attack(AdversarialParams()) is None
    assert np.isclose(AdversarialParams(fade_in=4).share_of_eps(1), 0.25)
