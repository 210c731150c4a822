"""Promises of every registered attribution method, at its default options."""

import gc
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.tiny import disturb, images, tiny_model, tiny_vit
from torch import nn

from xai_robustness.attribution import ATTRIBUTORS, Attributor
from xai_robustness.types import InputError

TARGETS = torch.tensor([0, 1, 2, 0, 1])
MODELS: dict[str, Any] = {"attention_rollout": tiny_vit, "gradient_rollout": tiny_vit}
"""Methods that do not explain `tiny_model` name another builder here."""


def build(name: str) -> nn.Sequential:
    return MODELS.get(name, tiny_model)()


def create(name: str, model: nn.Module, **options: Any) -> Attributor:
    attributor = ATTRIBUTORS.create(name, model, **options)
    assert isinstance(attributor, Attributor)
    return attributor


def signal_model() -> nn.Sequential:
    """A small convolutional net for signals (N,2,24)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv1d(2, 6, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 8, 3, padding=1), nn.ReLU()]
        head = OrderedDict(avgpool=nn.AdaptiveAvgPool1d(1), flatten=nn.Flatten(1), fc=nn.Linear(8, 3))
        model = nn.Sequential(OrderedDict(features=nn.Sequential(*layers), **head))
        disturb(model)
    return model.eval()


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that a method could leave changed."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        found[path] = (type(module), module.training, sorted(vars(module)), [len(h) for h in hooks])
        found[f"{path} forward"] = module.forward.__qualname__
    for path, weight in model.named_parameters():
        gradient = None if weight.grad is None else weight.grad.tolist()
        found[path] = (id(weight), weight.requires_grad, gradient, weight.tolist())
    for path, buffer in model.named_buffers():
        found[path] = (id(buffer), buffer.tolist())
    return found


def awkward(model: nn.Sequential) -> nn.Sequential:
    """The model in mixed modes, with a frozen weight and a gradient, as training would leave it."""
    model.train()
    list(model.children())[-2].eval()
    first, *_, last = model.parameters()
    first.requires_grad_(False)
    last.grad = torch.ones_like(last)
    return model


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_shape_and_values(name: str) -> None:
    model, x = build(name), images(5)
    given = x.clone()
    attributor = create(name, model)
    found = attributor(x, TARGETS)
    assert found.shape == (5, 1 if attributor.heatmaps else 3, 12, 12) and found.dtype == torch.float32
    assert torch.isfinite(found).all() and found.abs().max() > 0 and not found.requires_grad
    assert torch.equal(x, given) and not x.requires_grad
    assert not attributor.targeted or not torch.allclose(attributor(x, (TARGETS + 1) % 3), found)


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_nothing_of_a_pass_is_kept(name: str) -> None:
    attributor, x = create(name, build(name)), images(5)
    attributor(x, TARGETS)
    before = live_tensors()
    for _ in range(2):
        attributor(x, TARGETS)
    assert live_tensors() == before


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_the_model_comes_back_as_it_was(name: str) -> None:
    model, x = awkward(build(name)), images(5)
    before, state, numpy_state = snapshot(model), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    create(name, model)(x, TARGETS)
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_the_model_comes_back_from_a_failure(name: str) -> None:
    model, calls = awkward(build(name)), []

    def fail(module: nn.Module, inputs: object) -> None:
        calls.append(1)
        if len(calls) == 2:  # the first pass checks the targets
            raise RuntimeError("broken on purpose")

    list(model.children())[-1].register_forward_pre_hook(fail)
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        create(name, model)(images(5), TARGETS)
    assert snapshot(model) == before


def test_the_snapshot_sees_changes() -> None:
    model = awkward(tiny_model())
    before = snapshot(model)
    model.fc.register_forward_hook(lambda *_: None)
    assert snapshot(model) != before
    model = awkward(tiny_model())
    before = snapshot(model)
    model.fc.weight.data[0, 0] += 1
    assert snapshot(model) != before


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_batches_and_neighbours_change_nothing(name: str) -> None:
    model, x = build(name).double(), images(5).double()
    found = create(name, model)(x, TARGETS)
    assert found.dtype == torch.float64
    order = torch.tensor([3, 0, 4, 2])
    again = create(name, model, batch_size=3)(x[order], TARGETS[order])
    torch.testing.assert_close(again, found[order], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_the_callers_gradient_mode_changes_nothing(name: str) -> None:
    model, x = build(name), images(2)
    found = create(name, model)(x, TARGETS[:2])
    with torch.no_grad():
        assert torch.equal(create(name, model)(x, TARGETS[:2]), found)
    with torch.inference_mode():
        assert torch.equal(create(name, model)(x.clone(), TARGETS[:2].clone()), found)
    assert torch.equal(create(name, model)(x.clone().requires_grad_(), TARGETS[:2]), found)


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_signals_are_explained_or_refused(name: str) -> None:
    model = signal_model()
    x = torch.rand(4, 2, 24, generator=torch.Generator().manual_seed(1))
    try:
        attributor = create(name, model)
        found = attributor(x, TARGETS[:4])
    except InputError:
        return
    assert found.shape == (4, 1 if attributor.heatmaps else 2, 24)
    assert torch.isfinite(found).all() and found.abs().max() > 0


@pytest.mark.parametrize("name", ATTRIBUTORS)
@pytest.mark.parametrize("bad", [-1, 3])
def test_targets_outside_the_classes(name: str, bad: int) -> None:
    attributor = create(name, build(name))
    with pytest.raises(InputError, match=rf"must be in 0..2, the model's classes. Got \[{bad}\] instead"):
        attributor(images(2), torch.tensor([0, bad]))


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_images_that_are_not_finite(name: str) -> None:
    attributor, x = create(name, build(name)), images(4)
    x[2, 0, 3, 3] = torch.nan
    with pytest.raises(InputError, match=r"must be finite. Got NaN or infinite values in 1 of 4 images, .* \[2\]"):
        attributor(x, TARGETS[:4])


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_unknown_options(name: str) -> None:
    with pytest.raises(InputError, match=f"Unknown option 'colour' of attribution method '{name}'.*: .*batch_size"):
        create(name, build(name), colour="red")
    with pytest.raises(InputError, match="batch_size parameter of Attributor must be at least 1"):
        create(name, build(name), batch_size=0)


def test_unknown_methods() -> None:
    with pytest.raises(InputError, match=r"Unknown attribution method 'salience'. Did you mean 'saliency'\? Choose"):
        ATTRIBUTORS.create("salience", tiny_model())


@pytest.mark.parametrize("targets", [TARGETS[:3], TARGETS.float(), TARGETS[:, None]])
def test_targets_of_another_shape(targets: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"must be float \(N,C,H,W\) or \(N,C,T\) and int64 \(N,\) with N > 0"):
        create("saliency", tiny_model())(images(5), targets)


@pytest.mark.parametrize("x", [images(5)[0, 0], images(5)[:0], (images(5) * 255).to(torch.uint8)])
def test_images_of_another_kind(x: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"must be float \(N,C,H,W\)"):
        create("saliency", tiny_model())(x, TARGETS[: len(x)])


def test_models_without_logits() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    with pytest.raises(InputError, match=r"must give logits \(B,K\). Got \(1, 2, 10, 10\)"):
        create("saliency", model)(images(5), TARGETS)
