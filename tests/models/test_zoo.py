from collections import Counter
from functools import cache

import pytest
import torch
import torchvision
from pydantic import ValidationError
from tests.models.tiny import images, tiny_model
from torch import nn

from xai_robustness.models.layers import DenseBlock, ResidualBlock
from xai_robustness.models.taps import tap
from xai_robustness.models.zoo import (
    MODELS,
    ModelParams,
    build,
    insert_after,
    inspected_layers,
    layer_names,
    split,
)
from xai_robustness.types import InputError


@cache
def zoo(name: str, size: int = 28, channels: int = 3, seed: int = 0, stem: str = "auto") -> nn.Sequential:
    params = ModelParams(name=name, stem=stem)
    return build(params, 3, (channels, size, size), [0.0] * channels, [1.0] * channels, seed).eval()


@pytest.mark.parametrize("name", [name for name in MODELS if hasattr(torchvision.models, name) and name != "vit_b_16"])
def test_state_dict_is_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours = zoo.__wrapped__(name, 64).state_dict()
        theirs = getattr(torchvision.models, name)(weights=None, num_classes=3).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", "efficientnet_b0", "convnext_tiny"])
def test_logits_are_torchvisions(name: str) -> None:
    ours = zoo(name, 64)
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=3).eval()
    theirs.load_state_dict(ours.state_dict())
    x = images(2, 64)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_vgg_features_are_torchvisions(name: str) -> None:
    ours = zoo(name, 32)  # small: at a power of two rounding sizes up changes nothing
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None, num_classes=3).eval()
    theirs.features = theirs.features.to_empty(device="cpu")
    theirs.features.load_state_dict(ours.features.state_dict())
    theirs.avgpool, theirs.classifier = ours.avgpool, ours.classifier
    x = images(2, 32)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11", "vgg11_bn", "densenet121"])
def test_every_inspected_layer_splits_the_model(name: str) -> None:
    model = zoo(name)
    with torch.no_grad(), tap(model, inspected_layers(model)) as outputs:
        expected = model(images(1, 28))
        for layer in inspected_layers(model):
            prefix, suffix = split(model, layer)
            output = outputs[layer]
            assert torch.equal(suffix(output), expected)
            assert set(prefix.state_dict()) | set(suffix.state_dict()) == set(model.state_dict())
            assert not set(prefix.state_dict()) & set(suffix.state_dict())
        assert torch.equal(prefix(images(1, 28)), output)
    assert expected.shape == (1, 3)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121"])
def test_grey_images(name: str) -> None:
    with torch.device("meta"):
        model = build(ModelParams(name=name), 5, (1, 64, 64), [0.0], [1.0], 0).eval()
        assert model(torch.empty(2, 1, 64, 64)).shape == (2, 5)


def test_inspected_layers_by_family() -> None:
    assert inspected_layers(zoo("resnet18")) == ("layer1", "layer2", "layer3", "layer4")
    assert inspected_layers(zoo("vgg11")) == tuple(f"features.{i}" for i in (2, 5, 10, 15, 20))
    assert inspected_layers(zoo("densenet121")) == tuple(f"features.denseblock{i}" for i in range(1, 5))
    assert inspected_layers(zoo("efficientnet_b0")) == tuple(f"features.{i}" for i in (2, 3, 5, 8))
    assert inspected_layers(zoo("convnext_tiny")) == tuple(f"features.{i}" for i in (1, 3, 5, 7))
    assert inspected_layers(zoo("vit_small")) == tuple(f"blocks.{i}" for i in (0, 2, 3, 5))


def test_split_shares_modules_and_reaches_into_nested_stages() -> None:
    model = zoo("vgg11")
    prefix, suffix = split(model, "features.5")
    assert prefix.features[5] is model.features[5]
    assert next(iter(suffix.features.named_children()))[0] == "6"
    last, rest = split(model, "features.20")
    assert "features" not in dict(rest.named_children())
    assert len(last.features) == 21


def test_split_at_every_possible_place() -> None:
    model = tiny_model()
    x = images()
    for layer in layer_names(model):
        prefix, suffix = split(model, layer)
        assert torch.equal(suffix(prefix(x)), model(x)), layer


