import pytest
import torch
from tests.models.test_transformers import small_vit
from tests.models.tiny import images, tiny_model
from torch import nn

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.models.cam_layers import cam_layer, tokens_last
from xai_robustness.models.insertions import Projection
from xai_robustness.models.pit import pit_stages
from xai_robustness.models.zoo import ModelParams, build, insert_after

LAYERS = {
    "vit_b_16": "blocks.11.norm1",
    "deit_base": "blocks.11.norm1",
    "pit_b": "transformers.2.blocks.3.norm1",
    "convnext_base": "features.7.2.block.0",
    "resnet50": "layer4",
    "vgg16": "features.30",
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_by_architecture(name: str) -> None:
    with torch.device("meta"):
        model = build(ModelParams(name=name), 2, (3, 224, 224), [0.5] * 3, [0.2] * 3, 0)
    assert cam_layer(model) == LAYERS[name]
    model.get_submodule(cam_layer(model))


def test_tokens_of_stages_and_inside_of_blocks_give_the_same_map() -> None:
    """A stage's output is (B,K,T), its block's sum (B,T,K): both are the same numbers on the same grid."""
    model, x = small_vit(), images(2, 16)
    assert [tokens_last(model, layer) for layer in ("blocks.0", "blocks", "blocks.0.add2")] == [True, True, False]
    outer, inner = (
        ATTRIBUTORS.create("grad_cam", model, layer, signed=True)(x, torch.tensor([0, 2]))
        for layer in ("blocks.0", "blocks.0.add2")
    )
    assert outer.abs().max() > 0
    torch.testing.assert_close(outer, inner)


def test_as_many_channels_as_a_grid_has_are_no_tokens() -> None:
    """16 channels at 4 patches and a class token: the longer axis must not be taken for a 4 x 4 grid."""
    torch.manual_seed(0)
    model = nn.Sequential(pit_stages(3, 3, 4, 2, 7, 4, (1, 1), (2, 4))).eval()
    x = images(2, 16)
    found = ATTRIBUTORS.create("layer_cam", model, "transformers.1.pool", signed=True)
    outputs = found.evidence(x, torch.tensor([0, 2]), ["transformers.1.pool"])["transformers.1.pool"]
    assert outputs[0].shape == (2, 16, 4, 4)
    assert ATTRIBUTORS.create("grad_cam", model)(x, torch.tensor([0, 2])).shape == (2, 1, 16, 16)


def test_inserted_modules_keep_the_order_of_axes() -> None:
    model = insert_after(small_vit(), "blocks.1", Projection(torch.eye(1, 12)[0], 0.1), "projection")
    assert tokens_last(model, "blocks.projection")
    assert not tokens_last(tiny_model(), "layer3")
