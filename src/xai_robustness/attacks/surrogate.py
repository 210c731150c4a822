"""A smooth copy of a network: gradients of gradients exist, where ReLU has none."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.types import InputError

Smoothing = Literal["softplus", "gate", "none"]


class _Gate(torch.autograd.Function):
    """relu(x) forward, sigmoid(beta x) as its derivative, which can be differentiated again."""

    @staticmethod
    def forward(ctx: object, x: Tensor, beta: float) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        ctx.beta = beta  # type: ignore[attr-defined]
        return x.relu()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * torch.sigmoid(ctx.beta * x), None  # type: ignore[attr-defined]


class Gate(nn.Module):
    """ReLU whose derivative is the one of softplus.

    Args:
        beta: sharpness; the derivative is sigmoid(beta x).
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """relu(x), to the bit."""
        result: Tensor = _Gate.apply(x, self.beta)
        return result


def smooth(model: nn.Module, how: Smoothing = "softplus", beta: float = 20.0) -> nn.Module:
    """A deep copy in evaluation mode, its weights out of the graph, with every ReLU module replaced.

    Args:
        model: its ReLUs are modules; it is not changed.
        how: softplus: log(1 + exp(beta x)) / beta, a smooth function near ReLU [Dombrowski2019]; gate: ReLU itself,
            with the derivative of softplus, so that logits and activations stay those of the model; none: a plain copy.
        beta: sharpness; the larger, the closer to ReLU.
    """
    if how not in ("softplus", "gate", "none") or beta <= 0:
        raise InputError(
            f"The how and beta parameters of smooth must be softplus, gate or none, and positive. "
            f"Got {how!r} and {beta} instead."
        )
    result = copy.deepcopy(model).eval().requires_grad_(False)
    if how == "none":
        return result
    for parent in list(result.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.Softplus(beta) if how == "softplus" else Gate(beta))
    return result


class _Mode:
    """Whether backward passes are guided at the moment."""

    on = True


class _Guide(torch.autograd.Function):
    """A given value forward; backward the slope of ReLU or softplus, and while the mode is on only what is positive.

    The first backward pass makes the explanation and is guided; the second one, which says how the explanation moves
    with the image, must go through the activations as they are.
    """

    @staticmethod
    def forward(ctx: object, x: Tensor, value: Tensor, beta: float | None, mode: _Mode) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        ctx.beta, ctx.mode = beta, mode  # type: ignore[attr-defined]
        return value.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        beta = ctx.beta  # type: ignore[attr-defined]
        slope = (x > 0).to(x.dtype) if beta is None else torch.sigmoid(beta * x)
        passed = gradient.clamp(min=0) if ctx.mode.on else gradient  # type: ignore[attr-defined]
        return passed * slope, None, None, None


class _Guided(nn.Module):
    def __init__(self, activation: nn.Module, mode: _Mode) -> None:
        super().__init__()
        self.activation, self.mode, self.beta = activation, mode, getattr(activation, "beta", None)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.activation(x)
        result: Tensor = _Guide.apply(x, value, self.beta, self.mode)
        return result


@contextmanager
def guided(model: nn.Module) -> Iterator[nn.Module]:
    """While open, every ReLU, softplus and Gate of the model lets back only gradients that are positive."""
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ReLU | nn.Softplus | Gate)
    ]
    mode = _Mode()
    try:
        for parent, name, child in places:
            setattr(parent, name, _Guided(child, mode))
        yield model
    finally:
        mode.on = False
        for parent, name, child in places:
            setattr(parent, name, child)
