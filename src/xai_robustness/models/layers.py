"""The few modules that classifiers are made of beside torch's own: each does one thing and appears once."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.densenet import _DenseLayer
from torchvision.models.resnet import BasicBlock, Bottleneck


class Normalize(nn.Module):
    """(x - mean) / std for each channel; keeps no entry in the state dict, its numbers are in the description.

    Args:
        mean: one number a channel, in units of the images ([0,1]).
        std: one positive number a channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32)[:, None, None], persistent=False)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise images (B,C,H,W)."""
        return (images - self.mean) / self.std


class Add(nn.Module):
    """Sum of two tensors of one shape, as a module that rules can be attached to."""

    def forward(self, left: Float[Tensor, " *shape"], right: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return left + right."""
        return left + right


class Concatenate(nn.Module):
    """Tensors side by side along one axis.

    Args:
        dim: the axis.
    """

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *parts: Tensor) -> Tensor:
        """The joined tensor."""
        return torch.cat(parts, self.dim)


class ResidualBlock(nn.Module):
    """torchvision's BasicBlock or Bottleneck, same parameter names; each ReLU and the sum is a module used once.

    Args:
        block: the block whose layers are taken over.
    """

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        depth = 3 if isinstance(block, Bottleneck) else 2
        self.path: list[str] = []
        for i in range(1, depth + 1):
            self._append(f"conv{i}", getattr(block, f"conv{i}"))
            self._append(f"bn{i}", getattr(block, f"bn{i}"))
            if i < depth:
                self._append(f"relu{i}", nn.ReLU())
        self.downsample = block.downsample if block.downsample is not None else nn.Identity()
        self.add = Add()
        self.relu = nn.ReLU()

    def _append(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self.path.append(name)

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k2 h2 w2"]:
        """relu(path(x) + downsample(x))."""
        out = x
        for name in self.path:
            out = getattr(self, name)(out)
        return self.relu(self.add(out, self.downsample(x)))


class DenseLayer(nn.Sequential):
    """torchvision's dense layer with the same parameter names and no in-place ReLU.

    Args:
        layer: the layer whose modules are taken over.
    """

    def __init__(self, layer: _DenseLayer) -> None:
        super().__init__()
        for name, module in layer.named_children():
            self.add_module(name, nn.ReLU() if isinstance(module, nn.ReLU) else module)


class DenseBlock(nn.Module):
    """Dense layers, each fed with the concatenation of the block's input and all earlier outputs.

    Args:
        block: torchvision's block, whose layers are taken over.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, layer in block.named_children():
            assert isinstance(layer, _DenseLayer)
            self.add_module(name, DenseLayer(layer))

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k2 h w"]:
        """Concatenation of the input and all layers' outputs along the channels."""
        features = [x]
        for layer in self.children():
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)
