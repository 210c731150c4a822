"""The architectures by name: functions from image channels, number of classes and stem to named stages."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import torch
import torchvision
from torch import nn

from xai_robustness.models.gated import out_of_place
from xai_robustness.models.layers import DenseBlock, ResidualBlock
from xai_robustness.models.medvit import MEDVITS
from xai_robustness.models.pit import pit_stages
from xai_robustness.models.transformers import vit_stages
from xai_robustness.registry import Registry

Stem = Literal["small", "standard"]
MODELS = Registry[Callable[[int, int, Stem], "OrderedDict[str, nn.Module]"]]("model")


def _resnet(name: str) -> Callable[[int, int, Stem], "OrderedDict[str, nn.Module]"]:
    def stages(channels: int, n_classes: int, stem: Stem) -> "OrderedDict[str, nn.Module]":
        net = getattr(torchvision.models, name)(weights=None, num_classes=n_classes)
        if stem == "small":
            net.conv1, net.maxpool = _conv(channels, 64, 3, 1), nn.Identity()
        elif channels != 3:
            net.conv1 = _conv(channels, 64, 7, 3)
        result = OrderedDict(conv1=net.conv1, bn1=net.bn1, relu=nn.ReLU(), maxpool=net.maxpool)
        for i in range(1, 5):
            layer = getattr(net, f"layer{i}")
            result[f"layer{i}"] = nn.Sequential(*[ResidualBlock(block) for block in layer])
        result.update(avgpool=net.avgpool, flatten=nn.Flatten(1), fc=net.fc)
        return result

    return stages


def _conv(channels: int, width: int, kernel: int, padding: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, width, kernel, stride=2, padding=padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _vgg(name: str) -> Callable[[int, int, Stem], "OrderedDict[str, nn.Module]"]:
    def stages(channels: int, n_classes: int, stem: Stem) -> "OrderedDict[str, nn.Module]":
        small = stem == "small"
        with torch.device("meta"):  # the large classifier is initialised only if it is used
            skeleton = getattr(torchvision.models, name)(weights=None, num_classes=n_classes)
        layers = [_vgg_layer(layer, channels if i == 0 else None, small) for i, layer in enumerate(skeleton.features)]
        side, width = (1, 512) if small else (7, 4096)
        linear = [_linear(512 * side**2, width, small), _linear(width, width, small), _linear(width, n_classes, False)]
        head = [linear[0], nn.ReLU(), nn.Dropout(0.5), linear[1], nn.ReLU(), nn.Dropout(0.5), linear[2]]
        return OrderedDict(
            features=nn.Sequential(*layers),
            avgpool=nn.AdaptiveAvgPool2d(side),
            flatten=nn.Flatten(1),
            classifier=nn.Sequential(*head),
        )

    return stages


def _vgg_layer(layer: nn.Module, channels: int | None, small: bool) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        conv = nn.Conv2d(channels or layer.in_channels, layer.out_channels, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        return conv
    if isinstance(layer, nn.BatchNorm2d):
        return nn.BatchNorm2d(layer.num_features)
    return nn.ReLU() if isinstance(layer, nn.ReLU) else nn.MaxPool2d(2, 2, ceil_mode=small)


def _linear(n_in: int, n_out: int, scaled: bool) -> nn.Linear:
    """A linear layer; torchvision's N(0, 0.01) suits 25,088 inputs but makes a signal from 512 inputs vanish."""
    linear = nn.utils.skip_init(nn.Linear, n_in, n_out, device=torch.empty(0).device)
    if scaled:
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    else:
        nn.init.normal_(linear.weight, 0, 0.01)
    nn.init.zeros_(linear.bias)
    return linear


def _densenet(name: str) -> Callable[[int, int, Stem], "OrderedDict[str, nn.Module]"]:
    def stages(channels: int, n_classes: int, stem: Stem) -> "OrderedDict[str, nn.Module]":
        net = getattr(torchvision.models, name)(weights=None, num_classes=n_classes)
        features = net.features
        if stem == "small":
            features.conv0, features.pool0 = _conv(channels, features.conv0.out_channels, 3, 1), nn.Identity()
        elif channels != 3:
            features.conv0 = _conv(channels, features.conv0.out_channels, 7, 3)
        for key, module in list(features.named_children()):
            if key.startswith("denseblock"):
                setattr(features, key, DenseBlock(module))
            elif key.startswith("transition"):
                module.relu = nn.ReLU()
        features.relu0 = nn.ReLU()
        return OrderedDict(
            features=features,
            relu=nn.ReLU(),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            classifier=net.classifier,
        )

    return stages


