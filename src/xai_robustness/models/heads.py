"""Heads with a hidden layer and dropout in place of an architecture's last linear layer."""

from collections import OrderedDict
from typing import Literal

from torch import nn

from xai_robustness.types import InputError

Head = Literal["linear", "dropout", "double_dropout"]

HIDDEN = 512
"""Width of the hidden layer."""


def with_head(stages: "OrderedDict[str, nn.Module]", head: Head, dropout: float) -> "OrderedDict[str, nn.Module]":
    """Put a head in the place of the last linear layer of a network, its weights from torch's random state.

    `dropout`: Linear-ReLU-BN-Dropout(p)-Linear, `double_dropout`: Dropout(p/2)-Linear-BN-ReLU-Dropout(p)-Linear
    [Margeloiu2020]; hidden width 512, He-normal weights by the outputs' number, biases 0. The parts have the names
    hidden, relu, norm, drop, (drop_before,) output below the name of the layer that they replace.

    Args:
        stages: name -> stage; changed in place.
        head: `linear` leaves them as they are.
        dropout: p in [0,1).

    Raises:
        InputError: a network without a linear layer.
    """
    if head == "linear":
        return stages
    whole = nn.Sequential(stages)
    linear = [name for name, module in whole.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(f"The head parameter of ModelParams must be 'linear' for networks without one. Got '{head}'.")
    name = linear[-1]
    last = whole.get_submodule(name)
    assert isinstance(last, nn.Linear)
    whole.set_submodule(name, _made(head, last.in_features, last.out_features, dropout))
    return OrderedDict(whole.named_children())


def _made(head: Head, n_in: int, n_out: int, dropout: float) -> nn.Sequential:
    hidden, relu, norm = nn.Linear(n_in, HIDDEN), nn.ReLU(), nn.BatchNorm1d(HIDDEN)
    drop, output = nn.Dropout(dropout), nn.Linear(HIDDEN, n_out)
    for layer in (hidden, output):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    if head == "dropout":
        return nn.Sequential(OrderedDict(hidden=hidden, relu=relu, norm=norm, drop=drop, output=output))
    before = nn.Dropout(dropout / 2)
    return nn.Sequential(OrderedDict(drop_before=before, hidden=hidden, norm=norm, relu=relu, drop=drop, output=output))
