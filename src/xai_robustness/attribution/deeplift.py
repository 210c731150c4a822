"""DeepLIFT with the Rescale rule, and its mean over a set of baselines.

A reference goes forward once for all images, an image once for all references; each pair costs one backward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor, check_option
from xai_robustness.attribution.baselines import Baseline, BaselineSet
from xai_robustness.types import InputError

EPSILON = 1e-10
"""Below this difference of inputs a multiplier is the gradient."""

TOLERANCE = 0.01
"""Largest share of an attribution's absolute sum that may be missing to f_t(x) - f_t(baseline)."""

_ELEMENTWISE: set[Any] = {
    *(F.relu, torch.relu, Tensor.relu, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish),
    *(F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.softplus, F.logsigmoid),
    *(torch.sigmoid, Tensor.sigmoid, F.sigmoid, torch.tanh, Tensor.tanh, F.tanh),
}
_IN_PLACE: dict[Any, Any] = {F.relu_: F.relu, torch.relu_: F.relu, Tensor.relu_: F.relu}
_POOLS: dict[Any, Callable[..., Any]] = {F.max_pool1d: F.max_pool1d, F.max_pool2d: F.max_pool2d}


class _Tape:
    """Inputs and outputs of every nonlinear call on the references, in order, and which reference is compared with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, ...]] = []
        self.rows = slice(0, 1)

    def at(self, place: int) -> list[Tensor]:
        return [tensor[self.rows] for tensor in self.calls[place]]


class _Rescale(torch.autograd.Function):
    """An elementwise function whose gradient is Δy/Δx."""

    @staticmethod
    def forward(ctx: Any, tape: _Tape, place: int, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        y = function(x)
        ctx.tape, ctx.place, ctx.function = tape, place, function
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[None, None, None, Tensor]:
        x, y = ctx.saved_tensors
        reference, output = ctx.tape.at(ctx.place)
        change = x - reference
        near = change.abs() < EPSILON
        slope = (y - output).div_(change)
        if bool(near.any()):
            slope = torch.where(near, _derivative(ctx.function, x), slope)
        return None, None, None, slope.mul_(above)


def _derivative(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(function(x).sum(), x)[0]


class _RescalePool(torch.autograd.Function):
    """Max pooling: each pair of maxima hands its difference to the two places that they come from."""

    @staticmethod
    def forward(ctx: Any, tape: _Tape, place: int, pool: Callable[[Tensor], Any], x: Tensor) -> Tensor:
        y, index = pool(x)
        ctx.tape, ctx.place = tape, place
        ctx.save_for_backward(x, y, index)
        return y

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[None, None, None, Tensor]:
        x, y, index = ctx.saved_tensors
        reference, output, reference_index = ctx.tape.at(ctx.place)
        top = torch.maximum(y, output)
        share = _spread(above * (top - output), index, x) + _spread(above * (y - top), reference_index, x)
        change = x - reference
        near = change.abs() < EPSILON
        return None, None, None, torch.where(near, _spread(above, index, x), share / change)


def _spread(values: Tensor, index: Tensor, x: Tensor) -> Tensor:
    """Add pooled values at the places that `index` names; overlapping windows add up."""
    flat = torch.zeros_like(x).flatten(2)
    index = index.expand_as(values) if len(index) != len(values) else index
    return flat.scatter_add(2, index.flatten(2), values.flatten(2)).reshape(x.shape)


class _Nonlinear(TorchFunctionMode):
    """Hands every nonlinear call of the model to `take`, whether a module makes it or a function in `forward`."""

    def __init__(self, tape: _Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not (func in _ELEMENTWISE or func in _IN_PLACE or func in _POOLS):
            return func(*args, **kwargs)
        x, rest = (args[0], args[1:]) if args else (kwargs.pop("input"), ())
        if func in _POOLS:
            kwargs.update(return_indices=True)
            return self.take(_RescalePool, lambda t: func(t, *rest, **kwargs), x)
        changed = kwargs.pop("inplace", False) or func in _IN_PLACE
        function = _IN_PLACE.get(func, func)
        if not changed:
            return self.take(_Rescale, lambda t: function(t, *rest, **kwargs), x)
        return x.copy_(self.take(_Rescale, lambda t: function(t, *rest, **kwargs), x.clone()))

    def take(self, rule: Any, function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
        raise TypeError("a subclass says what happens to a call")


class _Record(_Nonlinear):
    """Notes the calls of the references."""

    def take(self, rule: Any, function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
        found = function(x)
        outputs: tuple[Tensor, ...] = found if isinstance(found, tuple) else (found,)
        self.tape.calls.append((x, *outputs))
        return outputs[0]


class _Compare(_Nonlinear):
    """Puts rules that know the references' calls in place of the images'."""

    def __init__(self, tape: _Tape) -> None:
        super().__init__(tape)
        self.place = 0

    def take(self, rule: Any, function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
        place, self.place = self.place, self.place + 1
        if place >= len(self.tape.calls) or self.tape.calls[place][0].shape[1:] != x.shape[1:]:
            raise InputError(
                "The model parameter of DeepLift must do the same operations for every input. Got another sequence of "
                "nonlinear functions for the images than for their baselines instead."
            )
        found: Tensor = rule.apply(self.tape, place, function, x)
        return found


class _Comparison(Attributor):
    """DeepLIFT of images against weighted references; subclasses say which."""

    full_precision = True

    def references(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """References (R·B,C,…), or (R,C,…) for all images alike, and their weights (R,)."""
        raise TypeError("a subclass says which")

    def attribute(
        self, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b c *positions"]:
        """Attribution of one batch; raises InputError where it is not complete."""
        references, weights = self.references(images)
        tape, width = _Tape(), len(references) // len(weights)
        with torch.no_grad(), _Record(tape):
            reference_logits = self.model(references)
        x = images.detach().clone().requires_grad_()
        with torch.enable_grad(), _Compare(tape):
            logits = self.model(x)
            chosen = logits.gather(1, targets[:, None])[:, 0]
        total, gain = torch.zeros_like(images), chosen.detach().clone()
        for i, weight in enumerate(weights):
            tape.rows = slice(i * width, (i + 1) * width)
            (multiplier,) = torch.autograd.grad(chosen.sum(), x, retain_graph=i + 1 < len(weights))
            total += weight * (images - references[tape.rows]) * multiplier
            own = reference_logits[tape.rows].expand_as(logits)
            gain -= weight * own.gather(1, targets[:, None])[:, 0]
        _check_complete(type(self).__name__, total, gain)
        return total


def _check_complete(caller: str, attribution: Tensor, gain: Tensor) -> None:
    lost = (attribution.flatten(1).sum(1) - gain).abs().sum()
    size = torch.maximum(attribution.abs().sum(), gain.abs().sum())
    if not bool(lost <= TOLERANCE * size):
        raise InputError(
            f"The model parameter of {caller} must be made of linear layers, elementwise functions and max pooling, so "
            f"that attributions sum to the change of the output within {TOLERANCE:.0%}. Got {float(lost / size):.1%} "
            f"lost instead; use integrated_gradients, which asks for no rules."
        )


@ATTRIBUTORS.register("deeplift")
class DeepLift(_Comparison):
    """Differences to a baseline, handed back by the Rescale rule [Shrikumar2017]; sums to f_t(x) - f_t(baseline).

    Args:
        model: classifier of linear layers, elementwise functions and max pooling; anything else is refused.
        baseline: a name of BASELINES, or an image (C,…) in the images' units.
        mean_image: (C,…), for the baseline "mean".
        seed: seed of random baselines.
        batch_size: images at once.
    """

    def __init__(
        self,
        model: nn.Module,
        baseline: str | Tensor = "zero",
        mean_image: Tensor | None = None,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        super().__init__(model, batch_size)
        self.baseline = Baseline("DeepLift", baseline, mean_image, seed)

    def references(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The baseline, once for all images where it is the same."""
        return self.baseline.of(images), images.new_ones(1)


@ATTRIBUTORS.register("deeplift_shap")
class DeepLiftShap(_Comparison):
    """Weighted mean of DeepLIFT over a set of baselines that does not depend on the batch [Lundberg2017].

    Args:
        model: as for DeepLift.
        n_noise: noise images in the set, which share the weight of noise.
        baselines: own baselines (R,C,…), evenly weighted; None: the set of BaselineSet.
        mean_image: (C,…), one third of that set.
        seed: seed of the noise.
        batch_size: images at once.
    """

    def __init__(
        self,
        model: nn.Module,
        n_noise: int = 4,
        baselines: Tensor | None = None,
        mean_image: Tensor | None = None,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        super().__init__(model, batch_size)
        check_option("DeepLiftShap", "n_noise", n_noise, n_noise >= 1, "at least 1")
        self.n_noise = n_noise
        self.baselines = BaselineSet("DeepLiftShap", baselines, mean_image, seed)

    def references(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The set's baselines and weights."""
        return self.baselines.weighted(images, self.n_noise)
