"""PGD beside foolbox and the Adversarial Robustness Toolbox: the same model, budget, steps and lengths of steps."""

import importlib.util

import numpy as np
import pytest
import torch
from tests.attacks.conftest import accuracy
from torch import nn

from xai_robustness.attacks import autoattack
from xai_robustness.attacks.autoattack import AutoAttack
from xai_robustness.attacks.budget import make_budget
from xai_robustness.attacks.evaluate import robust_accuracy, robustness_table
from xai_robustness.attacks.pgd import FGSM, PGD
from xai_robustness.types import InputError

Batch = tuple[torch.Tensor, torch.Tensor]
BUDGET = [("linf", 0.03), ("linf", 0.05), ("l2", 0.6), ("l2", 1.0)]
STEPS = 10


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"the oracle {name} is not installed")


def ours(model: nn.Module, batch: Batch, norm: str, eps: float) -> int:
    found = PGD(make_budget(norm, eps), STEPS, eps / 4, random_start=False)(model, *batch)
    return accuracy(model, found.images, batch[1])


@needs("foolbox")
@pytest.mark.parametrize(("norm", "eps"), BUDGET)
def test_pgd_against_foolbox(norm: str, eps: float, model: nn.Sequential, batch: Batch) -> None:
    import foolbox

    torch.manual_seed(0)
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    attack = kind(abs_stepsize=eps / 4, rel_stepsize=None, steps=STEPS, random_start=False)
    _, images, _ = attack(foolbox.PyTorchModel(model, (0, 1)), *batch, epsilons=eps)
    assert ours(model, batch, norm, eps) <= accuracy(model, images, batch[1]) + 1


@needs("art")
@pytest.mark.parametrize(("norm", "eps"), BUDGET[1:3])
def test_pgd_against_art(norm: str, eps: float, model: nn.Sequential, batch: Batch) -> None:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    np.random.seed(0)  # noqa: NPY002
    estimator = PyTorchClassifier(model, nn.CrossEntropyLoss(), (3, 12, 12), 3, clip_values=(0, 1), device_type="cpu")
    order = np.inf if norm == "linf" else 2
    attack = ProjectedGradientDescentPyTorch(
        estimator, order, eps, eps / 4, max_iter=STEPS, num_random_init=0, verbose=False
    )
    images = torch.from_numpy(attack.generate(batch[0].numpy(), batch[1].numpy()))
    assert ours(model, batch, norm, eps) <= accuracy(model, images, batch[1]) + 1


@needs("foolbox")
def test_fgsm_is_foolbox_step(model: nn.Sequential, batch: Batch) -> None:
    import foolbox

    _, images, success = foolbox.attacks.LinfFastGradientAttack()(
        foolbox.PyTorchModel(model, (0, 1)), *batch, epsilons=0.06
    )
    found = FGSM(make_budget("linf", 0.06))(model, *batch)
    assert success.any() and torch.equal(found.success, success)
    torch.testing.assert_close(found.images[success], images[success], rtol=0, atol=1e-6)


@needs("art")
def test_autoattack_is_at_least_as_strong(model: nn.Sequential, batch: Batch) -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    attack = AutoAttack(make_budget("linf", 0.05), queries=20, steps=10)
    found = attack(model, *batch, seed=1)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert not attack.budget.exceeded(found.images, batch[0])
    assert int((~found.success).sum()) <= ours(model, batch, "linf", 0.05) + 1
    assert torch.equal(attack(model, *batch, seed=1).images, found.images)


def test_autoattack_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"Run: pip install 'xai_robustness\[attacks\]'"):
        AutoAttack(make_budget("linf", 0.1))


def test_robust_accuracy_counts_what_stands(model: nn.Sequential, data: object) -> None:
    attack = PGD(make_budget("linf", 0.05), 10)
    found = robust_accuracy(model, data, attack, seed=2, batch_size=45)
    parts = robust_accuracy(model, data, attack, seed=2, batch_size=17)
    assert (found.robust == parts.robust).all() and (found.robust <= found.correct).all()
    labels = data.labels
    assert (found.correct == (found.logits.argmax(1) == labels)).all()
    assert (found.robust == (found.correct & (found.attacked_logits.argmax(1) == labels))).all()
    assert (found.distance[~found.correct] == 0).all() and found.distance.max() <= 0.05 + 1e-6
    table = robustness_table({"pgd": found}).set_index("metric")
    assert list(table.index) == ["test/clean/accuracy", "test/pgd/accuracy", "test/pgd/success_rate"]
    assert table.loc["test/pgd/accuracy", "value"] == pytest.approx(found.accuracy)
    turned = 1 - found.robust.sum() / found.correct.sum()
    assert table.loc["test/pgd/success_rate", "value"] == pytest.approx(turned)
    assert (table["ci_low"] <= table["value"]).all() and (table["value"] <= table["ci_high"]).all()


def test_without_a_budget_robust_is_clean(model: nn.Sequential, data: object) -> None:
    found = robust_accuracy(model, data, FGSM(make_budget("linf", 0.0)))
    assert (found.robust == found.correct).all() and found.correct.mean() > 0.5
