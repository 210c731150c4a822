"""Composites: which LRP rule each module of a classifier gets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import fx, nn
from torchvision.ops import Permute, StochasticDepth

from xai_robustness.attribution.rules import Homogeneous, Ledger, MaxPool, Pass, Rule, Skip, Split
from xai_robustness.attribution.transformer_rules import DetachedAttention, SoftmaxAttention
from xai_robustness.attribution.weighted_rules import AlphaBeta, Box, Epsilon, Flat, Gamma, ZPlus
from xai_robustness.models.canonizers import is_merged
from xai_robustness.models.gated import Scale, ScaledResidual
from xai_robustness.models.insertions import INSERTIONS
from xai_robustness.models.layers import Add, Concatenate, Normalize
from xai_robustness.models.transformers import Attend, ClassToken, PatchMean, Tokens
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

MakeRule = Callable[[nn.Module, Ledger], Rule]
RuleMap = tuple[tuple[tuple[type, ...], MakeRule | None], ...]

CONVOLUTIONS: tuple[type, ...] = (nn.Conv1d, nn.Conv2d)
WEIGHTED: tuple[type, ...] = (*CONVOLUTIONS, nn.Linear)

RELUS: tuple[type, ...] = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU)
ACTIVATIONS: tuple[type, ...] = (*RELUS, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid)
NORMALISATIONS: tuple[type, ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, Normalize)

BASE: RuleMap = (
    ((nn.Linear,), Epsilon),
    ((*ACTIVATIONS, *NORMALISATIONS, Scale), Pass),
    ((Add,), Split),
    ((Attend,), DetachedAttention),
    ((Tokens, PatchMean), Homogeneous),
    ((ClassToken, Concatenate, Permute, ScaledResidual), None),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), Homogeneous),
    ((nn.MaxPool2d,), MaxPool),
    ((nn.MaxPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Flatten), None),
    ((nn.Dropout, nn.Dropout1d, nn.Dropout2d, StochasticDepth, nn.Identity), Skip),
)
"""Rules by module type; None means the gradient, which for these modules moves relevance without changing it.

