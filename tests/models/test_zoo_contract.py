"""What every architecture of the zoo promises: it trains, is explained and conserved, corrected, saved and loaded."""

from pathlib import Path

import pytest
import torch
from tests.models.tiny import disturb, images
from torch.nn.functional import cross_entropy

from xai_robustness.attribution.lrp import Lrp
from xai_robustness.models.checkpoint import describe, load_model, save_model
from xai_robustness.models.insertions import Projection
from xai_robustness.models.taps import pool
from xai_robustness.models.zoo import MODELS, ModelParams, build, insert_after, inspected_layers, split

SHAPE, MEAN, STD = (3, 32, 32), [0.4] * 3, [0.3] * 3
TARGETS = torch.tensor([0, 2])

QUICK = ("resnet18", "vgg11", "densenet121", "efficientnet_b0", "vit_small", "medvit_tiny")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_contract(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    params, x = ModelParams(name=name), images(2, 32)
    model = build(params, 3, SHAPE, MEAN, STD, seed=0)
    before = [parameter.clone() for parameter in model.parameters()]
    cross_entropy(model(x), TARGETS).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters()))
    assert all(p.grad is not None and torch.isfinite(p).all() for p in model.parameters())
    model.zero_grad()
    model.eval()
    disturb(model)
    settle(model, x)

    layers = inspected_layers(model)
    conserves(model, x, layers)

    k = split(model, layers[2])[0](x[:1]).shape[1]
    corrected = insert_after(model, layers[2], Projection(torch.eye(1, k)[0], 0.1), "projection")
    conserves(corrected, x, layers[3:])
    prefix, suffix = split(corrected, layers[2])
    with torch.no_grad():
        moved = next(suffix.children())(prefix(x)) if "." not in layers[2] else None
        expected = corrected(x)
    assert moved is None or torch.allclose(pool(moved, "max")[:, 0], torch.tensor(0.1), atol=1e-5)

    save_model(corrected, describe(params, 3, SHAPE, MEAN, STD), tmp_path)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(x), expected)  # to the bit


def settle(model: torch.nn.Module, x: torch.Tensor) -> None:
    """Give batch norms the statistics of `x`, as training would: with others a deep network's activations explode."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    with torch.no_grad():
        model(x)
    model.eval()


def conserves(model: torch.nn.Sequential, x: torch.Tensor, layers: tuple[str, ...]) -> None:
    """|sum R + what constants took - f| <= 1e-4 max(|f|, sum|R|) at every stage, and pooled latents are finite."""
    with torch.no_grad():
        logits = model(x)
    with Lrp(model, "epsilon_plus_flat") as lrp:
        found = lrp.run(x, TARGETS, layers)
    torch.testing.assert_close(found.logits, logits, rtol=1e-3, atol=1e-4)
    wanted = logits[torch.arange(2), TARGETS]
    assert max(found.lost.values()) <= 1e-4, found.lost
    for layer in layers:
        relevance = found.relevances[layer].flatten(1)
        size = torch.maximum(relevance.abs().sum(1), wanted.abs())
        assert ((relevance.sum(1) + found.absorbed[layer] - wanted).abs() <= 1e-4 * size).all(), layer
        for how in ("sum", "max", "mean"):
            assert torch.isfinite(pool(found.relevances[layer], how)).all()
    assert found.attribution.shape == x.shape
    assert found.attribution.abs().sum() > 0
