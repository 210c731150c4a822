import math

import pytest
import torch
import torchvision
from tests.models.test_transformers import small_vit
from tests.models.tiny import images
from torch import Tensor, nn

from xai_robustness.attribution.composites import COMPOSITES
from xai_robustness.attribution.lrp import Lrp
from xai_robustness.attribution.rules import Ledger
from xai_robustness.attribution.transformer_rules import DetachedAttention, SoftmaxAttention
from xai_robustness.models.pit import pit_stages
from xai_robustness.models.rewrite import from_module
from xai_robustness.models.transformers import Attend, vit_stages
from xai_robustness.types import InputError

EPS = 1e-6


def stable(value: float) -> float:
    return value + (EPS if value >= 0 else -EPS)


def naive(qkv: Tensor, above: Tensor, heads: int, softmax: bool) -> Tensor:
    """Attention's relevance, one number at a time, from the paper's propositions."""
    t, d = qkv.shape[0], qkv.shape[1] // (3 * heads)
    result = torch.zeros_like(qkv)
    for h in range(heads):
        q, k, v = (qkv[:, i * heads * d + h * d : i * heads * d + (h + 1) * d].tolist() for i in range(3))
        r = above[:, h * d : (h + 1) * d].tolist()
        s = [[sum(q[i][c] * k[j][c] for c in range(d)) / math.sqrt(d) for j in range(t)] for i in range(t)]
        a = [[math.exp(s[i][j]) / sum(math.exp(x) for x in s[i]) for j in range(t)] for i in range(t)]
        o = [[sum(a[i][j] * v[j][c] for j in range(t)) for c in range(d)] for i in range(t)]
        factor = 2 if softmax else 1
        share = [[r[i][c] / stable(factor * o[i][c]) for c in range(d)] for i in range(t)]
        for j in range(t):
            for c in range(d):
                column = 2 * heads * d + h * d + c
                result[j, column] = sum(v[j][c] * a[i][j] * share[i][c] for i in range(t))
        if not softmax:
            continue
        ra = [[sum(a[i][j] * v[j][c] * share[i][c] for c in range(d)) for j in range(t)] for i in range(t)]
        rs = [[s[i][j] * (ra[i][j] - a[i][j] * sum(ra[i])) for j in range(t)] for i in range(t)]
        for i in range(t):
            for j in range(t):
                half = rs[i][j] / stable(2 * s[i][j])
                for c in range(d):
                    product = q[i][c] * k[j][c] / math.sqrt(d) * half
                    result[i, h * d + c] += product
                    result[j, heads * d + h * d + c] += product
    return result


@pytest.mark.parametrize("rule", [DetachedAttention, SoftmaxAttention])
def test_equals_the_naive_rule_and_books_what_constants_take(rule: type) -> None:
    torch.manual_seed(0)
    attend, ledger = Attend(2), Ledger()
    qkv, above = torch.randn(2, 4, 18).double(), torch.randn(2, 4, 6).double()
    (found,) = rule(attend, ledger).relevance((qkv,), attend(qkv), above)
    for i in range(2):
        torch.testing.assert_close(found[i], naive(qkv[i], above[i], 2, rule is SoftmaxAttention))
    torch.testing.assert_close(found.flatten(1).sum(1) + ledger.absorbed, above.flatten(1).sum(1))


@pytest.mark.parametrize("composite", COMPOSITES)
def test_a_vision_transformer_conserves(composite: str) -> None:
    model = small_vit().double()
    with Lrp(model, composite) as lrp:
        found = lrp.run(images(2, 16).double(), torch.tensor([0, 2]), ["tokens", "blocks.0", "norm"])
    assert max(found.lost.values()) < 1e-8, found.lost
    assert found.relevances["blocks.0"].shape == (2, 12, 17)


@pytest.mark.parametrize("extra", [1, 2])
@pytest.mark.parametrize("composite", ["attn_lrp", "epsilon_plus_flat"])
def test_deit_and_pit_conserve(composite: str, extra: int) -> None:
    torch.manual_seed(0)
    stages = (vit_stages(3, 3, 4, 4, 12, 2, 2, 24, extra), pit_stages(3, 3, 4, 2, 7, 6, (1, 2), (1, 2), extra))
    for layers in stages:
        model = nn.Sequential(layers).eval().double()
        for weight in model.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
        with Lrp(model, composite) as lrp:
            found = lrp.run(images(2, 16).double(), torch.tensor([0, 2]), ["tokens", "norm"])
        assert max(found.lost.values()) < 1e-8, found.lost
        wanted = found.logits[torch.arange(2), torch.tensor([0, 2])]
        for layer, relevance in found.relevances.items():
            torch.testing.assert_close(relevance.flatten(1).sum(1) + found.absorbed[layer], wanted)
        assert found.attribution.abs().sum() > 0


def test_swin_is_refused_by_the_name_of_its_attention() -> None:
    sizes = {"patch_size": [4, 4], "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": [2, 2]}
    model = from_module(torchvision.models.SwinTransformer(**sizes, num_classes=3).eval())
    with (
        pytest.raises(
            InputError, match=r"weights outside of any layer \(relative_position_bias_table\) at '.*attn' instead"
        ),
        Lrp(model),
    ):
        pass


def test_held_weights_send_nothing_through_queries_and_keys() -> None:
    qkv, above, attend = torch.randn(1, 4, 18), torch.randn(1, 4, 6), Attend(2)
    (found,) = DetachedAttention(attend, Ledger()).relevance((qkv,), attend(qkv), above)
    assert found[..., :12].abs().max() == 0
    (found,) = SoftmaxAttention(attend, Ledger()).relevance((qkv,), attend(qkv), above)
    assert found[..., :12].abs().max() > 0


def test_bad_options() -> None:
    with pytest.raises(InputError, match="one of softmax, detached"):
        COMPOSITES.create("attn_lrp", attention="hard")
