"""Layer-wise relevance propagation: relevances of all layers that are asked for, from one backward pass."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor
from xai_robustness.attribution.rules import (
    Epsilon,
    Flat,
    Homogeneous,
    Ledger,
    Pass,
    Rule,
    Skip,
    Split,
    ZPlus,
)
from xai_robustness.models.canonizers import canonizers, is_merged
from xai_robustness.models.insertions import INSERTIONS
from xai_robustness.models.layers import Add, Normalize
from xai_robustness.models.modes import borrow
from xai_robustness.models.taps import tap
from xai_robustness.models.zoo import check_layer, layer_names, split
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

RuleMap = tuple[tuple[tuple[type, ...], type[Rule] | None], ...]

BASE: RuleMap = (
    ((nn.Conv2d,), ZPlus),
    ((nn.Linear,), Epsilon),
    ((nn.ReLU, nn.BatchNorm2d, Normalize), Pass),
    ((Add,), Split),
    ((nn.AvgPool2d, nn.AdaptiveAvgPool2d), Homogeneous),
    ((nn.MaxPool2d, nn.Flatten, nn.Dropout, nn.Identity), None),
)
"""Rules by module type; None means the gradient, which for these modules moves relevance without changing it."""


@dataclass(frozen=True)
class Composite:
    """Which rule each module gets.

    Attributes:
        rules: rules by type, first match wins.
        first: rule of the first convolution or linear layer; None: no exception.
    """

    rules: RuleMap
    first: type[Rule] | None = None


COMPOSITES = Registry[Callable[[], Composite]]("composite")


@COMPOSITES.register("epsilon_plus_flat")
def epsilon_plus_flat() -> Composite:
    """ZPlus for convolutions, Epsilon for linear layers, Flat for the first layer [Kohlbrenner2020]."""
    return Composite(BASE, Flat)


@COMPOSITES.register("epsilon_plus")
def epsilon_plus() -> Composite:
    """ZPlus for convolutions, Epsilon for linear layers."""
    return Composite(BASE)


class ConservationError(InputError):
    """Relevance was lost or made on the way: the model has an operation that no rule knows."""


@dataclass(frozen=True)
class LrpResult:
    """What one pass gives; B samples, all on the model's device.

    Attributes:
        logits: (B,K) of the canonised model, equal to the model's up to rounding.
        activations: layer -> output (B,K,…).
        relevances: layer -> relevance of that output, same shape, signed.
        absorbed: layer -> (B,) relevance that constants above the layer took; relevance + absorbed = target logit.
        attribution: relevance of the input, signed (B,C,H,W).
    """

    logits: Float[Tensor, "b k"]
    activations: dict[str, Tensor]
    relevances: dict[str, Tensor]
    absorbed: dict[str, Float[Tensor, " b"]]
    attribution: Float[Tensor, "b c h w"]


Targets = Int64[Tensor, " b"] | Callable[[Float[Tensor, "b k"]], Int64[Tensor, " b"]]


class Lrp:
    """LRP on a zoo model while the context is open: rules attached once, the model given back as it was.

    Inside the context the model is in evaluation mode, its batch norms are merged, and its gradient is relevance;
    use it through `run` and `from_layer` alone.

    Args:
        model: sequence of stages, insertions included; moved nowhere.
        composite: name of one of COMPOSITES.
        tolerance: largest share of a layer's absolute relevance that may be lost beside what biases absorb.

    Raises:
        InputError: unknown composite, or (on entering) a module without a rule.
    """

    def __init__(self, model: nn.Sequential, composite: str = "epsilon_plus_flat", tolerance: float = 0.1) -> None:
        self.model = model
        self.composite: Composite = COMPOSITES.create(composite)
        self.tolerance = tolerance
        self.ledger = Ledger()
        self._stack = ExitStack()

    def __enter__(self) -> "Lrp":
        with ExitStack() as stack:
            stack.enter_context(borrow(self.model))
            for canonizer in canonizers(self.model):
                for instance in canonizer.apply(self.model):
                    stack.callback(instance.remove)
            for module, rule in _assign(self.model, self.composite):
                module.forward = rule(module, self.ledger)
                stack.callback(module.__delattr__, "forward")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(self, images: Float[Tensor, "b c h w"], targets: Targets, layers: Sequence[str] = ()) -> LrpResult:
        """Explain the logits of the targets: initial relevance is the target's logit, 0 for all others.

        Args:
            images: (B,C,H,W) in [0,1], on the model's device.
            targets: class of each sample, or a function from logits to classes.
            layers: stages whose activations and relevances are wanted, all from this one pass.

        Raises:
            InputError: unknown layer or class.
            ConservationError: relevance of a layer differs from the logits by more than the tolerance; names the last
                such layer, below which the cause is not, and which is the first that the pass reached.
        """
        for layer in layers:
            check_layer(self.model, layer)
        x = images.detach().clone().requires_grad_()
        with torch.enable_grad(), tap(self.model, layers) as activations:
            logits = self.model(x)
        detached = logits.detach()
        classes = targets(detached) if callable(targets) else targets
        _check_targets(classes, detached)
        initial = torch.zeros_like(detached).scatter(1, classes[:, None], detached.gather(1, classes[:, None]))
        names, nodes = ("input", *layers), [x, *(activations[layer] for layer in layers)]
        gradients, absorbed = self._backward(logits, nodes, initial)
        order = ("input", *layer_names(self.model))
        for place in sorted(range(len(nodes)), key=lambda i: order.index(names[i]), reverse=True):
            self._check(names[place], initial, gradients[place], absorbed[place])
        return LrpResult(
            detached,
            {layer: activations[layer].detach() for layer in layers},
            dict(zip(layers, gradients[1:])),
            dict(zip(layers, absorbed[1:])),
            gradients[0],
        )

    def from_layer(
        self, images: Float[Tensor, "b c h w"], layer: str, make_relevance: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "b c h w"]:
        """Start at an inner layer: attribution of the relevance that `make_relevance` gives its activation.

        Args:
            images: (B,C,H,W) in [0,1], on the model's device.
            layer: stage where the backward pass starts; what comes after it is not computed.
            make_relevance: activation (B,K,…) -> relevance of the same shape.

        Raises:
            InputError: unknown layer.
            ConservationError: the attribution does not sum to the given relevance within the tolerance.
        """
        prefix, _ = split(self.model, layer)
        x = images.detach().clone().requires_grad_()
        with torch.enable_grad():
            activation = prefix(x)
        initial = make_relevance(activation.detach())
        gradients, absorbed = self._backward(activation, [x], initial)
        self._check("input", initial, gradients[0], absorbed[0])
        return gradients[0]

    def _backward(
        self, output: Tensor, nodes: list[Tensor], initial: Tensor
    ) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Relevances of the nodes, and for each what constants had absorbed when the pass reached it."""
        nothing = torch.zeros(len(initial), dtype=initial.dtype, device=initial.device)
        self.ledger.absorbed = nothing
        absorbed = [nothing] * len(nodes)

        def note(place: int) -> Callable[[Tensor], None]:
            def hook(_: Tensor) -> None:
                assert self.ledger.absorbed is not None
                absorbed[place] = self.ledger.absorbed

            return hook

        handles = [node.register_hook(note(place)) for place, node in enumerate(nodes)]
        gradients = torch.autograd.grad(output, nodes, initial)
        for handle in handles:
            handle.remove()
        return gradients, absorbed

    def _check(self, name: str, initial: Tensor, relevance: Tensor, absorbed: Tensor) -> None:
        kept = relevance.flatten(1).sum(1) + absorbed
        lost = (initial.flatten(1).sum(1) - kept).abs().sum()
        size = torch.maximum(relevance.abs().sum(), initial.abs().sum())
        if not bool(lost <= self.tolerance * size):
            raise ConservationError(
                f"The relevance of '{name}' must sum to the explained output within {self.tolerance:.0%} of its size. "
                f"Got {float(lost / size):.1%} lost instead; the model has an operation that LRP has no rule for."
            )


