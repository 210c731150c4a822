"""Classifiers as sequences of named stages, with torchvision's parameter names, so that any layer splits them."""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from xai_robustness.models.architectures import MODELS as MODELS
from xai_robustness.models.architectures import Stem
from xai_robustness.models.canonizers import canonizers as canonizers
from xai_robustness.models.gated import InvertedResidual, ScaledResidual
from xai_robustness.models.heads import Head, with_head
from xai_robustness.models.layers import DenseBlock, Normalize
from xai_robustness.models.medvit import ends_of_stages
from xai_robustness.models.own import convolutional_stages, is_own, own_stages
from xai_robustness.models.xresnet import ECG_MODELS
from xai_robustness.randomness import seed_for
from xai_robustness.types import InputError, Params

for _name, _stages in ECG_MODELS.items():
    MODELS.register(_name)(_stages)

SMALL_BELOW = 64
"""Image side, in pixels, under which the automatic stem is the small one."""


class ModelParams(Params):
    """Which classifier is built.

    The small stem halves the resolution once: ResNet and DenseNet start with a 3 x 3 convolution of stride 2 and no
    pooling (their `maxpool`/`pool0` is an identity). VGG keeps its five poolings but rounds odd sizes up, pools to
    1 x 1 instead of 7 x 7 and has a classifier of width 512 instead of 4096. EfficientNet's first convolution has
    stride 1, as has the last of MedViT's stem; ConvNeXt's patches are of 2 pixels, a vision transformer's of 4.
    Parameter names are the same in both.
    """

    name: str = Field(
        "resnet18", description="Architecture, one of MODELS, or your own: package.module:function or a .pt2 file."
    )
    stem: Literal["auto", "small", "standard"] = Field("auto", description="auto: small under 64 px, else standard.")

    head: Head = Field("linear", description="linear: the architecture's own; dropout, double_dropout: a hidden layer.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Share that the head dropout or double_dropout drops.")

    mean: list[float] | None = Field(None, description="Mean of each channel in [0,1]; null: the training images'.")
    std: list[float] | None = Field(None, description="Standard deviation of each channel, with mean.")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return name if is_own(name) else MODELS.checked(name)

    @model_validator(mode="after")
    def _together(self) -> "ModelParams":
        if (self.mean is None) != (self.std is None):
            raise InputError("The mean and std parameters of ModelParams must be given together.")
        return self

    def stages(self, channels: int, n_classes: int, stem: Stem) -> "OrderedDict[str, nn.Module]":
        """The stages for so many channels and classes."""
        builder = own_stages(self.name) if is_own(self.name) else MODELS[self.name]
        return with_head(builder(channels, n_classes, stem), self.head, self.dropout)

    def stem_for(self, image_shape: Sequence[int]) -> Stem:
        """The stem for images of shape (C,H,W)."""
        if self.stem != "auto":
            return self.stem
        return "small" if min(image_shape[1:]) < SMALL_BELOW else "standard"


def build(
    params: ModelParams,
    info_n_classes: int,
    image_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> nn.Sequential:
    """Build a classifier from images (B,C,H,W) in [0,1] to logits (B,K), in training mode, on the CPU.

    It is a `nn.Sequential` of `normalize` and torchvision's own stages; its state dict has torchvision's keys (vision
    transformers have timm's block names; `foreign_keys.to_zoo` renames checkpoints of both libraries).

    Args:
        params: architecture and stem.
        info_n_classes: number of logits K.
        image_shape: (C,H,W).
        mean: mean of each channel, for the normalisation inside the model.
        std: standard deviation of each channel.
        seed: the weights come from its stream "init".

    Raises:
        InputError: wrong number of channel statistics, or images too small for the architecture.
    """
    channels = image_shape[0]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise InputError(
            f"The mean and std parameters of build must be {channels} numbers with std > 0. "
            f"Got {list(mean)} and {list(std)} instead."
        )
    stem = params.stem_for(image_shape)
    with torch.device("meta"):
        _check_size(nn.Sequential(params.stages(channels, info_n_classes, stem)), params, image_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "init"))
        stages = params.stages(channels, info_n_classes, stem)
    return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), **stages))


def _check_size(model: nn.Sequential, params: ModelParams, image_shape: Sequence[int]) -> None:
    """Pass one image through a model on the meta device, which costs no arithmetic and no memory."""
    try:
        with torch.no_grad():
            model.eval()(torch.empty(1, *image_shape))
    except RuntimeError as error:
        raise InputError(
            f"The image_shape parameter of build must be large enough for {params.name} with the "
            f"{params.stem_for(image_shape)} stem. Got {tuple(image_shape)} instead; take larger images or stem: small."
        ) from error


