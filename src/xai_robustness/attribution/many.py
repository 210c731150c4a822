"""Several methods on the same images: what they share is computed once, and forward passes are counted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import Attributor, Shared, check_inputs, check_targets
from xai_robustness.models.modes import borrow
from xai_robustness.types import InputError


@dataclass(frozen=True)
class Attributions:
    """What `attribute_many` gives; N samples, on the images' device.

    Attributes:
        attributions: key of the method -> attribution (N,C,…), or (N,1,…) for heatmaps.
        logits: (N,K) of the images.
        targets: (N,) the classes that were explained.
        passes: samples that went forward through the model, for all methods together.
    """

    attributions: dict[str, Tensor]
    logits: Float[Tensor, "n k"]
    targets: Int64[Tensor, " n"]
    passes: int


def attribute_many(
    methods: Mapping[str, Attributor],
    images: Float[Tensor, "n c *positions"],
    targets: Int64[Tensor, " n"] | None = None,
    batch_size: int = 64,
) -> Attributions:
    """Explain the same images by several methods of one model; results are those of the methods one by one.

    Logits and the gradient of the images are computed once for all methods that use them.

    Args:
        methods: key -> attributor; all of the same model.
        images: (N,C,H,W) in [0,1], or signals (N,C,T), on the model's device.
        targets: (N,) class of each sample; None: the class that the model predicts.
        batch_size: samples at once; changes memory, not results.

    Raises:
        InputError: no method, methods of different models, or images and targets that an attributor refuses.
    """
    model = _one_model(methods)
    check_inputs("attribute_many", images, targets)
    found: dict[str, list[Tensor]] = {key: [] for key in methods}
    logits, classes = [], []
    with_gradient = any(method.uses_gradient for method in methods.values())
    with torch.inference_mode(False), borrow(model), count_passes(model) as passes:
        if targets is not None:
            check_targets("attribute_many", model, images, targets)
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            given = None if targets is None else targets[rows].clone()
            shared = Shared(model, images[rows].detach().clone(), given, with_gradient)
            for key, method in methods.items():
                found[key].append(method.explain(shared))
            logits.append(shared.logits)
            classes.append(shared.targets)
    joined = {key: torch.cat(parts) for key, parts in found.items()}
    return Attributions(joined, torch.cat(logits), torch.cat(classes), passes.samples)


def _one_model(methods: Mapping[str, Attributor]) -> nn.Module:
    models = {id(method.model): method.model for method in methods.values()}
    if len(models) != 1:
        raise InputError(
            f"The methods parameter of attribute_many must be at least one attributor, all of the same model. "
            f"Got {len(methods)} attributors of {len(models)} models instead."
        )
    model: nn.Module = next(iter(models.values()))
    return model


@dataclass
class Passes:
    """How often a model ran forward.

    Attributes:
        samples: samples that reached its last module.
        calls: batches that they came in.
    """

    samples: int = 0
    calls: int = 0


@contextmanager
def count_passes(model: nn.Module) -> Iterator[Passes]:
    """Count forward passes while the context is open, at the model's last module, the classifier.

    Counts partial passes too, which start at an inner layer.
    """
    passes = Passes()

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        passes.samples += len(inputs[0])
        passes.calls += 1

    last = [module for module in model.modules() if next(module.children(), None) is None][-1]
    handle = last.register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()
