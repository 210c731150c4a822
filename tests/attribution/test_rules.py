"""Rules that do the arithmetic of torch's own operations in another way."""

import pytest
import torch
from torch import Tensor, nn

from xai_robustness.attribution.linearity import Linearity
from xai_robustness.attribution.rules import BLOCK, Ledger, MaxPool, Split, blocks_of, stabilizer_of
from xai_robustness.models.layers import Add

POOLS = (
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, 2, padding=1),
    nn.MaxPool2d((3, 2), (2, 1), ceil_mode=True),
    nn.MaxPool2d(2, 1, dilation=2),
)


def gradient(output: Tensor, x: Tensor, above: Tensor) -> Tensor:
    return torch.autograd.grad(output, x, above)[0]


@pytest.mark.parametrize("pool", POOLS)
def test_max_pooling_equals_torchs_to_the_bit(pool: nn.MaxPool2d) -> None:
    x = torch.randn(2, 3, 9, 7).round(decimals=0).requires_grad_()  # ties, which the first wins
    expected = pool(x)
    found = MaxPool(pool, Ledger())(x)
    above = torch.randn_like(expected)
    assert torch.equal(found, expected) and found.is_contiguous()
    assert torch.equal(gradient(found, x, above), gradient(expected, x, above))


def test_sums_are_split_the_same_in_any_number_of_blocks() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(2, 5, BLOCK // 4).double()
    above, ledger = torch.randn_like(left), Ledger()
    assert len(list(blocks_of(left))) == 2
    found = Split(Add(), ledger).relevance((left, right), left + right, above)
    share = above / (left + right + stabilizer_of(left + right))
    for term, relevance in zip((left, right), found):
        torch.testing.assert_close(relevance, term * share)
    torch.testing.assert_close(found[0].sum(1) + found[1].sum(1) + ledger.absorbed, above.sum(1))


def test_the_transposed_map_is_the_gradient() -> None:
    conv, x = nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.randn(2, 3, 7, 7, requires_grad=True)
    layer, output = Linearity(conv), conv(x)
    above = torch.randn_like(output)
    torch.testing.assert_close(layer.apply(x, conv.bias), output)
    torch.testing.assert_close(layer.back(above, x), gradient(output, x, above))
