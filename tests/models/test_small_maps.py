import pytest
import torch
from torch import nn

from xai_robustness.models.small_maps import (
    back_by_products,
    by_taps,
    convolve_by_products,
    products_for_small_maps,
    products_pay,
)

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
    found = gradients(lambda v: convolve_by_products(v, layer, layer.weight, layer.bias), layer, x)
    wanted = gradients(layer, layer, x)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_the_transposed_map_is_the_gradient(name: str) -> None:
    layer, size = LAYERS[name]
    layer = layer.double()
    x = torch.randn(3, 5, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = layer(x)
    above = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(output, x, above)
    found = back_by_products(above, layer, by_taps(layer.weight), size)
    torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-12)


def test_products_pay_for_many_samples_and_channels_on_few_positions() -> None:
    layer = nn.Conv2d(256, 512, 3, padding=1)

    def pay(samples: int, side: int, weight: torch.Tensor = layer.weight) -> bool:
        return products_pay(layer, weight, torch.empty(samples, 256, side, side))

    assert pay(4, 2) and pay(64, 4)
    assert not pay(2, 2) and not pay(2, 7) and not pay(64, 2, layer.weight[:, :, :1, :1])
    assert not products_pay(layer, layer.weight, torch.empty(64, 256, 2, 2, device="meta"))
    assert not products_pay(layer, layer.weight, torch.empty(64, 256, 2, 2, dtype=torch.bfloat16))


def test_used_where_it_pays_and_given_back() -> None:
    model = nn.Sequential(nn.Conv2d(256, 512, 3, padding=1), nn.Conv2d(512, 512, 3, padding=1, groups=512))
    x = torch.rand(16, 256, 2, 2)
    wanted = model(x)
    with pytest.raises(ZeroDivisionError), products_for_small_maps(model):
        assert ["forward" in vars(layer) for layer in model] == [True, False]
        torch.testing.assert_close(model(x), wanted)
        raise ZeroDivisionError
    assert all("forward" not in vars(layer) for layer in model)


def test_a_weight_that_is_trained_is_used_as_it_is_now() -> None:
    """Fused optimizers change weights without a new version, so that a kept copy could not be known as stale."""
    model = nn.Sequential(nn.Conv2d(256, 512, 3, padding=1))
    x, optimizer = torch.rand(16, 256, 2, 2), torch.optim.Adam(model.parameters(), fused=True)
    with products_for_small_maps(model):
        for _ in range(2):
            model.requires_grad_(False)
            with torch.inference_mode():
                judged = model(x)
            torch.testing.assert_close(judged, nn.Conv2d.forward(model[0], x))
            model.requires_grad_(True)
            model(x).square().sum().backward()
            optimizer.step()


def test_one_inside_another_gives_the_outer_one_back() -> None:
    model = nn.Sequential(nn.Conv2d(256, 512, 3, padding=1))
    with products_for_small_maps(model):
        outer = vars(model[0])["forward"]
        with products_for_small_maps(model, constant=True):
            assert vars(model[0])["forward"] is not outer
        assert vars(model[0])["forward"] is outer
