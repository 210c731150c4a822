"""Small networks and data for tests of models and attributions."""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock, Bottleneck

from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.models.layers import Normalize, ResidualBlock


def tiny_stages(channels: int, n_classes: int, stem: str = "small") -> "OrderedDict[str, nn.Module]":
    """A residual net with stages like ResNet's, small enough for matrices.

    The strided shortcut has 8 inputs: with a number that is no multiple of 8, torch's kernel for AVX2 (oneDNN's 1 x 1
    convolution, backward, channels last, as grey images lie) writes beyond its memory.
    """
    shortcut = nn.Sequential(nn.Conv2d(8, 6, 1, 2, bias=False), nn.BatchNorm2d(6))
    narrow = nn.Sequential(nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8))
    return OrderedDict(
        conv1=nn.Conv2d(channels, 8, 3, stride=1, padding=1, bias=False),
        bn1=nn.BatchNorm2d(8),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(2),
        layer1=nn.Sequential(ResidualBlock(BasicBlock(8, 8))),
        layer2=nn.Sequential(ResidualBlock(BasicBlock(8, 6, 2, shortcut))),
        layer3=nn.Sequential(ResidualBlock(Bottleneck(6, 2, downsample=narrow))),  # widens its 2 by 4
        layer4=nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(1),
        fc=nn.Linear(8, n_classes),
    )


def tiny_model(seed: int = 0, n_classes: int = 3, channels: int = 3) -> nn.Sequential:
    """`tiny_stages` with a normalisation and with weights and batch-norm statistics away from their defaults."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stages = tiny_stages(channels, n_classes)
        model = nn.Sequential(OrderedDict(normalize=Normalize([0.4] * channels, [0.3] * channels), **stages))
        disturb(model)
    return model.eval()


def tiny_vit(seed: int = 0) -> nn.Module:
    """torchvision's ViT for 12 x 12 pixels: 3 x 3 patches, a class token, two blocks of two heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTransformer(12, 4, 2, 2, 8, 16, num_classes=3)
        for weight in model.parameters():
            weight.data.add_(0.3 * torch.randn_like(weight))
    return model.eval()


def disturb(model: nn.Module) -> None:
    """Give batch norms and biases values as training would; draws from torch's global state."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.data.normal_(0, 0.1)


def no_biases(model: nn.Module) -> None:
    """Set every constant of the network to 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
            module.bias.data.zero_()
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.data.zero_()


def image_set(n: int = 40, size: int = 12, task: str = "multi-class", seed: int = 0, channels: int = 3) -> ImageSet:
    """Noise images whose brightness in one channel follows the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.integers(0, 120, (n, size, size, channels))
    for c in range(min(3, channels)):
        images[labels == c, ..., c] += 100
    if task == "multi-label":
        labels = np.stack([labels == c for c in range(3)], axis=1).astype(np.int64)
        labels[::5] = 1
    info = DatasetInfo("noise", task, ("a", "b", "c"), "none")
    return ImageSet(images.astype(np.uint8), labels, np.arange(n) + 100 * seed, info, np.zeros(n, dtype=bool))


def images(n: int = 4, size: int = 12, seed: int = 0, channels: int = 3) -> torch.Tensor:
    """Random images in [0,1]."""
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))