All composites treat attention weights as constants unless they say otherwise.
"""


@dataclass(frozen=True)
class Composite:
    """Which rule each module gets.

    Attributes:
        rules: rules by type, first match wins.
        first: rule of the first module of `first_types`; None: no exception.
        first_types: what `first` looks for.
    """

    rules: RuleMap
    first: MakeRule | None = None
    first_types: tuple[type, ...] = WEIGHTED


COMPOSITES = Registry[Callable[..., Composite]]("composite")


def _with_convolutions(rule: MakeRule) -> Composite:
    return Composite(((CONVOLUTIONS, rule), *BASE))


@COMPOSITES.register("epsilon_plus")
def epsilon_plus() -> Composite:
    """ZPlus for convolutions, Epsilon for linear layers."""
    return _with_convolutions(ZPlus)


@COMPOSITES.register("epsilon_plus_flat")
def epsilon_plus_flat() -> Composite:
    """ZPlus for convolutions, Epsilon for linear layers, Flat for the first layer [Kohlbrenner2020]."""
    return replace(epsilon_plus(), first=Flat)


@COMPOSITES.register("epsilon_alpha2_beta1")
def epsilon_alpha2_beta1() -> Composite:
    """AlphaBeta (2, 1) for convolutions, Epsilon for linear layers [Bach2015]."""
    return _with_convolutions(AlphaBeta)


@COMPOSITES.register("epsilon_alpha2_beta1_flat")
def epsilon_alpha2_beta1_flat() -> Composite:
    """AlphaBeta (2, 1) for convolutions, Epsilon for linear layers, Flat for the first layer [Kohlbrenner2020]."""
    return replace(epsilon_alpha2_beta1(), first=Flat)


@COMPOSITES.register("epsilon_gamma_box")
def epsilon_gamma_box(gamma: float = 0.25) -> Composite:
    """Gamma for convolutions, Epsilon for linear layers, Box for the first convolution [Montavon2019].

    The box holds all images in [0,1], in the units that the model's own normalisation gives them.

    Args:
        gamma: how much more contributions of the output's sign count, at least 0.
    """
    if not gamma >= 0:
        raise InputError(f"The gamma parameter of epsilon_gamma_box must be at least 0. Got {gamma} instead.")
    return replace(_with_convolutions(partial(Gamma, gamma=gamma)), first=Box, first_types=CONVOLUTIONS)


@COMPOSITES.register("attn_lrp")
def attn_lrp(gamma_convolution: float = 0.25, gamma_linear: float = 0.05, attention: str = "softmax") -> Composite:
    """AttnLRP: Gamma for convolutions and linear layers, relevance through values, keys and queries [Achtibat2024].

    Args:
        gamma_convolution: Gamma's parameter for convolutions, at least 0.
        gamma_linear: for linear layers, at least 0; 0 is Epsilon.
        attention: softmax (AttnLRP), or detached: the weights held constant, relevance through the values alone.
    """
    if not min(gamma_convolution, gamma_linear) >= 0 or attention not in ATTENTION:
        raise InputError(
            f"The parameters of attn_lrp must be two gammas of at least 0 and one of {', '.join(ATTENTION)}. "
            f"Got {gamma_convolution}, {gamma_linear}, {attention!r} instead."
        )
    linear = partial(Gamma, gamma=gamma_linear) if gamma_linear else Epsilon
    own: RuleMap = (
        (CONVOLUTIONS, partial(Gamma, gamma=gamma_convolution)),
        ((nn.Linear,), linear),
        ((Attend,), ATTENTION[attention]),
    )
    return Composite((*own, *BASE))


ATTENTION: dict[str, MakeRule] = {"softmax": SoftmaxAttention, "detached": DetachedAttention}


def assign(model: nn.Module, composite: Composite, ledger: Ledger) -> list[tuple[nn.Module, Rule]]:
    """A rule for every module that needs one, in the order of `named_modules`.

    Raises:
        InputError: a module without a rule, or weights outside of one; names it.
    """
    assigned: list[tuple[nn.Module, Rule]] = []
    first = composite.first
    for name, module in model.named_modules():
        found, make = _rule_for(module, composite.rules)
        if not found and _is_container(module):
            continue
        if not found:
            raise InputError(
                f"The model parameter of Lrp must be made of modules with a rule. "
                f"Got {_described(module)} at '{name}' instead."
            )
        if first is not None and isinstance(module, composite.first_types):
            make, first = _boxed(model) if first is Box else first, None
        if make is not None:
            assigned.append((module, make(module, ledger)))
    return assigned


def _described(module: nn.Module) -> str:
    """Its type; torch.fx leaves a bare module where a network uses weights of its own, as Swin's positions."""
    weights = ", ".join(name for name, _ in module.named_parameters(recurse=False))
    return f"weights outside of any layer ({weights})" if type(module) is nn.Module else type(module).__name__


def _is_container(module: nn.Module) -> bool:
    """Whether a module only calls others: what else it might do is seen in the graph."""
    calls_others = isinstance(module, fx.GraphModule) or next(module.children(), None) is not None
    return calls_others and next(module.parameters(recurse=False), None) is None


def _rule_for(module: nn.Module, rules: RuleMap) -> tuple[bool, MakeRule | None]:
    if is_merged(module):
        return True, Skip
    if type(module).__name__ in INSERTIONS:
        return True, Homogeneous
    return next(((True, rule) for types, rule in rules if isinstance(module, types)), (False, None))


def _boxed(model: nn.Module) -> MakeRule:
    """Box with the smallest and largest input that the first layer can get from images in [0,1]."""
    normalize = next((module for module in model.modules() if isinstance(module, Normalize)), None)
    if normalize is None:
        return Box
    return partial(Box, low=(0 - normalize.mean) / normalize.std, high=(1 - normalize.mean) / normalize.std)
