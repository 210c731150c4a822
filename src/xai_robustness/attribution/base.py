"""What every attribution method promises: a signed score for each input element, and a model left as it was."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.models.modes import borrow
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

ATTRIBUTORS = Registry[Callable[..., Any]]("attribution method")


class Attributor(ABC):
    """A method that explains one logit of each sample.

    Args:
        model: classifier from images (B,C,H,W) in [0,1] to logits (B,K); used in evaluation mode.
        batch_size: samples explained at once; changes memory, not results.
    """

    def __init__(self, model: nn.Sequential, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise InputError(f"The batch_size parameter of Attributor must be at least 1. Got {batch_size} instead.")
        self.model = model
        self.batch_size = batch_size

    def __call__(self, images: Float[Tensor, "n c h w"], targets: Int64[Tensor, " n"]) -> Float[Tensor, "n d h w"]:
        """Explain the logits `targets` of `images`.

        Args:
            images: (N,C,H,W) in [0,1], on the model's device.
            targets: (N,) class of each sample.

        Returns:
            Attribution (N,C,H,W), signed, on the images' device; (N,1,H,W) for methods that know no channels.

        Raises:
            InputError: targets that are not one class a sample.
        """
        self._check(images, targets)
        with borrow(self.model):
            parts = [
                self.attribute(
                    images[start : start + self.batch_size].detach(), targets[start : start + self.batch_size]
                )
                for start in range(0, len(images), self.batch_size)
            ]
        return torch.cat(parts).detach()

    @abstractmethod
    def attribute(self, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, " b"]) -> Float[Tensor, "b d h w"]:
        """Attribution of one batch; the model is in evaluation mode and its weights are out of the graph."""

    def _check(self, images: Tensor, targets: Tensor) -> None:
        if images.ndim != 4 or targets.shape != images.shape[:1] or targets.dtype != torch.int64 or len(images) == 0:
            raise InputError(
                f"The images and targets parameters of {type(self).__name__} must be (N,C,H,W) and int64 (N,) with "
                f"N > 0. Got {tuple(images.shape)} and {targets.dtype} {tuple(targets.shape)} instead."
            )


def target_gradient(
    model: nn.Module, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Gradient of each sample's target logit with respect to its image (samples must not influence each other)."""
    x = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        total = model(x).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(total, x)[0]
