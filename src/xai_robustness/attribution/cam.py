"""Class activation maps."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor
from xai_robustness.models.zoo import check_layer, inspected_layers, split
from xai_robustness.types import InputError


@ATTRIBUTORS.register("grad_cam")
class GradCam(Attributor):
    """Grad-CAM: relu(Σ_k mean(∂f_t/∂a_k) a_k) of a layer, upsampled bilinearly to the image [Selvaraju2017].

    The layer's activations are computed without a graph; gradients flow through the rest of the model alone.

    Args:
        model: sequence of stages.
        layer: stage with positions; by default the last inspected layer.
        batch_size: images at once.
    """

    heatmaps = True

    def __init__(self, model: nn.Sequential, layer: str | None = None, batch_size: int = 64) -> None:
        super().__init__(model, batch_size)
        self.layer = check_layer(model, layer if layer is not None else inspected_layers(model)[-1])

    def attribute(self, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, " b"]) -> Float[Tensor, "b 1 h w"]:
        """Maps of one batch, one channel, never negative."""
        prefix, suffix = split(self.model, self.layer)
        with torch.no_grad():
            activation = prefix(images)
        if activation.ndim != 4:
            raise InputError(
                f"The layer parameter of GradCam must be a layer with positions (B,K,H,W). "
                f"Got '{self.layer}' of shape {tuple(activation.shape)} instead."
            )
        activation.requires_grad_()
        with torch.enable_grad():
            total = suffix(activation).gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(total, activation)
        weighted = (gradient.mean((2, 3), keepdim=True) * activation.detach()).sum(1, keepdim=True).relu()
        return F.interpolate(weighted, size=images.shape[2:], mode="bilinear", align_corners=False)