def _assign(model: nn.Module, composite: Composite) -> list[tuple[nn.Module, type[Rule]]]:
    """Every module with its rule, in the order of `named_modules`; raises InputError where there is none."""
    assigned: list[tuple[nn.Module, type[Rule]]] = []
    first = composite.first
    for name, module in model.named_modules():
        if next(module.children(), None) is not None:
            continue
        found, rule = _rule_for(module, composite.rules)
        if not found:
            raise InputError(
                f"The model parameter of Lrp must be made of modules with a rule. "
                f"Got {type(module).__name__} at '{name}' instead."
            )
        if first is not None and isinstance(module, nn.Conv2d | nn.Linear):
            rule, first = first, None
        if rule is not None:
            assigned.append((module, rule))
    return assigned


def _rule_for(module: nn.Module, rules: RuleMap) -> tuple[bool, type[Rule] | None]:
    if is_merged(module):
        return True, Skip
    if type(module).__name__ in INSERTIONS:
        return True, Homogeneous
    return next(((True, rule) for types, rule in rules if isinstance(module, types)), (False, None))


def _check_targets(classes: Tensor, logits: Tensor) -> None:
    if classes.shape != logits.shape[:1] or classes.dtype != torch.int64:
        raise InputError(
            f"The targets parameter of Lrp.run must be one int64 class a sample. "
            f"Got {classes.dtype} of shape {tuple(classes.shape)} for {len(logits)} samples instead."
        )
    if bool((classes < 0).any() | (classes >= logits.shape[1]).any()):
        raise InputError(
            f"The targets parameter of Lrp.run must be in 0..{logits.shape[1] - 1}. Got {classes.tolist()[:8]} instead."
        )


@ATTRIBUTORS.register("lrp")
class LrpAttributor(Attributor):
    """LRP as one attribution method among others; attaches its rules for each batch.

    Args:
        model: sequence of stages.
        composite: name of one of COMPOSITES.
        batch_size: images at once.
    """

    def __init__(self, model: nn.Sequential, composite: str = "epsilon_plus_flat", batch_size: int = 64) -> None:
        super().__init__(model, batch_size)
        COMPOSITES.checked(composite)
        self.composite = composite

    def attribute(self, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Input relevance of one batch."""
        with Lrp(self.model, self.composite) as lrp:
            return lrp.run(images, targets).attribution
