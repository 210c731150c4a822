import math

import pytest
import torch
from tests.attacks.conftest import accuracy
from torch import nn

from xai_robustness.attacks.base import ATTACKS, Attack, Best, BudgetError
from xai_robustness.attacks.budget import Linf, make_budget
from xai_robustness.attacks.criteria import Confident, Misclassified, Reached, cross_entropy, margin
from xai_robustness.attacks.noise import RandomNoise
from xai_robustness.attacks.params import AttackParams
from xai_robustness.attacks.pgd import FGSM, PGD, EstimatedPGD
from xai_robustness.attacks.streams import Streams
from xai_robustness.types import InputError

Batch = tuple[torch.Tensor, torch.Tensor]
CASES = {
    "fgsm linf": lambda: FGSM(make_budget("linf", 0.05)),
    "fgsm l2": lambda: FGSM(make_budget("l2", 0.5)),
    "pgd linf": lambda: PGD(make_budget("linf", 0.05), 5, restarts=1),
    "pgd l2": lambda: PGD(make_budget("l2", 0.5), 5),
    "pgd unconstrained": lambda: PGD(make_budget("unconstrained"), 5, 0.1),
    "pgd fourier": lambda: PGD(make_budget("fourier"), 5, 2.0),
    "estimated": lambda: EstimatedPGD(make_budget("linf", 0.05), 5, steps=4),
    "noise": lambda: RandomNoise(make_budget("linf", 0.05)),
    "uniform noise": lambda: RandomNoise(make_budget("l2", 0.5), 3, "uniform"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_attack_keeps_the_promises(case: str, model: nn.Sequential, batch: Batch) -> None:
    x, y = batch
    attack, before = CASES[case](), {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    found = attack(model, x, y, seed=3)
    assert all(module.training for module in model.modules())
    model.eval()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(
        (weight.requires_grad and weight.grad is None) or weight.grad is not None for weight in model.parameters()
    )
    assert not attack.budget.exceeded(found.images, x)
    assert found.images.min() >= 0 and found.images.max() <= 1
    with torch.no_grad():
        assert torch.equal(found.success, model(found.images).argmax(1) != y)
    again = attack(model, x, y, seed=3)
    assert torch.equal(found.images, again.images)


@pytest.mark.parametrize("case", ["pgd linf", "noise", "estimated", "uniform noise"])
def test_a_sample_does_not_depend_on_its_batch(case: str, model: nn.Sequential, batch: Batch) -> None:
    x, y = batch[0][:6], batch[1][:6]
    attack = CASES[case]()
    whole = attack(model, x, y, seed=1, ids=[5, 4, 3, 2, 1, 0])
    parts = [attack(model, x[i : i + 2], y[i : i + 2], seed=1, ids=[5 - i, 4 - i]) for i in (0, 2, 4)]
    torch.testing.assert_close(whole.images, torch.cat([part.images for part in parts]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [FGSM, PGD, RandomNoise])
def test_without_a_budget_nothing_moves(kind: type, model: nn.Sequential, batch: Batch) -> None:
    attack = kind(make_budget("linf", 0.0), **({"step_size": 0.1} if kind is PGD else {}))
    found = attack(model, *batch)
    assert torch.equal(found.images, batch[0]) and not found.success.any()


def test_gradients_beat_noise_and_more_budget_is_worse(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch
    left = {eps: int((~PGD(make_budget("linf", eps), 10)(model, x, y).success).sum()) for eps in (0.01, 0.05, 0.1)}
    assert left[0.01] >= left[0.05] >= left[0.1] and left[0.1] < left[0.01]
    noise = RandomNoise(make_budget("linf", 0.1), 20)(model, x, y)
    assert left[0.1] < int((~noise.success).sum())


def test_fgsm_is_one_signed_step(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch[0].clone().requires_grad_(), batch[1]
    nn.functional.cross_entropy(model(x), y, reduction="sum").backward()
    expected = (x + 0.05 * x.grad.sign()).clamp(0, 1).detach()
    found = FGSM(make_budget("linf", 0.05))(model, *batch)
    moved = found.success  # the others keep whatever has the larger loss, the image or the step
    assert moved.any()
    torch.testing.assert_close(found.images[moved], expected[moved], rtol=0, atol=2e-7)


def test_restarts_only_help_and_start_elsewhere(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch
    one = PGD(make_budget("linf", 0.06), 2, 0.03)(model, x, y)
    many = PGD(make_budget("linf", 0.06), 2, 0.03, restarts=15)(model, x, y)
    assert (many.success | ~one.success).all()
    assert many.success.sum() > one.success.sum()
    kept = one.success
    assert torch.equal(many.images[kept], one.images[kept])  # a success is not overwritten by a later restart


def test_best_iterate_is_the_best_of_all_steps(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch
    seen = []

    class Recording(PGD):
        def gradient(self, *arguments: object) -> tuple:
            found = super().gradient(*arguments)
            seen.append(found[2])
            return found

    attack = Recording(make_budget("linf", 0.05), 8, 0.05, largest_loss=True)  # long steps: the loss is not monotone
    found = attack(model, x, y)
    assert len(seen) == 9
    largest = torch.stack(seen).amax(0)
    assert (largest > seen[-1] + 1e-4).any()
    torch.testing.assert_close(cross_entropy(found.logits, y), largest, rtol=1e-4, atol=1e-5)


def test_targeted(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch
    wanted = (y + 1) % 3
    found = PGD(make_budget("linf", 0.3), 20, targeted=True)(model, x, wanted)
    assert torch.equal(found.success, found.logits.argmax(1) == wanted)
    assert found.success.float().mean() > 0.8
    assert PGD(make_budget("linf", 0.3), 20)(model, x, wanted).success.all()  # untargeted: they are missed already


def test_estimated_gradients_point_along_true_ones(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch[0][:2], batch[1][:2]
    budget = make_budget("l2", 1.0)
    true = PGD(budget, loss=margin)
    estimated = EstimatedPGD(budget, queries=1000, radius=1e-2, loss=margin)
    g = true.gradient(model, x, y, Streams(0, "t", range(2)), True)[3].flatten(1)
    e = estimated.gradient(model, x, y, Streams(0, "t", range(2)), True)[3].flatten(1)
    assert (nn.functional.cosine_similarity(g, e) > 0.75).all()
    assert ((e.norm(dim=1) / g.norm(dim=1) - 1).abs() < 0.4).all()


def test_fourier_and_unconstrained_can_do_more(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch
    for attack in (PGD(make_budget("unconstrained"), 30, 0.1, loss=margin), PGD(make_budget("fourier"), 30, 5.0)):
        assert attack(model, x, y).success.float().mean() > 0.9


def test_the_base_class_cannot_be_talked_out_of_it(model: nn.Sequential, batch: Batch) -> None:
    class Boundless(Attack):
        def run(self, model: nn.Module, origin: torch.Tensor, labels: torch.Tensor, streams: object) -> tuple:
            return origin + 10, None

    found = Boundless(make_budget("linf", 0.1), Misclassified())(model, *batch)
    torch.testing.assert_close(found.images, (batch[0] + 0.1).clamp(max=1), rtol=0, atol=1e-6)
    with pytest.raises(TypeError, match="must not override __call__"):

        class Rogue(Attack):
            def __call__(self) -> None: ...

    class Broken(Linf):
        norm = "linf"

        def project(self, point: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
            return point

    with pytest.raises(BudgetError, match="left its budget linf 0.1"):
        Boundless(Broken(0.1), Misclassified())(model, *batch)


def test_a_loss_that_is_not_a_number_is_never_best() -> None:
    best = Best(torch.zeros(2, 1, 1, 1))
    ones = torch.ones(2, 1, 1, 1)
    best.offer(ones, torch.tensor([math.nan, 1.0]), torch.zeros(2, dtype=torch.bool), torch.arange(2))
    assert best.images.flatten().tolist() == [0.0, 1.0]


def test_criteria() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.1], [3.0, -3.0]])
    labels = torch.tensor([0, 0, 1])
    assert Misclassified()(logits, labels).tolist() == [False, True, True]
    assert Reached()(logits, labels).tolist() == [True, False, False]
    assert (Misclassified() & Confident(0.9))(logits, labels).tolist() == [False, False, True]
    several = torch.tensor([[1, 0], [1, 1], [1, 0]])
    assert Misclassified()(logits, several).tolist() == [False, True, False]
    assert margin(logits, labels).tolist() == pytest.approx([-2.0, 0.1, 6.0])
    assert margin(logits, several).tolist() == pytest.approx([0.0, 0.0, -3.0])
    expected = nn.functional.binary_cross_entropy_with_logits(logits, several.float(), reduction="none").sum(1)
    torch.testing.assert_close(cross_entropy(logits, several), expected)


def test_multi_label(model: nn.Sequential, batch: Batch) -> None:
    x = batch[0]
    with torch.no_grad():
        y = (model(x) > 0).long()
    found = PGD(make_budget("linf", 0.1), 10)(model, x, y)
    assert torch.equal(found.success, ((found.logits > 0).long() != y).any(1)) and found.success.float().mean() > 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(make_budget("linf", 0.1), 0), "steps parameter of PGD must be at least 1"),
        (lambda: PGD(make_budget("linf", 0.1), 3, -1.0), "step_size parameter of PGD must be positive"),
        (lambda: PGD(make_budget("linf", 0.1), restarts=-1), "restarts at least 0"),
        (lambda: RandomNoise(make_budget("unconstrained")), "linf or l2"),
        (lambda: RandomNoise(make_budget("linf", 0.1), 0), "at least 1"),
        (lambda: EstimatedPGD(make_budget("fourier"), 3), "over images"),
        (lambda: Confident(2), r"must be in \[0,1\]"),
        (lambda: ATTACKS["pdg"], "Did you mean 'pgd'"),
    ],
)
def test_bad_settings(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_bad_images(model: nn.Sequential, batch: Batch) -> None:
    attack = FGSM(make_budget("linf", 0.1))
    with pytest.raises(InputError, match=r"must lie in \[0,1\]; the model normalises inside. Got values from"):
        attack(model, batch[0] * 255, batch[1])
    with pytest.raises(InputError, match=r"int64 \(N,\)"):
        attack(model, batch[0], batch[1].float())
    with pytest.raises(InputError, match="N > 0"):
        attack(model, batch[0][:0], batch[1][:0])


def test_accuracy_helper_counts(model: nn.Sequential, batch: Batch) -> None:
    assert accuracy(model, *batch) == len(batch[0])


@pytest.mark.parametrize("kind", ["fgsm", "pgd", "estimated_pgd", "noise"])
def test_attacks_by_name(kind: str) -> None:
    params = AttackParams(kind=kind, eps=0.1, steps=7, queries=3)
    attack = params.make()
    assert attack.name == kind and attack.budget.eps == 0.1 and params.condition == f"{kind}_linf_0.1"
    assert getattr(attack, "steps", 7) == (1 if kind == "fgsm" else 7)


@pytest.mark.parametrize("bad", [{"eps": 8.0}, {"eps": -1.0}, {"kind": "pdg"}, {"norm": "l1"}, {"steps": 0}])
def test_bad_parameters(bad: dict) -> None:
    with pytest.raises(ValueError):
        AttackParams(**bad)
    assert AttackParams(norm="l2", eps=7).make().budget.eps == 7