def layer_names(model: nn.Sequential) -> tuple[str, ...]:
    """Paths of every stage, nested ones included, after which `split` can cut the model, in order of execution."""

    def walk(container: nn.Sequential, prefix: str) -> list[str]:
        names = []
        for name, child in container.named_children():
            if isinstance(child, nn.Sequential):
                names += walk(child, f"{prefix}{name}.")
            names.append(prefix + name)
        return names

    return tuple(walk(model, ""))


def inspected_layers(model: nn.Sequential) -> tuple[str, ...]:
    """Layers that studies look at by default, where an architecture has finished a stage.

    The outputs of ResNet's layers, VGG's poolings, DenseNet's blocks, EfficientNet's resolutions, ConvNeXt's and
    MedViT's stages, four evenly spaced blocks of a vision transformer, and PiT's groups of blocks.
    """
    stages = dict(model.named_children())
    if "layer4" in stages:
        return tuple(f"layer{i}" for i in range(1, 5))
    blocks = stages.get("blocks")
    if isinstance(blocks, nn.Sequential) and len(blocks) >= 4:
        return tuple(f"blocks.{len(blocks) * i // 4 - 1}" for i in range(1, 5))
    if isinstance(groups := stages.get("transformers"), nn.Sequential):
        return tuple(f"transformers.{name}" for name, _ in groups.named_children())
    found = tuple(f"features.{name}" for name in _ends_of_stages(stages.get("features", nn.Identity())))
    found = found or convolutional_stages(model)
    if not found:
        raise InputError("The model parameter of inspected_layers must be a model of the zoo; name the layers instead.")
    return found


def _ends_of_stages(features: nn.Module) -> list[str]:
    children = dict(features.named_children())
    if any(isinstance(module, InvertedResidual) for module in features.modules()):
        return [name for name in ("2", "3", "5", "8") if name in children]
    if any(isinstance(module, ScaledResidual) for module in features.modules()):
        return [name for name in ("1", "3", "5", "7") if name in children]
    if found := ends_of_stages(features):
        return found
    ends = (name for name, module in children.items() if isinstance(module, nn.MaxPool2d | DenseBlock))
    return [name for name in ends if name != "pool0"]


def check_layer(model: nn.Sequential, layer: str) -> str:
    """Return `layer` if `split` can cut there; raises InputError with the choices otherwise."""
    if layer not in layer_names(model):
        raise InputError(
            f"Unknown layer '{layer}'. Choose from: {', '.join(inspected_layers(model))}; "
            f"also possible: {', '.join(n for n in layer_names(model) if n not in inspected_layers(model))}."
        )
    return layer


def split(model: nn.Sequential, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Cut a model after `layer` into prefix and suffix, which share its modules; suffix(prefix(x)) equals model(x).

    Args:
        model: a sequence of stages.
        layer: path of a stage, nested in sequences at will ("features.8").

    Returns:
        Prefix up to and including the layer, and the rest; module paths stay those of the model.

    Raises:
        InputError: no such layer; the error lists the layers.
    """
    check_layer(model, layer)
    return _cut(model, layer.split("."))


def _cut(container: nn.Sequential, path: list[str]) -> tuple[nn.Sequential, nn.Sequential]:
    children = list(container.named_children())
    at = [name for name, _ in children].index(path[0])
    before, after = OrderedDict(children[:at]), OrderedDict(children[at + 1 :])
    name, child = children[at]
    if len(path) == 1:
        before[name] = child
    else:
        assert isinstance(child, nn.Sequential)
        before[name], rest = _cut(child, path[1:])
        if len(rest):
            after = OrderedDict([(name, rest), *after.items()])
    return _same_mode(container, before), _same_mode(container, after)


def _same_mode(container: nn.Sequential, stages: "OrderedDict[str, nn.Module]") -> nn.Sequential:
    part = nn.Sequential(stages)
    part.training = container.training
    return part


def insert_after(model: nn.Sequential, layer: str, module: nn.Module, name: str) -> nn.Sequential:
    """Return a deep copy of the model with an extra stage after `layer`; all other state-dict keys stay.

    Args:
        model: a sequence of stages; not changed.
        layer: path of the stage after which `module` goes, in the same container.
        module: the new stage; not copied.
        name: its name in the container, without dots.

    Raises:
        InputError: no such layer, or the name is taken.
    """
    check_layer(model, layer)
    result = copy.deepcopy(model)
    *parents, last = layer.split(".")
    container = result.get_submodule(".".join(parents)) if parents else result
    if "." in name or name in dict(container.named_children()):
        raise InputError(f"The name parameter of insert_after must be new and without dots. Got '{name}' instead.")
    following = list(container._modules)[list(container._modules).index(last) + 1 :]
    container.add_module(name, module.train(model.training))
    for key in following:
        container._modules[key] = container._modules.pop(key)
    return result
