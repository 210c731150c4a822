import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from tests.models.tiny import images, tiny_model

from xai_robustness.attribution.cam import GradCam
from xai_robustness.models.zoo import split
from xai_robustness.types import InputError

TARGETS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer4"])
def test_equals_a_naive_computation(layer: str) -> None:
    model, x = tiny_model().double(), images(4).double()
    found = GradCam(model, layer)(x, TARGETS)
    prefix, suffix = split(model, layer)
    for i in range(4):
        a = prefix(x[i : i + 1]).detach().requires_grad_()
        suffix(a)[0, TARGETS[i]].backward()
        activation, gradient = a.detach()[0].numpy(), a.grad[0].numpy()
        small = np.zeros(activation.shape[1:])
        for k in range(len(activation)):
            small += gradient[k].mean() * activation[k]
        small = torch.from_numpy(np.maximum(small, 0))[None, None]
        expected = F.interpolate(small, size=(12, 12), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(found[i], expected)


def test_equals_captum() -> None:
    model, x = tiny_model(), images(4)
    cam = LayerGradCam(model, model.layer2).attribute(x, target=TARGETS, relu_attributions=True)
    expected = F.interpolate(cam, size=(12, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(GradCam(model, "layer2")(x, TARGETS), expected.detach())


def test_default_is_the_last_inspected_layer() -> None:
    assert GradCam(tiny_model()).layer == "layer4"


def test_layers_without_positions_and_unknown_layers() -> None:
    with pytest.raises(InputError, match="Unknown layer 'layer8'"):
        GradCam(tiny_model(), "layer8")
    with pytest.raises(InputError, match=r"with positions \(B,K,H,W\). Got 'flatten' of shape \(4, 8\)"):
        GradCam(tiny_model(), "flatten")(images(4), TARGETS)
