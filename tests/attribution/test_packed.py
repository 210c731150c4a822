import pytest
import torch
from torch import nn

from xai_robustness.attribution.linearity import Linearity
from xai_robustness.attribution.packed import Packed, packable

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
