"""Conservation of relevance: seen in the graph before the backward pass, and measured at every stage during it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.attribution.rules import Ledger
from xai_robustness.models.taps import hooked
from xai_robustness.types import InputError

RULES = ("_WithRule", "_Pass", "_MaxPool", "AccumulateGrad")
SHAPES = ("View", "UnsafeView", "ReshapeAlias", "Transpose", "T", "Permute", "Squeeze", "Unsqueeze", "Alias", "Clone")
PARTS = ("Cat", "Stack", "Split", "SplitWithSizes", "Unbind", "Slice", "Select", "Index", "ConstantPadNd", "Roll")
WINNERS = ("MaxPool2DWithIndices", "AdaptiveMaxPool2D", "ToCopy")
MOVES = frozenset((*RULES, *SHAPES, *PARTS, *WINNERS))
"""Operations through which relevance passes without change: those of rules, and those whose gradient moves values."""


class ConservationError(InputError):
    """Relevance was lost or made on the way: the model has an operation that no rule knows."""


Changed = Callable[[Tensor], Tensor]


@dataclass
class Account:
    """What one backward pass found at each stage, in the order of that pass (from the output to the input).

    Attributes:
        names: stages.
        kept: sum of relevance and of what constants took so far, (B,) a stage.
        sizes: sum of absolute relevance, (B,) a stage.
        absorbed: what constants took until here, (B,) a stage.
        relevances: relevance of the stages that were asked for.
        activations: outputs of the stages that were asked for.
        producers: autograd node -> stage.
    """

    names: list[str] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    sizes: list[Tensor] = field(default_factory=list)
    absorbed: dict[str, Tensor] = field(default_factory=dict)
    relevances: dict[str, Tensor] = field(default_factory=dict)
    activations: dict[str, Tensor] = field(default_factory=dict)
    producers: dict[object, str] = field(default_factory=dict)
    _last: tuple[Tensor, Tensor, Tensor] | None = None

    def enter(self, name: str, relevance: Tensor, taken: Tensor) -> None:
        """Book the relevance that arrived at a stage, and what constants took above it."""
        if self._last is None or self._last[0] is not relevance:  # stages that pass it on need no second look
            flat = relevance.flatten(1)
            self._last = relevance, flat.sum(1), torch.linalg.vector_norm(flat, 1, 1)
        self.names.append(name)
        self.absorbed[name] = taken
        self.kept.append(self._last[1] + taken)
        self.sizes.append(self._last[2])

    def losses(self) -> dict[str, Float[Tensor, " b"]]:
        """Stage -> share that was lost (or made) inside it.

        The whole is the largest sum of absolute relevance of its input, its output and what is explained.
        """
        kept, sizes = torch.stack(self.kept), torch.stack(self.sizes)
        changes = (kept[1:] - kept[:-1]).abs()
        largest = torch.maximum(torch.maximum(sizes[1:], sizes[:-1]), sizes[:1])
        shares = torch.where(changes == 0, 0.0, changes / largest)
        return dict(zip(self.names, shares))


@contextmanager
def watched(
    model: nn.Module,
    stages: Sequence[str],
    wanted: Sequence[str],
    ledger: Ledger,
    changes: Mapping[str, Changed] | None = None,
) -> Iterator[Account]:
    """Keep the account of the next forward and backward pass; hooks on modules are removed on exit.

    Args:
        model: the model or a part of it.
        stages: module paths after which nothing but that module's output is used.
        wanted: stages whose activations and relevances are kept.
        ledger: of the rules attached to the model.
        changes: stage -> function that replaces its relevance; what it takes away counts as absorbed.
    """
    account, modules = Account(), dict(model.named_modules())
    with hooked({modules[name]: _hook(account, name, wanted, ledger, changes) for name in stages}):
        yield account


def _hook(
    account: Account, name: str, wanted: Sequence[str], ledger: Ledger, changes: Mapping[str, Changed] | None
) -> Callable[[nn.Module, object, Tensor], None]:
    def arrived(relevance: Tensor) -> Tensor | None:
        new = changes[name](relevance) if changes and name in changes else None
        if new is not None:
            ledger.add((relevance - new).flatten(1).sum(1))
        assert ledger.absorbed is not None
        account.enter(name, relevance if new is None else new, ledger.absorbed)
        if name in wanted:
            account.relevances[name] = relevance if new is None else new
        return new

    def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
        known = output.grad_fn in account.producers  # a sequence ends with its last stage
        if not output.requires_grad or (known and name not in wanted and name not in (changes or {})):
            return
        account.producers.setdefault(output.grad_fn, name)
        if name in wanted:
            account.activations[name] = output.detach()
        output.register_hook(arrived)

    return hook


def check_graph(output: Tensor, producers: Mapping[object, str]) -> None:
    """Refuse a model that computes anything between its modules that relevance cannot pass.

    Args:
        output: what the backward pass starts from, rules attached.
        producers: autograd node -> name of the stage that it ends.

    Raises:
        ConservationError: names the stage and the operation.
    """
    todo = [(output.grad_fn, producers.get(output.grad_fn, "the output"))]
    seen = {output.grad_fn}
    while todo:
        node, stage = todo.pop()
        assert node is not None
        operation = node.name().split("::")[-1].rstrip("0123456789").removesuffix("Backward")
        if operation not in MOVES:
            raise ConservationError(
                f"The model parameter of Lrp must compute with modules that have a rule. Got {operation} in the stage "
                f"'{stage}' instead; make it a module, or pass the model through models.rewrite.from_module."
            )
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                todo.append((parent, producers.get(parent, stage)))


def check_account(account: Account, tolerance: float) -> dict[str, float]:
    """Largest share of relevance that a sample lost, by stage.

    Raises:
        ConservationError: more than the tolerance was lost; names the stage: the relevances of its input and of its
            output differ by more than what constants took.
    """
    losses = account.losses()
    shares = dict(zip(losses, torch.stack(list(losses.values())).amax(1).tolist()))
    for name, share in shares.items():
        if not share <= tolerance:
            raise ConservationError(
                f"The relevance behind and before the stage '{name}' must be equal within {tolerance:.2%} of its size. "
                f"Got {share:.2%} lost instead; the stage has an operation that LRP has no rule for."
            )
    return shares
