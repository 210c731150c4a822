from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import LayerGradCam
from tests.models.tiny import images, tiny_model
from tests.reference import cam as naive
from torch import nn

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.cam import GradCam, LayerCam, LayerMap
from xai_robustness.attribution.positions import token_grid
from xai_robustness.models.zoo import split
from xai_robustness.types import InputError

TARGETS = torch.tensor([0, 1, 2, 0])
FAMILY = ("cam", "finer_cam", "grad_cam", "grad_cam_plus_plus", "layer_cam", "score_cam", "xgrad_cam")


def activation_and_gradient(model, x, i, layer, objective):
    prefix, suffix = split(model, layer)
    a = prefix(x[i : i + 1]).detach().requires_grad_()
    objective(suffix(a)[0]).backward()
    return a.detach()[0].numpy(), a.grad[0].numpy()


@pytest.mark.parametrize("layer", ["maxpool", "layer1", "layer2", "layer4"])
@pytest.mark.parametrize("name", sorted(naive.GRADIENT_MAPS))
def test_gradient_maps_equal_a_naive_computation(name: str, layer: str) -> None:
    model, x = tiny_model().double(), images(4).double()
    found = ATTRIBUTORS.create(name, model, layer)(x, TARGETS)
    for i in range(4):
        a, g = activation_and_gradient(model, x, i, layer, lambda logits, t=TARGETS[i]: logits[t])
        expected = naive.enlarge(naive.GRADIENT_MAPS[name](a, g), x.shape[2:])
        torch.testing.assert_close(found[i, 0], expected, rtol=1e-9, atol=1e-12)
    assert found.abs().sum() > 0


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_finer_cam_equals_a_naive_computation(alpha: float) -> None:
    model, x = tiny_model().double(), images(4).double()
    found = ATTRIBUTORS.create("finer_cam", model, "layer2", alpha=alpha)(x, TARGETS)
    for i in range(4):
        a, g = activation_and_gradient(
            model, x, i, "layer2", lambda logits, t=int(TARGETS[i]): naive.finer_score(logits, t, alpha)
        )
        torch.testing.assert_close(found[i, 0], naive.enlarge(naive.grad_cam(a, g), x.shape[2:]))


def test_finer_cam_without_the_others_is_grad_cam() -> None:
    model, x = tiny_model(), images(4)
    found = ATTRIBUTORS.create("finer_cam", model, alpha=0.0)(x, TARGETS)
    torch.testing.assert_close(found, GradCam(model)(x, TARGETS))


def test_cam_equals_a_naive_computation_and_its_mean_is_the_logit() -> None:
    model, x = tiny_model().double(), images(4).double()
    found = ATTRIBUTORS.create("cam", model)(x, TARGETS)
    signed = ATTRIBUTORS.create("cam", model, signed=True).maps(x, TARGETS, ["layer4"])["layer4"]
    prefix, _ = split(model, "layer4")
    for i in range(4):
        a = prefix(x[i : i + 1]).detach()[0]
        expected = naive.enlarge(naive.cam(a.numpy(), model.fc.weight.detach()[TARGETS[i]].numpy()), x.shape[2:])
        torch.testing.assert_close(found[i, 0], expected)
        small = (model.fc.weight.detach()[TARGETS[i]][:, None, None] * a).sum(0)
        torch.testing.assert_close(small.mean() + model.fc.bias[TARGETS[i]], model(x)[i, TARGETS[i]])
        torch.testing.assert_close(signed[i, 0], naive.enlarge(small.numpy(), x.shape[2:]))


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_score_cam_equals_a_naive_computation(batch: int) -> None:
    model, x = tiny_model().double(), images(3).double()
    found = ATTRIBUTORS.create("score_cam", model, "layer2", internal_batch_size=batch)(x, TARGETS[:3])
    prefix, _ = split(model, "layer2")
    for i in range(3):
        a = prefix(x[i : i + 1]).detach()[0].numpy()
        expected = naive.enlarge(naive.score_cam(model, x[i], int(TARGETS[i]), a), x.shape[2:])
        torch.testing.assert_close(found[i, 0], expected)


