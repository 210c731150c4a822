import pytest
import torch
from torch import nn

from xai_robustness.models import small_maps
from xai_robustness.models.small_maps import ConvolutionMatrix, convolve_by_matrix, products_for_small_maps

LAYERS = {
    "plain": (nn.Conv2d(5, 7, 3, padding=1), (2, 2)),
    "stride": (nn.Conv2d(5, 7, 3, stride=2, padding=1, bias=False), (4, 3)),
    "uneven": (nn.Conv2d(5, 7, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(1, 2)), (3, 5)),
}


def gradients(forward, layer: nn.Conv2d, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradients, and gradients of a squared gradient."""
    x = x.clone().requires_grad_()
    y = forward(x)
    weights = [x, *layer.parameters()]
    first = torch.autograd.grad(y.sin().sum(), weights, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), weights, allow_unused=True)
    return [y, *first, *(s for s in second if s is not None)]


@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_convolution_with_its_gradients(name: str) -> None:
    layer, size = LAYERS[name]
    layer = layer.double()
    x = torch.randn(3, 5, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = gradients(lambda v: convolve_by_matrix(v, layer), layer, x)
    wanted = gradients(layer, layer, x)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_one_matrix_equals_the_convolution_and_its_gradient(name: str) -> None:
    layer, size = LAYERS[name]
    layer = layer.double()
    x = torch.randn(3, 5, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = layer(x)
    above = torch.randn_like(output)
    (gradient,) = torch.autograd.grad(output, x, above)
    with torch.no_grad():
        matrix = ConvolutionMatrix(layer, layer.weight, size)
        torch.testing.assert_close(matrix.apply(x, layer.bias), output, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(matrix.back(above), gradient, rtol=1e-10, atol=1e-12)


def test_a_matrix_pays_where_most_of_the_kernel_lies_outside() -> None:
    layer = LAYERS["plain"][0]
    assert ConvolutionMatrix.pays(layer, (2, 2)) and ConvolutionMatrix.pays(layer, (2, 3))
    assert not ConvolutionMatrix.pays(layer, (3, 3)) and not ConvolutionMatrix.pays(nn.Conv2d(5, 7, 1), (1, 1))


def test_used_for_small_maps_with_a_graph_alone_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(5, 7, 3, padding=1)
    model = nn.Sequential(layer, nn.Conv2d(7, 7, 3, padding=1, groups=7))
    calls: list[tuple[int, ...]] = []
    real = convolve_by_matrix
    monkeypatch.setattr(small_maps, "convolve_by_matrix", lambda x, c: calls.append(tuple(x.shape)) or real(x, c))
    with pytest.raises(ZeroDivisionError), products_for_small_maps(model):
        model(torch.rand(32, 5, 2, 2)), model(torch.rand(32, 5, 8, 8)), model(torch.rand(31, 5, 2, 2))
        with torch.no_grad():
            model(torch.rand(32, 5, 2, 2))
        raise ZeroDivisionError
    assert calls == [(32, 5, 2, 2)]
    assert "forward" not in vars(layer)
