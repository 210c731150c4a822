"""Class activation maps: a layer's activations, weighted by what they mean for the target, upsampled to the image."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor, check_inputs, check_targets
from xai_robustness.attribution.positions import channels_first, upsample
from xai_robustness.models.cam_layers import cam_layer, tokens_last
from xai_robustness.models.modes import borrow
from xai_robustness.models.taps import hooked
from xai_robustness.models.zoo import check_layer
from xai_robustness.types import InputError

Evidence = dict[str, tuple[Float[Tensor, "b k ..."], Float[Tensor, "b k ..."]]]


class LayerMap(Attributor):
    """Base of the maps that activations and their gradients give; any layer, and several in one pass.

    Args:
        model: classifier.
        layer: any module with positions, (B,K,H,W) or tokens; by default `cam_layers.cam_layer`.
        batch_size: images at once.
        signed: keep the evidence against the target; the papers' maps are cut at 0.
    """

    heatmaps = True

    def __init__(
        self, model: nn.Sequential, layer: str | None = None, batch_size: int = 64, signed: bool = False
    ) -> None:
        super().__init__(model, batch_size)
        self.layer = known_layer(model, layer if layer is not None else cam_layer(model))
        self.signed = signed

    def maps(
        self, images: Float[Tensor, "n c ..."], targets: Int64[Tensor, " n"], layers: Sequence[str]
    ) -> dict[str, Float[Tensor, "n 1 ..."]]:
        """Maps of several layers, from one forward and one backward pass.

        Args:
            images: (N,C,H,W) in [0,1].
            targets: (N,) explained classes.
            layers: modules with positions.

        Returns:
            Layer -> maps (N,1,H,W) of the images' size.

        Raises:
            InputError: unknown layers, layers without positions.
        """
        check_inputs(type(self).__name__, images, targets)
        for layer in layers:
            known_layer(self.model, layer)
        parts = []
        with torch.inference_mode(False), borrow(self.model):
            check_targets(type(self).__name__, self.model, images, targets)
            for start in range(0, len(images), self.batch_size):
                rows = slice(start, start + self.batch_size)
                parts.append(self._batch(images[rows].detach(), targets[rows], layers))
        return {layer: torch.cat([part[layer] for part in parts]) for layer in layers}

    def attribute(self, images: Float[Tensor, "b c ..."], targets: Int64[Tensor, " b"]) -> Float[Tensor, "b 1 ..."]:
        """Maps of one batch, one channel; methods that explain the target logit at the same layer share one pass."""
        shared = type(self).objective is LayerMap.objective and type(self).evidence is LayerMap.evidence
        key = ("evidence", self.layer, None if shared else id(self))
        if key not in self.notes:
            self.notes[key] = self.evidence(images, targets, [self.layer])
        return self._maps(self.notes[key], images.shape[1:])[self.layer]

    def _batch(self, images: Tensor, targets: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return self._maps(self.evidence(images, targets, layers), images.shape[1:])

    def _maps(self, evidence: Evidence, shape: torch.Size) -> dict[str, Tensor]:
        found = {}
        for layer, (activation, gradient) in evidence.items():
            small = self.combine(activation, gradient)
            found[layer] = upsample(small if self.signed else small.relu(), shape).detach()
        return found

    def evidence(self, images: Tensor, targets: Tensor, layers: Sequence[str]) -> Evidence:
        """Layer -> activations and the gradients of the objective, channels first; the graph starts at the layers."""
        with torch.enable_grad(), started_at(self.model, layers) as outputs:
            total = self.objective(self.model(images), targets).sum()
        gradients = torch.autograd.grad(total, [outputs[layer] for layer in layers], allow_unused=True)
        found: Evidence = {}
        for layer, gradient in zip(layers, gradients):
            activation = outputs[layer].detach()
            gradient = torch.zeros_like(activation) if gradient is None else gradient
            found[layer] = self.placed(activation, images, layer), self.placed(gradient, images, layer)
        return found

    def placed(self, values: Tensor, images: Tensor, layer: str) -> Float[Tensor, "b k ..."]:
        """A layer's output or gradient with its positions behind the channels; raises InputError where it has none."""
        return channels_first(values, images.shape[1:], type(self).__name__, layer, tokens_last(self.model, layer))

    def objective(self, logits: Float[Tensor, "b k"], targets: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What is explained: the target logit."""
        return logits.gather(1, targets[:, None])[:, 0]

    @abstractmethod
    def combine(
        self, activation: Float[Tensor, "b k ..."], gradient: Float[Tensor, "b k ..."]
    ) -> Float[Tensor, "b ..."]:
        """The map at the layer's resolution, before it is cut at 0."""


@ATTRIBUTORS.register("grad_cam")
class GradCam(LayerMap):
    """Grad-CAM: channels weighted by their mean gradient, relu(Σ_k mean(∂f_t/∂a_k) a_k) [Selvaraju2017]."""

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k mean(g_k) a_k."""
        return (_mean(gradient) * activation).sum(1)


@ATTRIBUTORS.register("grad_cam_plus_plus")
class GradCamPlusPlus(LayerMap):
    """Grad-CAM++: channels weighted by Σ_ij α relu(g), α = g² / (2g² + g³ Σ_ij a), 0 where g is 0 [Chattopadhay2018].

    α is computed as 1 / (2 + g Σ a), which needs no stabilizer: maps of rescaled models differ by a factor alone when
    g Σ a is unchanged. Meant for activations that are not negative; where the denominator is 0, α is 0.
    """

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k (Σ_ij α relu(g))_k a_k."""
        denominator = 2 + gradient * _sum(activation)
        alpha = torch.where(denominator != 0, 1 / torch.where(denominator != 0, denominator, 1.0), 0.0)
        return (_sum(alpha * gradient.relu()) * activation).sum(1)


@ATTRIBUTORS.register("xgrad_cam")
class XGradCam(LayerMap):
    """XGrad-CAM: channels weighted by Σ_ij (a_ij / Σ a) g_ij, 0 for channels that sum to 0 [Fu2020]."""

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k (Σ_ij a g / Σ_ij a)_k a_k."""
        total = _sum(activation)
        weights = torch.where(total != 0, _sum(activation * gradient) / torch.where(total != 0, total, 1.0), 0.0)
        return (weights * activation).sum(1)


@ATTRIBUTORS.register("layer_cam")
class LayerCam(LayerMap):
    """LayerCAM: each position weighted by its own positive gradient, relu(Σ_k relu(g_k) ⊙ a_k) [Jiang2021]."""

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k relu(g_k) ⊙ a_k."""
        return (gradient.relu() * activation).sum(1)


@ATTRIBUTORS.register("finer_cam")
class FinerCam(GradCam):
    """FinerCAM: Grad-CAM of what tells the target from the other classes, Σ_i p_i (f_t - α f_i) / Σ_i p_i [Zhang2025].

    i runs over all other classes and p is the softmax of the logits, through which the gradient flows as well.

    Args:
        model: classifier with at least two logits.
        layer: any module with positions; by default `cam_layers.cam_layer`.
        batch_size: images at once.
        signed: keep the evidence against the target.
        alpha: how much of the other classes is subtracted; 0 is Grad-CAM.
    """

    def __init__(
        self,
        model: nn.Sequential,
        layer: str | None = None,
        batch_size: int = 64,
        signed: bool = False,
        alpha: float = 1.0,
    ) -> None:
        super().__init__(model, layer, batch_size, signed)
        self.alpha = alpha

    def objective(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The target logit against the mean of the others, weighted by their probability among themselves."""
        others = torch.ones_like(logits, dtype=torch.bool).scatter(1, targets[:, None], False)
        weights = F.softmax(logits.masked_fill(~others, -torch.inf), 1)
        return super().objective(logits, targets) - self.alpha * (weights * logits).sum(1)


def _sum(values: Tensor) -> Tensor:
    return values.sum(tuple(range(2, values.ndim)), keepdim=True)


def _mean(values: Tensor) -> Tensor:
    return values.mean(tuple(range(2, values.ndim)), keepdim=True)


def known_layer(model: nn.Module, layer: str) -> str:
    """Return `layer` if it is any module of the model; raises InputError with choices otherwise."""
    names = [name for name, _ in model.named_modules() if name]
    if layer in names:
        return layer
    if isinstance(model, nn.Sequential):
        return check_layer(model, layer)
    raise InputError(f"Unknown layer '{layer}'. Choose from: {', '.join(names)}.")


@contextmanager
def started_at(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of `layers` in a graph that begins at the first of them; hooks are removed on exit.

    What lies before the first layer needs no graph and keeps no activations. Layers see a copy, so that in-place
    modules after them change nothing that was collected.

    Raises:
        InputError: a module that runs more than once in a pass, so that it has no single output.
    """
    outputs: dict[str, Tensor] = {}
    modules = dict(model.named_modules())

    def keep(layer: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            if layer in outputs:
                raise InputError(
                    f"The layer parameter must be a module that runs once. Got '{layer}' instead, which runs again."
                )
            outputs[layer] = output if output.requires_grad else output.detach().requires_grad_()
            return outputs[layer].clone()

        return hook

    with hooked({modules[layer]: keep(layer) for layer in layers}):
        yield outputs
