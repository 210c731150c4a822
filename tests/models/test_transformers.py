import pytest
import torch
import torchvision
from tests.models.tiny import images
from torch import nn

from xai_robustness.models.foreign_keys import to_zoo
from xai_robustness.models.pit import pit_stages
from xai_robustness.models.transformers import Attend, Tokens, token_grid, vit_stages
from xai_robustness.models.zoo import ModelParams, build
from xai_robustness.types import InputError


def small_vit() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(vit_stages(3, 3, patch=4, grid=4, width=12, depth=2, heads=2, hidden=20)).eval()


def test_equals_torchvisions_under_its_own_weights() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.VisionTransformer(16, 4, 2, 2, 12, 20, num_classes=3).eval()
    nn.init.normal_(theirs.heads.head.weight)
    ours = small_vit()
    ours.load_state_dict(to_zoo(theirs.state_dict()))
    x = images(3, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_equals_timms_under_its_own_weights() -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.models.VisionTransformer(16, 4, num_classes=3, embed_dim=12, depth=2, num_heads=2, mlp_ratio=2).eval()
    ours = nn.Sequential(vit_stages(3, 3, 4, 4, 12, 2, 2, 24)).eval()
    ours.load_state_dict(to_zoo(theirs.state_dict()))
    x = images(3, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_the_mean_of_the_patches_equals_timms_masked_autoencoder() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "num_classes": 3, "embed_dim": 12, "depth": 2, "num_heads": 2}
    theirs = timm.models.VisionTransformer(**sizes, mlp_ratio=2, global_pool="avg", fc_norm=True).eval()
    for weight in theirs.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    ours = nn.Sequential(vit_stages(3, 3, 4, 4, 12, 2, 2, 24, average=True)).eval()
    ours.load_state_dict(to_zoo(theirs.state_dict()))
    x = images(3, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_timms_convnext_gets_torchvisions_names() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.models.ConvNeXt(depths=(1, 2, 1, 1), dims=(8, 16, 24, 32), num_classes=3).eval()
    for weight in theirs.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    kinds = torchvision.models.convnext
    settings = zip((8, 16, 24, 32), (16, 24, 32, None), (1, 2, 1, 1))
    ours = kinds.ConvNeXt([kinds.CNBlockConfig(*setting) for setting in settings], num_classes=3).eval()
    ours.load_state_dict(to_zoo(theirs.state_dict()))
    x = images(3, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


NAMES = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_16_mae": "vit_base_patch16_224",
    "deit_base": "deit_base_patch16_224",
    "deit_base_distilled": "deit_base_distilled_patch16_224",
    "pit_xs": "pit_xs_224",
    "pit_b": "pit_b_224",
    "pit_b_distilled": "pit_b_distilled_224",
    "convnext_base": "convnext_base",
}


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_have_the_shapes_of_timms(name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        options = {"global_pool": "avg", "fc_norm": True} if name.endswith("mae") else {}
        theirs = to_zoo(timm.create_model(NAMES[name], num_classes=3, **options).state_dict())
        ours = build(ModelParams(name=name), 3, (3, 224, 224), [0.5] * 3, [0.2] * 3, 0).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("name", ["deit", "pit"])
def test_equals_timms_deit_and_pit_under_their_own_weights(name: str, distilled: bool) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    extra = 1 + distilled
    if name == "deit":
        kind = timm.models.VisionTransformerDistilled if distilled else timm.models.VisionTransformer
        theirs = kind(img_size=16, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=2, mlp_ratio=2)
        ours = nn.Sequential(vit_stages(3, 3, 4, 4, 12, 2, 2, 24, extra))
    else:
        sizes = {"base_dims": (6, 6), "depth": (1, 2), "heads": (1, 2), "num_classes": 3, "distilled": distilled}
        theirs = timm.models.pit.PoolingVisionTransformer(16, 4, 2, **sizes)
        ours = nn.Sequential(pit_stages(3, 3, 4, 2, 7, 6, (1, 2), (1, 2), extra))
    for weight in theirs.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    ours.eval().load_state_dict(to_zoo(theirs.eval().state_dict()))
    x = images(3, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_other_state_dicts_keep_their_names() -> None:
    state = {"conv1.weight": torch.ones(1), "class_token": torch.ones(2)}
    assert to_zoo(state) == state


def test_layers_have_their_channels_on_the_second_axis() -> None:
    model, x = small_vit(), images(2, 16)
    with torch.no_grad():
        patches = model.patch_embed(x)
        tokens = model.tokens(patches)
        after = model.blocks(tokens)
    assert patches.shape == (2, 12, 4, 4)
    assert tokens.shape == after.shape == (2, 12, 17)
    torch.testing.assert_close(token_grid(tokens - model.tokens.positions), patches)


def test_positions_are_interpolated_for_other_image_sizes() -> None:
    tokens = Tokens(2, 4)
    assert tokens(torch.zeros(1, 2, 5, 3)).shape == (1, 2, 16)
    flat = Tokens(2, 4)
    nn.init.constant_(flat.positions, 0.5)
    torch.testing.assert_close(flat(torch.zeros(1, 2, 5, 3))[:, :, 1:], torch.full((1, 2, 15), 0.5))


def test_attention_weights_give_the_output() -> None:
    attend, qkv = Attend(2), torch.randn(2, 5, 24)
    weights = attend.weights(qkv)
    torch.testing.assert_close(weights.sum(3), torch.ones(2, 2, 5))
    torch.testing.assert_close(attend.joined(weights @ attend.parts(qkv)[2]), attend(qkv))


def test_token_grid() -> None:
    assert token_grid(torch.zeros(1, 2, 16)).shape == (1, 2, 4, 4)
    assert token_grid(torch.zeros(1, 2, 18)).shape == (1, 2, 4, 4)
    assert token_grid(torch.zeros(1, 2, 7), shape=(2, 3)).shape == (1, 2, 2, 3)
    for bad in (torch.zeros(1, 2, 8), torch.zeros(1, 2, 3, 3)):
        with pytest.raises(InputError, match="as many patches as a grid has"):
            token_grid(bad)
