"""Activations of named layers, and pooling them over positions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.types import InputError

Pooling = Literal["max", "mean", "sum"]
POOLINGS: tuple[Pooling, ...] = ("max", "mean", "sum")


@contextmanager
def hooked(hooks: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Forward hooks on modules while the context is open, removed on exit whatever happens."""
    with ExitStack() as stack:
        for module, hook in hooks.items():
            stack.callback(module.register_forward_hook(hook).remove)
        yield


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

    def keep(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[layer] = output

        return hook

    with hooked({modules[layer]: keep(layer) for layer in layers}):
        yield outputs


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
