"""Class activation maps that need no gradient: CAM from the classifier's weights, Score-CAM from masked images."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS
from xai_robustness.attribution.cam import Evidence, LayerMap, started_at
from xai_robustness.attribution.positions import MODES
from xai_robustness.types import InputError

TOLERANCE = 1e-3
"""Largest difference between a logit and what CAM says it is, relative to the size of both."""


@ATTRIBUTORS.register("cam")
class Cam(LayerMap):
    """CAM: Σ_k w_tk a_k, w the weights of the linear layer after global average pooling [Zhou2016].

    Its mean over positions plus the bias is the logit, which is checked: other heads are refused.
    """

    full_precision = True

    def evidence(self, images: Tensor, targets: Tensor, layers: Sequence[str]) -> Evidence:
        """Activations, and the classifier's weights at every position in place of the gradient."""
        head = [module for module in self.model.modules() if isinstance(module, nn.Linear)][-1:]
        with torch.no_grad(), started_at(self.model, layers) as outputs:
            logits = self.objective(self.model(images), targets)
        found: Evidence = {}
        for layer in layers:
            activation = self.placed(outputs[layer].detach(), images, layer)
            if not head or head[0].in_features != activation.shape[1]:
                raise self._refusal(layer)
            weights = head[0].weight.detach()[targets].reshape(*activation.shape[:2], *[1] * (activation.ndim - 2))
            bias = 0.0 if head[0].bias is None else head[0].bias.detach()[targets]
            told = (weights * activation).sum(1).flatten(1).mean(1)
            size = logits.abs().max() + told.abs().max()
            if bool(((told + bias - logits).abs() > TOLERANCE * size).any()):
                raise self._refusal(layer)
            found[layer] = (activation, weights.expand_as(activation))
        return found

    def _refusal(self, layer: str) -> InputError:
        return InputError(
            f"The layer parameter of Cam must be the layer before global average pooling and one linear layer. "
            f"Got '{layer}' instead; use grad_cam."
        )

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k w_tk a_k."""
        return (gradient * activation).sum(1)


@ATTRIBUTORS.register("score_cam")
class ScoreCam(LayerMap):
    """Score-CAM: channels weighted by the softmax, over channels, of the target logit of masked images [Wang2020].

    A mask is the channel upsampled and scaled to [0,1]; masked parts are black. A constant channel masks everything.
    The softmax makes the black image's logit, which the paper subtracts, fall out. One forward pass a channel.

    Args:
        model: classifier.
        layer: any module with positions; by default the last inspected layer.
        batch_size: images at once.
        signed: keep negative activations in the map.
        internal_batch_size: masked images at once.
    """

    def __init__(
        self,
        model: nn.Sequential,
        layer: str | None = None,
        batch_size: int = 64,
        signed: bool = False,
        internal_batch_size: int = 256,
    ) -> None:
        super().__init__(model, layer, batch_size, signed)
        if internal_batch_size < 1:
            raise InputError(
                f"The internal_batch_size parameter of ScoreCam must be at least 1. Got {internal_batch_size} instead."
            )
        self.internal_batch_size = internal_batch_size

    def evidence(self, images: Tensor, targets: Tensor, layers: Sequence[str]) -> Evidence:
        """Activations, and each channel's weight at every position in place of the gradient."""
        with torch.no_grad(), started_at(self.model, layers) as outputs:
            self.model(images)
        found: Evidence = {}
        for layer in layers:
            activation = self.placed(outputs[layer].detach(), images, layer)
            with torch.no_grad():
                weights = F.softmax(self._scores(images, targets, activation), 1)
            weights = weights.reshape(*weights.shape, *[1] * (activation.ndim - 2))
            found[layer] = (activation, weights.expand_as(activation))
        return found

    def _scores(self, images: Tensor, targets: Tensor, activation: Tensor) -> Float[Tensor, "b k"]:
        """Target logits of the images under each channel's mask, (B,K)."""
        n, channels = activation.shape[:2]
        pairs = torch.arange(n * channels, device=images.device)
        parts = []
        for rows in pairs.split(self.internal_batch_size):
            sample, channel = rows // channels, rows % channels
            masks = _unit(
                F.interpolate(
                    activation[sample, channel][:, None],
                    size=images.shape[2:],
                    mode=MODES[images.ndim - 2],
                    align_corners=False,
                )
            )
            parts.append(self.objective(self.model(images[sample] * masks), targets[sample]))
        return torch.cat(parts).reshape(n, channels)

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k w_k a_k."""
        return (gradient * activation).sum(1)


def _unit(masks: Tensor) -> Tensor:
    """Scale each mask to [0,1]; constant ones become 0."""
    flat = masks.flatten(1)
    low, high = (value.reshape(-1, *[1] * (masks.ndim - 1)) for value in (flat.min(1).values, flat.max(1).values))
    span = torch.where(high > low, high - low, 1.0)
    return (masks - low) / span