def _gated(name: str) -> Callable[[int, int, Stem], "OrderedDict[str, nn.Module]"]:
    """EfficientNet and ConvNeXt; the small stem halves the stride (and the patch) of the first convolution."""

    def stages(channels: int, n_classes: int, stem: Stem) -> "OrderedDict[str, nn.Module]":
        net = getattr(torchvision.models, name)(weights=None, num_classes=n_classes)
        if stem == "small" or channels != 3:
            net.features[0][0] = _first(net.features[0][0], channels, stem)
        stages = OrderedDict(features=out_of_place(net.features), avgpool=net.avgpool)
        if name.startswith("efficientnet"):
            stages["flatten"] = nn.Flatten(1)
        return OrderedDict(**stages, classifier=out_of_place(net.classifier))

    return stages


def _first(conv: nn.Conv2d, channels: int, stem: Stem) -> nn.Conv2d:
    shrink = 2 if stem == "small" else 1
    side = conv.kernel_size[0] // (1 if conv.padding[0] else shrink)  # patches, which are not padded, shrink as well
    stride = conv.stride[0] // shrink
    result = nn.Conv2d(channels, conv.out_channels, side, stride, conv.padding, bias=conv.bias is not None)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(result.weight, mode="fan_out", nonlinearity="relu")
    return result


def _vit(
    width: int, depth: int, heads: int, hidden: int, extra: int = 1, average: bool = False
) -> Callable[[int, int, Stem], "OrderedDict[str, nn.Module]"]:
    """Vision transformer: patches of 16 pixels and 14 x 14 positions; small: of 4 pixels and 7 x 7."""

    def stages(channels: int, n_classes: int, stem: Stem) -> "OrderedDict[str, nn.Module]":
        patch, grid = (4, 7) if stem == "small" else (16, 14)
        return vit_stages(channels, n_classes, patch, grid, width, depth, heads, hidden, extra, average)

    return stages


def _pit(
    dims: int, heads: tuple[int, ...], extra: int = 1, patch: int = 16, first: int = 2
) -> Callable[[int, int, Stem], "OrderedDict[str, nn.Module]"]:
    """Pooling-based vision transformer: patches overlap by half, for 224 pixels; small: 4 pixels, 2 apart, for 28."""

    def stages(channels: int, n_classes: int, stem: Stem) -> "OrderedDict[str, nn.Module]":
        side, image = (4, 28) if stem == "small" else (patch, 224)
        stride = side // 2
        grid = (image - side) // stride + 1
        return pit_stages(channels, n_classes, side, stride, grid, dims, (first, 6, 4), heads, extra)

    return stages


for _name in ("resnet18", "resnet34", "resnet50", "resnet101"):
    MODELS.register(_name)(_resnet(_name))
for _name in ("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn"):
    MODELS.register(_name)(_vgg(_name))
for _name in ("efficientnet_b0", "convnext_tiny", "convnext_base"):
    MODELS.register(_name)(_gated(_name))
MODELS.register("densenet121")(_densenet("densenet121"))
MODELS.register("vit_b_16")(_vit(768, 12, 12, 3072))
MODELS.register("vit_b_16_mae")(_vit(768, 12, 12, 3072, average=True))
MODELS.register("vit_small")(_vit(192, 6, 3, 768))
for _name, _stages in MEDVITS.items():
    MODELS.register(_name)(_stages)
for _extra, _suffix in ((1, ""), (2, "_distilled")):
    MODELS.register(f"deit_tiny{_suffix}")(_vit(192, 12, 3, 768, _extra))
    MODELS.register(f"deit_small{_suffix}")(_vit(384, 12, 6, 1536, _extra))
    MODELS.register(f"deit_base{_suffix}")(_vit(768, 12, 12, 3072, _extra))
    MODELS.register(f"pit_ti{_suffix}")(_pit(32, (2, 4, 8), _extra))
    MODELS.register(f"pit_xs{_suffix}")(_pit(48, (2, 4, 8), _extra))
    MODELS.register(f"pit_s{_suffix}")(_pit(48, (3, 6, 12), _extra))
    MODELS.register(f"pit_b{_suffix}")(_pit(64, (4, 8, 16), _extra, patch=14, first=3))
