"""EfficientNet's and ConvNeXt's blocks, with torchvision's parameter names, every operation a module used once."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock
from torchvision.models.efficientnet import MBConv
from torchvision.ops.misc import SqueezeExcitation

from xai_robustness.models.layers import Add


class Scale(nn.Module):
    """A signal times its gate, as a module that rules can be attached to."""

    def forward(self, signal: Float[Tensor, " *shape"], gate: Tensor) -> Float[Tensor, " *shape"]:
        """Return signal · gate; the gate is broadcast."""
        return signal * gate


class Gating(nn.Module):
    """Squeeze and excitation: channels times a gate made of their means [Hu2018]; torchvision's names.

    Args:
        block: torchvision's, whose layers are taken over.
    """

    def __init__(self, block: SqueezeExcitation) -> None:
        super().__init__()
        self.avgpool, self.fc1, self.fc2 = block.avgpool, block.fc1, block.fc2
        self.activation, self.scale_activation = block.activation, block.scale_activation
        self.scale = Scale()

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """The gated channels."""
        gate = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return self.scale(x, self.scale_activation(gate))


class InvertedResidual(nn.Module):
    """torchvision's MBConv, same parameter names.

    Args:
        block: the block whose layers are taken over.
    """

    def __init__(self, block: MBConv) -> None:
        super().__init__()
        self.block = out_of_place(block.block)
        self.residual = bool(block.use_res_connect)
        if self.residual:
            self.stochastic_depth, self.add = block.stochastic_depth, Add()

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k2 h2 w2"]:
        """block(x), with x added where shapes allow."""
        return self.add(self.stochastic_depth(self.block(x)), x) if self.residual else self.block(x)


class ScaledResidual(nn.Module):
    """ConvNeXt's block, same parameter names: x + layer_scale · block(x) [Liu2022].

    Args:
        block: torchvision's, whose layers are taken over.
    """

    def __init__(self, block: CNBlock) -> None:
        super().__init__()
        self.layer_scale = block.layer_scale
        self.block, self.stochastic_depth = block.block, block.stochastic_depth
        self.scale, self.add = Scale(), Add()

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """X + layer_scale · block(x)."""
        return self.add(self.stochastic_depth(self.scale(self.block(x), self.layer_scale)), x)


REPLACED: tuple[tuple[type[nn.Module], Callable[..., nn.Module]], ...] = (
    (SqueezeExcitation, Gating),
    (MBConv, InvertedResidual),
    (CNBlock, ScaledResidual),
)


def out_of_place(module: nn.Module) -> nn.Module:
    """Replace torchvision's blocks below `module` by those of this file; activations no longer work in place."""
    for name, child in list(module.named_children()):
        make = next((make for kind, make in REPLACED if isinstance(child, kind)), None)
        module.add_module(name, make(child) if make is not None else child)
        out_of_place(module.get_submodule(name))
        if hasattr(child, "inplace"):
            vars(child)["inplace"] = False
    return module
