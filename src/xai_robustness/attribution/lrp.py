"""Layer-wise relevance propagation: relevances of all layers that are asked for, from one backward pass."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor
from xai_robustness.attribution.composites import COMPOSITES, Composite, assign
from xai_robustness.attribution.conservation import Account, Changed, check_account, check_graph, watched
from xai_robustness.attribution.conservation import ConservationError as ConservationError
from xai_robustness.attribution.rules import Ledger
from xai_robustness.models.canonizers import canonical
from xai_robustness.models.modes import borrow
from xai_robustness.models.zoo import check_layer, layer_names, split
from xai_robustness.types import InputError

TOLERANCE = 1e-3
"""Share of a stage's absolute relevance that rounding may lose in single precision; tests use 1e-4."""


@dataclass(frozen=True)
class LrpResult:
    """What one pass gives; B samples, all on the model's device.

    Attributes:
        logits: (B,K) of the canonised model, equal to the model's up to rounding.
        activations: layer -> output (B,K,…).
        relevances: layer -> relevance of that output, same shape, signed.
        absorbed: layer -> (B,) relevance that constants above the layer took; relevance + absorbed = target logit.
        attribution: relevance of the input, signed, the input's shape.
        lost: stage -> largest share of a sample's relevance that got lost inside it, which is rounding.
    """

    logits: Float[Tensor, "b k"]
    activations: dict[str, Tensor]
    relevances: dict[str, Tensor]
    absorbed: dict[str, Float[Tensor, " b"]]
    attribution: Float[Tensor, "b c *positions"]
    lost: dict[str, float]


Targets = Int64[Tensor, " b"] | Callable[[Float[Tensor, "b k"]], Int64[Tensor, " b"]]


class Lrp:
    """LRP on a model while the context is open: rules attached once, the model given back as it was.

    Inside the context the model is in evaluation mode, its batch norms are merged, and its gradient is relevance;
    use it through `run` and `from_layer` alone. What lies between modules is checked in the graph of every pass, and
    the relevance of every stage's input is compared with that of its output.

    Args:
        model: sequence of stages, insertions included; moved nowhere.
        composite: name of one of COMPOSITES, or a composite.
        tolerance: largest share of a stage's absolute relevance that may be lost beside what constants absorb.

    Raises:
        InputError: unknown composite, or (on entering) a module without a rule.
    """

    def __init__(
        self, model: nn.Sequential, composite: str | Composite = "epsilon_plus_flat", tolerance: float = TOLERANCE
    ) -> None:
        self.model = model
        self.composite: Composite = COMPOSITES.create(composite) if isinstance(composite, str) else composite
        self.tolerance = tolerance
        self.ledger = Ledger()
        self._stack = ExitStack()

    def __enter__(self) -> "Lrp":
        with ExitStack() as stack:
            stack.enter_context(borrow(self.model))
            stack.enter_context(canonical(self.model))
            for module, rule in assign(self.model, self.composite, self.ledger):
                module.forward = rule
                stack.callback(module.__delattr__, "forward")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(
        self,
        images: Float[Tensor, "b c *positions"],
        targets: Targets,
        layers: Sequence[str] = (),
        masks: Mapping[str, Changed] | None = None,
    ) -> LrpResult:
        """Explain the logits of the targets: initial relevance is the target's logit, 0 for all others.

        Args:
            images: (B,C,H,W) in [0,1], or signals (B,C,T), on the model's device.
            targets: class of each sample, or a function from logits to classes.
            layers: stages whose activations and relevances are wanted, all from this one pass.
            masks: layer -> function from its relevance to the part that goes on; `relevances` has what went on, and
                what a mask took counts as absorbed.

        Raises:
            InputError: unknown layer or class.
            ConservationError: an operation that relevance cannot pass, or a stage that lost more than the tolerance.
        """
        for layer in (*layers, *(masks or ())):
            check_layer(self.model, layer)
        x = images.detach().clone().requires_grad_()
        with torch.enable_grad(), watched(self.model, self._stages(), layers, self.ledger, masks) as account:
            logits = self.model(x)
        detached = logits.detach()
        classes = targets(detached) if callable(targets) else targets
        _check_targets(classes, detached)
        initial = torch.zeros_like(detached).scatter(1, classes[:, None], detached.gather(1, classes[:, None]))
        attribution, lost = self._backward(logits, x, initial, account)
        absorbed = {layer: account.absorbed[layer] for layer in layers}
        activations = {layer: account.activations[layer] for layer in layers}
        relevances = {layer: account.relevances[layer] for layer in layers}
        return LrpResult(detached, activations, relevances, absorbed, attribution, lost)

    def from_layer(
        self,
        images: Float[Tensor, "b c *positions"],
        layer: str,
        make_relevance: Callable[[Tensor], Tensor],
        masks: Mapping[str, Changed] | None = None,
    ) -> Float[Tensor, "b c *positions"]:
        """Start at an inner layer: attribution of the relevance that `make_relevance` gives its activation.

        Args:
            images: (B,C,H,W) in [0,1], or signals (B,C,T), on the model's device.
            layer: stage where the backward pass starts; what comes after it is not computed.
            make_relevance: activation (B,K,…) -> relevance of the same shape.
            masks: as in `run`, for stages before the layer.

        Raises:
            InputError: unknown layer.
            ConservationError: as in `run`.
        """
        prefix, _ = split(self.model, layer)
        x = images.detach().clone().requires_grad_()
        with torch.enable_grad(), watched(prefix, layer_names(prefix), (), self.ledger, masks) as account:
            activation = prefix(x)
        return self._backward(activation, x, make_relevance(activation.detach()), account)[0]

    def _stages(self) -> tuple[str, ...]:
        return layer_names(self.model)

    def _backward(self, output: Tensor, x: Tensor, initial: Tensor, account: Account) -> tuple[Tensor, dict[str, Any]]:
        """Relevance of the input, and the shares lost by stage."""
        try:
            check_graph(output, account.producers)
        finally:
            account.producers.clear()  # its nodes own hooks that own the account: a cycle that nothing would free
        self.ledger.absorbed = initial.new_zeros(len(initial))
        (attribution,) = torch.autograd.grad(output, x, initial)
        account.enter("input", attribution, self.ledger.absorbed)
        return attribution, check_account(account, self.tolerance)


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

    full_precision = True

    def __init__(self, model: nn.Sequential, composite: str = "epsilon_plus_flat", batch_size: int = 64) -> None:
        super().__init__(model, batch_size)
        COMPOSITES.checked(composite)
        self.composite = composite

    def attribute(self, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Input relevance of one batch."""
        with Lrp(self.model, self.composite) as lrp:
            return lrp.run(images, targets).attribution
