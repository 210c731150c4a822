import pytest
import torch
from tests.models.tiny import disturb, images
from torch import nn

from xai_robustness.attribution.base import target_gradient
from xai_robustness.attribution.convolutions import lean
from xai_robustness.attribution.linearity import Linearity
from xai_robustness.attribution.packed import Dense, Packed, packable
from xai_robustness.models.modes import borrow
from xai_robustness.models.zoo import ModelParams, build

LAYERS = [
    nn.Conv2d(3, 8, 3, padding=1),
    nn.Conv2d(3, 8, 3, stride=2, padding=1),
    nn.Conv2d(3, 8, 1, bias=False),
    nn.Conv2d(3, 8, 5, padding=2, dilation=2),
    nn.Conv2d(3, 8, (3, 1), padding=(2, 0)),
    nn.Conv2d(3, 8, 2, padding=3),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_maps_equal_the_convolution_and_its_gradient(layer: nn.Conv2d) -> None:
    images = torch.rand(4, 3, 11, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = layer(images)
    above = torch.rand_like(output)
    (gradient,) = torch.autograd.grad(output, images, above)
    map_ = Linearity(layer)
    with torch.no_grad():
        assert packable(images, layer.weight, map_.options)
        for _ in range(2):  # made, then taken again
            torch.testing.assert_close(map_.apply(images, layer.weight, layer.bias), output, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(map_.back(above, layer.weight, images), gradient, rtol=1e-5, atol=1e-6)
        assert map_.apply(images, layer.weight, None).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layer", [*LAYERS[:2], nn.Conv2d(3, 8, 5, padding=4, dilation=2)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 3), (1, 6)])
def test_a_matrix_equals_the_convolution_and_its_gradient(layer: nn.Conv2d, size: tuple[int, int]) -> None:
    images = torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = layer(images)
    above = torch.rand_like(output)
    (gradient,) = torch.autograd.grad(output, images, above)
    map_ = Linearity(layer)
    with torch.no_grad():
        assert Dense.pays(images.shape, layer.weight, map_.options)
        torch.testing.assert_close(map_.apply(images, layer.weight, layer.bias), output, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(map_.back(above, layer.weight, images), gradient, rtol=1e-5, atol=1e-6)
    assert not Dense.pays((4, 3, 3, 3), layer.weight, map_.options) or layer.kernel_size == (5, 5)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vgg11_bn"])
def test_a_lean_model_is_the_same_function_and_comes_back(name: str) -> None:
    model = build(ModelParams(name=name), 3, (3, 28, 28), [0.5] * 3, [0.25] * 3, 0).eval()
    disturb(model)
    x, targets = images(4, 28), torch.tensor([0, 1, 2, 0])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with borrow(model):
        expected = target_gradient(model, x, targets)
        with lean(model):
            found = target_gradient(model, x, targets)
            assert sum("forward" in vars(module) for module in model.modules()) > 5
        again = target_gradient(model, x, targets)
    assert torch.equal(again, expected) and not torch.equal(found, expected)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_with_hooks_or_weights_in_the_graph_is_left_alone() -> None:
    model = build(ModelParams(name="resnet18"), 3, (3, 28, 28), [0.5] * 3, [0.25] * 3, 0).eval()
    with lean(model):
        assert not any("forward" in vars(module) for module in model.modules())
    model.requires_grad_(False)
    handle = model.conv1.register_forward_hook(lambda *_: None)
    with lean(model):
        assert not any("forward" in vars(module) for module in model.modules())
    handle.remove()
    with lean(model):
        assert any("forward" in vars(module) for module in model.modules())


def test_other_sizes_may_follow() -> None:
    layer = LAYERS[0]
    map_ = Linearity(layer)
    with torch.no_grad():
        for side in (8, 30, 5):
            images = torch.rand(2, 3, side, side)
            torch.testing.assert_close(map_.apply(images, layer.weight, layer.bias), layer(images))


def test_what_is_not_packed() -> None:
    conv, grouped = LAYERS[0], nn.Conv2d(4, 8, 3, groups=2)
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert not packable(images.double(), conv.weight.double(), Linearity(conv).options)
        assert not packable(torch.rand(1, 4, 8, 8), grouped.weight, Linearity(grouped).options)
        assert not packable(images[0], nn.Conv1d(3, 8, 3).weight, Linearity(nn.Conv1d(3, 8, 3)).options)
    assert not packable(images, conv.weight, Linearity(conv).options)  # a graph may be wanted
    assert not Packed.transposable(LAYERS[1].weight, Linearity(LAYERS[1]).options)
    assert not Packed.transposable(LAYERS[5].weight, Linearity(LAYERS[5]).options)