@pytest.mark.parametrize("layer", ["layer9", "", "layer1.0.conv1", "features"])
def test_unknown_layer_lists_the_choices(layer: str) -> None:
    with pytest.raises(InputError, match=f"Unknown layer '{layer}'. Choose from: layer1, layer2"):
        split(tiny_model(), layer)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11_bn", "densenet121"])
def test_relus_are_used_once_and_change_nothing_in_place(name: str) -> None:
    model = zoo(name)
    calls: Counter[nn.Module] = Counter()
    handles = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            assert not module.inplace
            handles.append(module.register_forward_hook(lambda m, i, o: calls.update([m])))
    with torch.no_grad():
        model(images(1, 28))
    for handle in handles:
        handle.remove()
    assert set(calls.values()) == {1}
    assert len(calls) == sum(isinstance(m, nn.ReLU) for m in model.modules())


def test_only_own_blocks_are_left() -> None:
    for name in ("resnet18", "densenet121"):
        foreign = [m for m in zoo(name).modules() if type(m).__module__.startswith("torchvision.models")]
        kinds = {type(m).__name__ for m in foreign}
        assert kinds <= {"_Transition"}, kinds  # plain sequences, whose ReLU is replaced
        assert any(isinstance(m, ResidualBlock | DenseBlock) for m in zoo(name).modules())


def test_stem_follows_the_image_size() -> None:
    small, standard = zoo("resnet18", 63), zoo("resnet18", 64)
    assert (small.conv1.kernel_size, small.conv1.stride) == ((3, 3), (2, 2))
    assert isinstance(small.maxpool, nn.Identity)
    assert (standard.conv1.kernel_size, isinstance(standard.maxpool, nn.MaxPool2d)) == ((7, 7), True)
    assert zoo("resnet18", 28, stem="standard").conv1.kernel_size == (7, 7)
    assert zoo("vgg11", 28).classifier[0].weight.shape == (512, 512)


def test_seed_decides_the_weights_and_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = zoo.__wrapped__("vgg11", seed=1)
    assert torch.equal(torch.rand(1), expected)
    same, other = zoo.__wrapped__("vgg11", seed=1), zoo("vgg11")
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), same.state_dict().values()))
    assert not torch.equal(first.features[0].weight, other.features[0].weight)


def test_small_vgg_head_keeps_the_signal() -> None:
    model = zoo("vgg11_bn")
    with torch.no_grad():
        assert model(images(8, 28)).std() > 1e-3


def test_normalisation_is_inside() -> None:
    plain = zoo("resnet18")
    scaled = build(ModelParams(), 3, (3, 28, 28), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4], 0).eval()
    x = images(2, 28)
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    torch.testing.assert_close(scaled(x), plain((x - mean) / std))


@pytest.mark.parametrize(("name", "size"), [("vgg11", 28), ("densenet121", 28)])
def test_images_too_small_for_the_standard_stem(name: str, size: int) -> None:
    with pytest.raises(InputError, match=r"large enough for .* with the standard stem. Got \(3, 28, 28\)"):
        zoo(name, size, stem="standard")


def test_wrong_channel_statistics() -> None:
    with pytest.raises(InputError, match="must be 3 numbers with std > 0"):
        build(ModelParams(), 3, (3, 28, 28), [0.5], [0.2], 0)
    with pytest.raises(InputError, match="std > 0"):
        build(ModelParams(), 3, (1, 28, 28), [0.5], [0.0], 0)


def test_unknown_model_is_refused_with_a_hint() -> None:
    with pytest.raises(ValidationError, match="Did you mean 'resnet18'"):
        ModelParams(name="resnet81")


def test_insert_after_copies_and_keeps_all_keys() -> None:
    model = zoo("vgg11")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    extra = nn.BatchNorm2d(128)
    result = insert_after(model, "features.5", extra, "extra")
    assert {k for k in result.state_dict() if not k.startswith("features.extra")} == set(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert result.features[0].weight is not model.features[0].weight
    names = list(dict(result.features.named_children()))
    assert names[5:8] == ["5", "extra", "6"]
    x = images(2, 28)
    prefix, suffix = split(model, "features.5")
    assert torch.equal(result(x), suffix(extra(prefix(x))))


def test_insert_after_refuses_a_taken_name() -> None:
    for name in ("layer2", "a.b"):
        with pytest.raises(InputError, match="new and without dots"):
            insert_after(tiny_model(), "layer1", nn.Identity(), name)