def test_grad_cam_equals_captum() -> None:
    model, x = tiny_model(), images(4)
    cam = LayerGradCam(model, model.layer2).attribute(x, target=TARGETS, relu_attributions=True)
    expected = F.interpolate(cam, size=(12, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(GradCam(model, "layer2")(x, TARGETS), expected.detach())


@pytest.mark.parametrize("name", FAMILY)
def test_several_layers_in_one_pass_equal_one_at_a_time(name: str) -> None:
    model, x = tiny_model(), images(4)
    layers = ["layer4"] if name == "cam" else ["layer1.0.conv2", "layer2", "layer4"]
    calls = []
    handle = model.fc.register_forward_hook(lambda *_: calls.append(1))
    maps = ATTRIBUTORS.create(name, model, batch_size=2).maps(x, TARGETS, layers)
    handle.remove()
    assert len(calls) == 3 or name == "score_cam"  # one pass a batch, one to check
    for layer in layers:
        torch.testing.assert_close(maps[layer], ATTRIBUTORS.create(name, model, layer)(x, TARGETS))
        assert maps[layer].shape == (4, 1, 12, 12)
        assert maps[layer].min() >= 0


@pytest.mark.parametrize("name", FAMILY)
def test_signed_maps_are_cut_only_on_request(name: str) -> None:
    model, x = tiny_model(), images(4)
    layers = ["layer4"]
    signed = ATTRIBUTORS.create(name, model, signed=True).maps(x, TARGETS, layers)["layer4"]
    cut = ATTRIBUTORS.create(name, model).maps(x, TARGETS, layers)["layer4"]
    assert bool((signed <= cut + 1e-6).all())
    if name in ("cam", "grad_cam", "finer_cam"):
        assert bool((signed < 0).any())


@pytest.mark.parametrize("name", FAMILY)
def test_the_family_says_that_it_gives_heatmaps_and_leaves_the_model(name: str) -> None:
    model, x = tiny_model().train(), images(2)
    assert issubclass(ATTRIBUTORS[name], LayerMap)
    assert ATTRIBUTORS[name].heatmaps
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ATTRIBUTORS.create(name, model)(x, TARGETS[:2])
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_in_place_modules_change_nothing_that_was_collected() -> None:
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=3).eval().double()
    model, x = nn.Sequential(OrderedDict(net=net)), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    found = LayerCam(model, "net.layer3.1.bn2")(x, TARGETS[:2])
    outputs = []
    handle = net.layer3[1].bn2.register_forward_hook(lambda _m, _i, out: outputs.append(out) or out.clone())
    total = model(x).gather(1, TARGETS[:2, None]).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(total, outputs[0])
    for i in range(2):
        small = naive.layer_cam(outputs[0][i].detach().numpy(), gradient[i].numpy())
        torch.testing.assert_close(found[i, 0], naive.enlarge(small, x.shape[2:]))


def test_default_is_the_last_inspected_layer() -> None:
    assert GradCam(tiny_model()).layer == "layer4"


@pytest.mark.parametrize("name", FAMILY)
def test_layers_without_positions_and_unknown_layers(name: str) -> None:
    with pytest.raises(InputError, match="Unknown layer 'layer8'"):
        ATTRIBUTORS.create(name, tiny_model(), "layer8")
    with pytest.raises(InputError, match=r"with positions \(B,K,H,W\).*Got 'flatten' of shape \(4, 8\)"):
        ATTRIBUTORS.create(name, tiny_model(), "flatten")(images(4), TARGETS)


def test_cam_refuses_other_heads() -> None:
    with pytest.raises(InputError, match=r"before global average pooling.*Got 'layer2'"):
        ATTRIBUTORS.create("cam", tiny_model(), "layer2")(images(4), TARGETS)
    with pytest.raises(InputError, match=r"Got 'layer3'"):  # the right number of channels, but not the last layer
        ATTRIBUTORS.create("cam", tiny_model(), "layer3")(images(4), TARGETS)


def test_a_module_that_runs_twice_is_refused() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.Flatten(), nn.Linear(256, 3))
    with pytest.raises(InputError, match="must be a module that runs once. Got '1'"):
        GradCam(model, "1")(images(4), TARGETS)


class Tokens(nn.Module):
    """Patches as tokens after `prefix` others, mixed by one linear layer."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 5, 4, stride=4)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        return torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1)


@pytest.mark.parametrize(("prefix", "size"), [(0, (12, 12)), (1, (12, 12)), (2, (12, 12)), (1, (8, 16))])
def test_token_grids_are_inferred(prefix: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    grid = size[0] // 4, size[1] // 4
    n = grid[0] * grid[1] + prefix
    model = nn.Sequential(OrderedDict(tokens=Tokens(prefix), flat=nn.Flatten(), fc=nn.Linear(5 * n, 3))).double()
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    found = GradCam(model, "tokens")(x, TARGETS[:2])
    for i in range(2):
        tokens = model.tokens(x[i : i + 1]).detach()[0]
        gradient = model.fc.weight.detach()[TARGETS[i]].reshape(n, 5)
        a, g = (v[prefix:].T.reshape(5, *grid).numpy() for v in (tokens, gradient))
        torch.testing.assert_close(found[i, 0], naive.enlarge(naive.grad_cam(a, g), torch.Size(size)))


def test_token_grid_of_no_fitting_number() -> None:
    assert token_grid(197, 224, 224) == (14, 14)
    assert token_grid(65, 224, 224) == (8, 8)
    assert token_grid(48, 28, 28) is None
