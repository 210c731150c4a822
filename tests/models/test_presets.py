import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tests.models.tiny import image_set, images, tiny_stages

from xai_robustness.models import training
from xai_robustness.models.objective import loss_for
from xai_robustness.models.presets import PRESETS
from xai_robustness.models.training import TrainingJob, TrainingParams
from xai_robustness.models.training_params import plateau_factor
from xai_robustness.models.transforms import POLICIES, Mixing, Transforms
from xai_robustness.models.zoo import MODELS, ModelParams
from xai_robustness.robustness.comparisons import ComparisonParams
from xai_robustness.types import InputError

SMALL = {"epochs": 2, "batch_size": 16, "lr": 0.01, "warmup_epochs": 1}
IN_BASE = {"epochs", "batch_size", "lr", "optimizer", "scheduler", "patience", "augment", "class_weights"}


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._entries, "tiny", tiny_stages)


def job(task: str = "multi-class", **params: object) -> TrainingJob:
    train, val = image_set(40, task=task), image_set(20, task=task, seed=1)
    return TrainingJob(ModelParams(name="tiny"), train, val, TrainingParams(**{**SMALL, **params}), 0, "cpu")


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_training_and_says_all_that_the_base_study_says_of_it(name: str) -> None:
    params = TrainingParams(preset=name)
    for key, value in PRESETS[name].items():
        found = getattr(params, key)
        assert (found.model_dump() if key == "adversarial" else found) == value
    assert set(PRESETS[name]) >= IN_BASE


def test_what_is_explicit_wins_group_by_group() -> None:
    params = TrainingParams(preset="dermoscopy_adversarial", lr=0.5, adversarial={"steps": 2})
    assert (params.lr, params.adversarial.steps, params.adversarial.eps, params.batch_size) == (0.5, 2, 3.0, 16)
    assert "preset" not in params.result_values()
    assert params.result_values() == TrainingParams(**params.model_dump(exclude={"preset"})).result_values()


def test_a_misspelt_preset_is_named_with_the_choices() -> None:
    with pytest.raises(ValidationError, match=r"Unknown preset 'diet'.*Did you mean 'deit'\? Choose from: revise_vgg,"):
        TrainingParams(preset="diet")


def test_a_compared_model_takes_a_preset_over_the_studys_training() -> None:
    compared = ComparisonParams(models={"deit": {"preset": "deit", "epochs": 7}, "plain": {"lr": 0.2}})
    study = TrainingParams(epochs=3, lr=0.5, scheduler="one_cycle", start="given.pth")
    recipe = compared.recipe("deit", study)
    assert (recipe.epochs, recipe.scheduler, recipe.mixup, recipe.start) == (7, "cosine", 0.8, "given.pth")
    assert compared.recipe("plain", study).scheduler == "one_cycle"


def test_the_schedule_of_deit_is_timms() -> None:
    scheduler = pytest.importorskip("timm.scheduler")
    ours = TrainingParams(preset="deit")
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=ours.lr)
    peer = scheduler.CosineLRScheduler(optimizer, t_initial=100, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    for epoch in range(100):
        peer.step(epoch)
        assert ours.lr_at(epoch + 1) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


@pytest.mark.parametrize("patience", [0, 2, 5])
def test_the_plateau_is_torchs(patience: int) -> None:
    rng = np.random.default_rng(patience)
    losses = np.minimum.accumulate(rng.random(60)) + 0.01 * rng.random(60)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=patience, eps=0)
    for epoch, loss in enumerate(losses.tolist()):
        peer.step(loss)
        found = plateau_factor(losses[: epoch + 1].tolist(), patience)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=0)
    assert found < 1


def test_the_rate_falls_on_a_plateau_also_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    original = training._Run._step

    def watched(self, *arguments):  # type: ignore[no-untyped-def]
        seen.append(self.optimizer.param_groups[0]["lr"])
        if len(seen) == kill:
            raise Killed
        return original(self, *arguments)

    monkeypatch.setattr(training._Run, "_step", watched)
    monkeypatch.setattr(training._Run, "_validate", lambda self: dict.fromkeys(training.SCORES, 1.0))
    settings = {"scheduler": "plateau", "plateau_patience": 1, "warmup_epochs": 0, "epochs": 5}
    kill = 12
    with pytest.raises(Killed):
        job(**settings).write(tmp_path)
    kill = 0
    job(**settings).write(tmp_path)
    expected = [0.01] * 9 + [0.001] * 3 + [0.001] * 6  # three steps an epoch; epoch 4 twice
    assert seen == pytest.approx(expected)


RECIPE = {
    "policy": "rand_augment",
    "random_erasing": 0.5,
    "mixup": 0.8,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "grad_clip": 0.5,
    "optimizer": "adamw",
    "class_weights": False,
}


