import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from tests.models.tiny import disturb, images
from torch import nn

from xai_robustness.attribution.lrp import Lrp
from xai_robustness.models.checkpoint import describe, load_model, load_weights, save_model
from xai_robustness.models.insertions import Projection
from xai_robustness.models.zoo import ModelParams, build, insert_after, inspected_layers, split
from xai_robustness.types import InputError

SHAPE, MEAN, STD = (3, 32, 32), [0.4] * 3, [0.3] * 3
TARGETS = torch.tensor([0, 2])


def export(network: nn.Module, path: Path, dynamic: bool = True) -> str:
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network, (images(2, 32),), dynamic_shapes=shapes), path)
    return str(path)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, str]:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3)
    disturb(network.eval())
    return network, export(network, tmp_path_factory.mktemp("exported") / "net.pt2")


def test_an_exported_network_goes_through_the_chain(resnet: tuple[nn.Module, str], tmp_path: Path) -> None:
    network, name = resnet
    params, x = ModelParams(name=name), images(3, 32)
    model = build(params, 3, SHAPE, MEAN, STD, seed=5).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), network((x - 0.4) / 0.3), rtol=1e-4, atol=1e-5)
    layers = inspected_layers(model)
    assert len(layers) == 4
    with Lrp(model, "epsilon_plus_flat") as lrp:
        found = lrp.run(x[:2], TARGETS, layers)
    assert max(found.lost.values()) < 1e-4
    with torch.no_grad():
        prefix, suffix = split(model, layers[1])
        torch.testing.assert_close(suffix(prefix(x)), model(x))
        k = prefix(x).shape[1]
        corrected = insert_after(model, layers[1], Projection(torch.eye(1, k)[0], 0.1), "projection")
        save_model(corrected, describe(params, 3, SHAPE, MEAN, STD), tmp_path)
        assert torch.equal(load_model(tmp_path)(x), corrected(x))
        moved = build(params, 3, SHAPE, MEAN, STD, seed=0).eval()
        nn.init.zeros_(next(moved.parameters()))
        load_weights(name, moved)
        torch.testing.assert_close(moved(x), model(x))


def test_training_reaches_every_weight(resnet: tuple[nn.Module, str]) -> None:
    model = build(ModelParams(name=resnet[1]), 3, SHAPE, MEAN, STD, 0)
    assert all(isinstance(m, nn.BatchNorm2d) <= m.training for m in model.modules())
    model(images(4, 32)).square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert sum(w.numel() for w in model.parameters()) == sum(w.numel() for w in resnet[0].parameters())


class Small(nn.Module):
    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], dims: tuple[int, ...], keep: bool) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.between, self.dims, self.keep = between, dims, keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.between(self.conv(x)).mean(self.dims, keepdim=self.keep).flatten(1))


@pytest.mark.parametrize(("dims", "keep"), [((2, 3), False), ((-1, -2), False), ((2, 3), True)])
def test_a_global_mean_is_a_pooling(dims: tuple[int, ...], keep: bool, tmp_path: Path) -> None:
    network = Small(torch.relu, dims, keep).eval()
    model = build(ModelParams(name=export(network, tmp_path / "net.pt2")), 3, SHAPE, MEAN, STD, 0).eval()
    x = images(2, 32)
    torch.testing.assert_close(model(x), network((x - 0.4) / 0.3), rtol=1e-4, atol=1e-5)
    with Lrp(model, "epsilon_plus_flat") as lrp:
        assert max(lrp.run(x, TARGETS).lost.values(), default=0.0) < 1e-4


def test_what_has_no_rule_works_but_is_refused_by_lrp(tmp_path: Path) -> None:
    network = Small(torch.tanh, (2, 3), False).eval()
    model = build(ModelParams(name=export(network, tmp_path / "net.pt2")), 3, SHAPE, MEAN, STD, 0).eval()
    x = images(2, 32)
    torch.testing.assert_close(model(x), network((x - 0.4) / 0.3), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="Got Tanh in the stage"), Lrp(model) as lrp:
        lrp.run(x, TARGETS)


def test_what_cannot_be_used_is_one_sentence(resnet: tuple[nn.Module, str], tmp_path: Path) -> None:
    fixed = export(Small(torch.tanh, (2, 3), False).eval(), tmp_path / "fixed.pt2", dynamic=False)
    (tmp_path / "broken.pt2").write_bytes(b"nothing")
    for name, classes, sentence in (
        (fixed, 3, "exported for 2 instead: export it with dynamic_shapes"),
        (resnet[1], 4, "must be for 3 channels and 4 classes"),
        (str(tmp_path / "broken.pt2"), 3, "cannot be read as an exported network"),
        (str(tmp_path / "absent.pt2"), 3, "must be an existing .pt2 file"),
    ):
        with pytest.raises(InputError, match=sentence):
            build(ModelParams(name=name), classes, SHAPE, MEAN, STD, 0)
