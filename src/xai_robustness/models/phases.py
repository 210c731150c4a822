"""Which weights an epoch trains: the head first, and never what is frozen."""

from torch import nn

from xai_robustness.models.zoo import split
from xai_robustness.types import InputError


class Phases:
    """Freezes parts of a model: weights out of training, batch norms and dropout in evaluation mode.

    A batch norm whose running statistics went on following the batches would change features that are meant to stay,
    so frozen parts stay in evaluation mode.

    Args:
        model: sequence of stages, in training.
        frozen_to: layer up to which, itself included, nothing is ever trained; None: everything is.
        head_epochs: first epochs in which the head alone is trained.
    """

    def __init__(self, model: nn.Sequential, frozen_to: str | None, head_epochs: int) -> None:
        self.model, self.head_epochs = model, head_epochs
        self.frozen = split(model, frozen_to)[0] if frozen_to else nn.Sequential()
        self.body = _before_head(model) if head_epochs else nn.Sequential()
        model.requires_grad_(True)
        self.frozen.requires_grad_(False)
        if not any(weight.requires_grad for weight in model.parameters()):
            raise InputError(
                f"The frozen_to parameter of training must be a layer with weights after it. Got '{frozen_to}' instead."
            )

    def enter(self, epoch: int) -> None:
        """Set modes and gradients for an epoch, counted from 1."""
        self.model.train().requires_grad_(True)
        if epoch <= self.head_epochs:
            self.body.eval().requires_grad_(False)
        self.frozen.eval().requires_grad_(False)


def _before_head(model: nn.Sequential) -> nn.Sequential:
    """All stages before the last one that has weights; the modules are shared."""
    stages = list(model.children())
    head = max(i for i, stage in enumerate(stages) if any(True for _ in stage.parameters()))
    return nn.Sequential(*stages[:head])