def test_a_whole_recipe_goes_on_after_a_kill_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(**RECIPE).write(tmp_path / "undisturbed")
    job().write(tmp_path / "plain")
    torch.manual_seed(99)
    calls, original = [], training._Run._step

    def dying(self, *arguments):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 5:
            raise Killed
        return original(self, *arguments)

    monkeypatch.setattr(training._Run, "_step", dying)
    with pytest.raises(Killed):
        job(**RECIPE).write(tmp_path / "killed")
    job(**RECIPE).write(tmp_path / "killed")
    assert weights(tmp_path / "killed") == weights(tmp_path / "undisturbed") != weights(tmp_path / "plain")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_changes_images_within_their_range_whatever_the_batch(policy: str, channels: int) -> None:
    pixels, ids = images(24, 20, channels=channels), np.arange(24)
    transform = Transforms(policy, 0.0, (20, 20))
    state = torch.random.get_rng_state()
    found = transform(pixels, ids, 0, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.shape == pixels.shape and found.min() >= 0 and found.max() <= 1 and not torch.equal(found, pixels)
    torch.testing.assert_close(transform(pixels[[5, 2]], ids[[5, 2]], 0, 1), found[[5, 2]], rtol=0, atol=0)
    assert not torch.equal(transform(pixels, ids, 0, 2), found) and not torch.equal(transform(pixels, ids, 1, 1), found)


def test_erasing_replaces_one_rectangle_of_its_share_of_the_images() -> None:
    pixels, ids = images(200, 16), np.arange(200)
    changed = (Transforms(None, 0.25, (16, 16))(pixels, ids, 0, 0) - pixels).abs().amax(1) > 1e-5
    touched = changed.flatten(1).any(1)
    assert 0.15 < touched.float().mean() < 0.35
    for mask in changed[touched]:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() >= 0.95 * rows * columns


def test_mixup_is_a_convex_sum_of_neighbours_and_their_labels() -> None:
    pixels, labels = images(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    mixed, shares = Mixing(0.8, 0.0, 3)(pixels, labels, 0, 1, 2)
    lam = float(shares[0, 0])
    assert 0 < lam < 1 and torch.allclose(shares.sum(1), torch.ones(6))
    torch.testing.assert_close(mixed, lam * pixels + (1 - lam) * pixels.roll(1, 0))
    assert torch.equal(Mixing(0.8, 0.0, 3)(pixels, labels, 0, 1, 2)[0], mixed)
    assert not torch.equal(Mixing(0.8, 0.0, 3)(pixels, labels, 0, 1, 3)[0], mixed)


def test_cutmix_shares_follow_the_area_and_both_kinds_come_up() -> None:
    pixels, labels = images(6, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    for batch in range(8):
        mixed, shares = Mixing(0.0, 1.0, 3)(pixels, labels, 0, 1, batch)
        kept = (mixed == pixels).all(1).float().mean((1, 2))
        torch.testing.assert_close(kept, torch.full((6,), float(shares[0, 0])))
    both = [Mixing(0.8, 1.0, 3)(pixels, labels, 0, 1, batch)[0] for batch in range(20)]
    pasted = [bool((mixed[:, 0] == pixels[:, 0]).any()) for mixed in both]
    assert 4 <= sum(pasted) <= 16


def test_smoothing_spreads_its_share_over_all_classes() -> None:
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2, 1])
    spread = 0.9 * F.one_hot(labels, 3) + 0.1 / 3
    expected = -(spread * logits.log_softmax(1)).sum(1).mean()
    found = loss_for("multi-class", labels.numpy(), 3, False, "cpu", 0.1)(logits, labels)
    torch.testing.assert_close(found, expected)


def test_a_clipped_step_is_no_longer_than_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[float] = []
    original = training._Run._step

    def watched(self, *arguments):  # type: ignore[no-untyped-def]
        before = torch.cat([w.detach().flatten().clone() for w in self.model.parameters()])
        logits = original(self, *arguments)
        moved.append(float((torch.cat([w.detach().flatten() for w in self.model.parameters()]) - before).norm()))
        return logits

    monkeypatch.setattr(training._Run, "_step", watched)
    settings = {"optimizer": "sgd", "momentum": 0.0, "scheduler": "none", "warmup_epochs": 0, "lr": 0.1}
    job(**settings, grad_clip=0.2).write(tmp_path / "clipped")
    assert max(moved) <= 0.1 * 0.2 * 1.001 and math.isclose(max(moved), 0.02, rel_tol=1e-3)
    moved.clear()
    job(**settings).write(tmp_path / "free")
    assert max(moved) > 0.03


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"mixup": 0.2, "adversarial": {"method": "pgd"}}, "mixup and cutmix parameters of training must be 0"),
        ({"grad_clip": 1.0, "adversarial": {"method": "free"}}, "grad_clip parameter of training must be null"),
        ({"warmup_epochs": 1, "scheduler": "one_cycle"}, "warmup_epochs parameter of training must be 0"),
    ],
)
def test_parts_of_recipes_that_do_not_fit_together(bad: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainingParams(**bad)


@pytest.mark.parametrize("bad", [{"mixup": 0.2}, {"cutmix": 0.2}, {"label_smoothing": 0.1}])
def test_several_labels_are_not_mixed(bad: dict) -> None:
    with pytest.raises(InputError, match="must be 0 where samples have several labels"):
        job(task="multi-label", **bad)
