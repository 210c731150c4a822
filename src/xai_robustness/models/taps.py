"""Activations of named layers, and pooling them over positions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.types import InputError

Pooling = Literal["max", "mean", "sum"]
POOLINGS: tuple[Pooling, ...] = ("max", "mean", "sum")


@contextmanager
def tap(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of `layers` while the context is open; hooks are removed on exit.

    Args:
        model: any module.
        layers: module paths, as `named_modules` gives them.

    Yields:
        Layer -> its latest output (B,K,…), attached to the graph if there is one.

    Raises:
        InputError: a path does not exist.
    """
    outputs: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    unknown = [layer for layer in layers if not layer or layer not in modules]
    if unknown:
        raise InputError(f"The layers parameter of tap must be module paths of the model. Got '{unknown[0]}' instead.")

    def keep(layer: str) -> object:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[layer] = output

        return modules[layer].register_forward_hook(hook)

    handles = [keep(layer) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]


def pool(activation: Float[Tensor, "b k *positions"], how: Pooling) -> Float[Tensor, "b k"]:
    """Reduce all positions of an activation or relevance; (B,K) stays as it is.

    Args:
        activation: (B,K,…).
        how: max, mean or sum.

    Raises:
        InputError: `how` is none of these.
    """
    if how not in POOLINGS:
        raise InputError(f"The how parameter of pool must be one of {', '.join(POOLINGS)}. Got {how!r} instead.")
    if activation.ndim == 2:
        return activation
    flat = activation.flatten(2)
    return flat.amax(-1) if how == "max" else flat.mean(-1) if how == "mean" else flat.sum(-1)
