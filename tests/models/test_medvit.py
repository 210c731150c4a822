"""MedViT against timm's Next-ViT, whose blocks have another feed forward, and against written-out formulas."""

import pytest
import torch
import torch.nn.functional as F
from tests.models.test_zoo_contract import settle
from tests.models.tiny import disturb, images
from torch import Tensor, nn

from xai_robustness.attribution.lrp import Lrp
from xai_robustness.models.medvit import (
    ConvolutionBlock,
    LocalFeedForward,
    ReducedAttention,
    TransformerBlock,
    attending_channels,
    embedding,
    head_convolutions,
)
from xai_robustness.models.zoo import ModelParams, build, inspected_layers


def random(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, its weights and running statistics away from their defaults."""
    torch.manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            drawn = 0.3 * torch.randn_like(value)
            value.copy_(1 + drawn.abs() if name.endswith("running_var") else value + drawn)
    return module.eval().double()


def features(channels: int, side: int) -> Tensor:
    return torch.randn(2, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def same(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    missing, unexpected = theirs.load_state_dict(random(ours).state_dict(), strict=False)
    assert not missing and not unexpected
    torch.testing.assert_close(ours(x), theirs.eval().double()(x))


def test_parts_equal_next_vits() -> None:
    nextvit = pytest.importorskip("timm.models.nextvit")
    for n_in, n_out, stride in ((8, 12, 2), (8, 12, 1), (8, 8, 1), (8, 8, 2)):
        same(embedding(n_in, n_out, stride), nextvit.PatchEmbed(n_in, n_out, stride), features(n_in, 5))
    same(head_convolutions(64), nextvit.ConvAttention(64, 32), features(64, 5))
    tokens = features(64, 4).flatten(2).transpose(1, 2)
    same(ReducedAttention(64, 1), nextvit.EfficientAttention(64), tokens)
    same(ReducedAttention(64, 2), nextvit.EfficientAttention(64, sr_ratio=2), tokens)


def test_blocks_equal_next_vits_with_another_feed_forward() -> None:
    nextvit = pytest.importorskip("timm.models.nextvit")
    pairs = (
        (ConvolutionBlock(32, 64, 2), nextvit.NextConvBlock(32, 64, 2)),
        (TransformerBlock(64, 128, 2, 2), nextvit.NextTransformerBlock(64, 128, 0.0, 2, 2)),
    )
    for ours, theirs in pairs:
        random(ours)
        theirs.mlp = nn.Identity()
        state = {name: value for name, value in ours.state_dict().items() if not name.startswith("conv.")}
        theirs.load_state_dict(state)
        theirs.mlp = ours.conv
        x = features(ours.patch_embed.conv.in_channels, 7)
        torch.testing.assert_close(ours(x), theirs.eval().double()(x))


def test_local_feed_forward_equals_its_formula() -> None:
    ours, x = random(LocalFeedForward(6, 3)), features(6, 5)
    s = ours.conv.state_dict()

    def norm(values: Tensor, i: int) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (s[f"{i}.{name}"][:, None, None] for name in names)
        return (values - mean) / (var + 1e-5).sqrt() * weight + bias

    def swish(values: Tensor) -> Tensor:
        return values * (values + 3).clamp(0, 6) / 6

    inside = swish(norm(F.conv2d(x, s["0.weight"]), 1))
    inside = swish(norm(F.conv2d(inside, s["3.weight"], padding=1, groups=18), 4))
    squeezed = (inside.mean((2, 3)) @ s["6.fc.0.weight"].T + s["6.fc.0.bias"]).clamp(min=0)
    gate = ((squeezed @ s["6.fc.2.weight"].T + s["6.fc.2.bias"] + 3).clamp(0, 6) / 6)[:, :, None, None]
    torch.testing.assert_close(ours(x), x + norm(F.conv2d(inside * gate, s["7.weight"]), 8))


@pytest.mark.parametrize(
    ("name", "blocks"), [("small", (3, 4, 10, 3)), ("base", (3, 4, 20, 3)), ("large", (3, 4, 30, 3))]
)
def test_table_of_the_paper(name: str, blocks: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = build(ModelParams(name=f"medvit_{name}"), 9, (3, 224, 224), [0.5] * 3, [0.2] * 3, 0).eval()
        x = model.stem(model.normalize(torch.empty(1, 3, 224, 224)))
        assert x.shape == (1, 64, 56, 56)
        shapes, kinds = [], ""
        for block in model.features:
            x = block(x)
            shapes.append(tuple(x.shape[1:3]))
            kinds += "T" if isinstance(block, TransformerBlock) else "C"
    ends = [sum(blocks[: i + 1]) - 1 for i in range(4)]
    assert inspected_layers(model) == tuple(f"features.{i}" for i in ends)
    assert [shapes[i] for i in ends] == [(96, 56), (256, 28), (512, 14), (1024, 7)]
    assert kinds == "CCC" + "CCCT" + "CCCCT" * (blocks[2] // 5) + "CCT"
    assert model.proj_head[0].weight.shape == (9, 1024)
    attending = [block.e_mhsa for block in model.features if isinstance(block, TransformerBlock)]
    assert [part.q.in_features for part in attending] == [192, *[384] * (blocks[2] // 5), 768]
    assert [part.attend.heads for part in attending][:: len(attending) - 1] == [6, 24]
    reductions = [part.sr.kernel_size[0] if isinstance(part.sr, nn.AvgPool1d) else 1 for part in attending]
    assert reductions == [16, *[4] * (blocks[2] // 5), 1]
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)} == {1e-5}


def test_published_names_and_rates() -> None:
    model = build(ModelParams(name="medvit_small"), 3, (3, 64, 64), [0.5] * 3, [0.2] * 3, 0)
    names = set(model.state_dict())
    assert {
        "stem.0.conv.weight",
        "stem.3.norm.weight",
        "features.0.patch_embed.conv.weight",
        "features.0.mhca.group_conv3x3.weight",
        "features.0.conv.conv.6.fc.2.bias",
        "features.6.e_mhsa.norm.running_mean",
        "features.6.projection.norm.weight",
        "features.6.conv.conv.8.bias",
        "features.19.norm2.weight",
        "norm.weight",
        "proj_head.0.weight",
    } <= names
    assert "features.19.e_mhsa.norm.weight" not in names and "features.1.patch_embed.conv.weight" not in names
    rates = [b.attention_path_dropout.p for b in model.features if isinstance(b, ConvolutionBlock)]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.1 * 18 / 19)
    assert model.features[19].mhsa_path_dropout.p == pytest.approx(0.075)


@pytest.mark.parametrize(("width", "expected"), [(256, 192), (512, 384), (1024, 768), (128, 96), (96, 96)])
def test_attending_channels(width: int, expected: int) -> None:
    assert attending_channels(width) == expected


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "attn_lrp", "epsilon_gamma_box"])
def test_relevance_is_conserved_in_double_precision(composite: str) -> None:
    torch.manual_seed(0)
    model = build(ModelParams(name="medvit_tiny"), 3, (3, 28, 28), [0.5] * 3, [0.2] * 3, 0)
    disturb(model)
    settle(model, images(4, 28))
    model.double()
    targets, layers = torch.tensor([0, 2]), inspected_layers(model)
    with Lrp(model, composite) as lrp:
        found = lrp.run(images(2, 28).double(), targets, layers)
    assert max(found.lost.values()) < 1e-8, found.lost
    for layer in layers:
        kept = found.relevances[layer].flatten(1).sum(1) + found.absorbed[layer]
        torch.testing.assert_close(kept, found.logits[torch.arange(2), targets], rtol=1e-6, atol=1e-6)
    assert found.attribution.abs().sum() > 0
