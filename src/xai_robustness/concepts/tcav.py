"""Testing with concept activation vectors: does a logit still change along a direction of a layer?"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.datasets.base import ImageSet
from xai_robustness.models.modes import borrow
from xai_robustness.models.zoo import layer_names, split
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError

ZERO = 1e-6
"""Derivatives of at most this share of the gradient's length count as zero: they are rounding."""

LINEAR = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten, nn.Linear, nn.Identity, nn.Dropout)
QUANTITIES = ("tcav_quotient", "mean_tcav_quotient", "tcav_sensitivity", "tcav_alignment")


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Directional derivatives of a logit at a layer for N samples and D directions, summed over positions.

    Attributes:
        positive: number of positions with a positive derivative, (N,D).
        nonzero: number of positions with a derivative that is not zero, (N,D).
        mean: mean derivative over the positions, in logits a unit of activation, signed, (N,D).
        size: mean absolute derivative over the positions, same unit, (N,D).
        length: length of the mean gradient over the positions, same unit, (N,).
    """

    positive: Float[np.ndarray, "n d"]
    nonzero: Float[np.ndarray, "n d"]
    mean: Float[np.ndarray, "n d"]
    size: Float[np.ndarray, "n d"]
    length: Float[np.ndarray, " n"]

    def quantities(self, weights: Float[np.ndarray, "n b"], direction: int = 0) -> dict[str, Float[np.ndarray, " b"]]:
        """All of QUANTITIES under b weightings of the samples; NaN where every derivative is zero.

        `tcav_quotient` is the share of positive derivatives among those that are not zero, over all positions and
        samples; `mean_tcav_quotient` the share of samples whose mean derivative is positive, among those where it is
        not zero [Kim2018]; `tcav_sensitivity` the mean absolute derivative; `tcav_alignment` the mean absolute cosine
        of mean gradient and direction, in [0,1], which does not depend on the scale of the logits.
        """
        mean = self.mean[:, direction]
        counts = np.abs(mean) > ZERO * self.length
        cosine = np.divide(np.abs(mean), self.length, out=np.zeros_like(mean), where=self.length > 0)
        total = weights.sum(0)
        return {
            "tcav_quotient": _ratio(self.positive[:, direction] @ weights, self.nonzero[:, direction] @ weights),
            "mean_tcav_quotient": _ratio(((mean > 0) & counts) @ weights, counts @ weights),
            "tcav_sensitivity": _ratio(self.size[:, direction] @ weights, total),
            "tcav_alignment": _ratio(cosine @ weights, total),
        }


@dataclass(frozen=True)
class Chance:
    """How a quotient compares with those of random directions on the same samples.

    Attributes:
        distance: |quotient - 0.5|, in [0,0.5].
        random_distance: mean of the random directions' distances.
        random_high: their 95 % quantile; a distance below it is what chance gives.
        p_value: share of directions, this one included, that are at least as far from 0.5.
    """

    distance: float
    random_distance: float
    random_high: float
    p_value: float


def derivatives(
    model: nn.Sequential,
    layer: str,
    vectors: Float[np.ndarray, "d k"],
    images: ImageSet,
    classes: Int64[np.ndarray, " n"],
    batch_size: int = 128,
    device: str = "cpu",
) -> Derivatives:
    """Derivatives of one logit a sample along directions of a layer, in the model as it is used, insertions included.

    Only what follows the layer is in the graph. A sample's gradient is exact since samples do not influence each other
    in evaluation mode.

    Args:
        model: classifier; given back as it was.
        layer: stage whose output is moved; an insertion after it counts as part of what follows.
        vectors: unit directions.
        images: N images.
        classes: logit of each sample.
        batch_size: images at once.
        device: where to compute.

    Raises:
        InputError: unknown layer, or directions of another length than the layer's channels.
    """
    prefix, suffix = split(model.to(device), layer)
    directions = torch.as_tensor(np.asarray(vectors, np.float32), device=device)
    parts = []
    with borrow(model):
        for batch in images.batches(batch_size):
            with torch.no_grad():
                activation = prefix(batch.images.to(device))
            _check_length(layer, activation, directions)
            target = torch.from_numpy(np.asarray(classes)[batch.rows]).to(device)
            parts.append(_summed(_gradient(suffix, activation, target), directions))
    joined = [np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Derivatives)]
    return Derivatives(*joined)


def _gradient(suffix: nn.Module, activation: Tensor, target: Tensor) -> Tensor:
    moved = activation.detach().requires_grad_()
    with torch.enable_grad():
        total = suffix(moved).gather(1, target[:, None]).sum()
    return torch.autograd.grad(total, moved)[0]


def _summed(gradient: Float[Tensor, "b k *p"], directions: Float[Tensor, "d k"]) -> Derivatives:
    flat = gradient.flatten(2) if gradient.ndim > 2 else gradient[..., None]
    along = torch.einsum("bkp,dk->bdp", flat, directions)
    nonzero = along.abs() > ZERO * torch.linalg.vector_norm(flat, dim=1)[:, None]
    positive = ((along > 0) & nonzero).sum(2)
    length = torch.linalg.vector_norm(flat.mean(2), dim=1)
    values = (positive, nonzero.sum(2), along.mean(2), along.abs().mean(2), length)
    return Derivatives(*(value.double().cpu().numpy() for value in values))


def random_directions(n: int, k: int, seed: int) -> Float[np.ndarray, "n k"]:
    """`n` unit vectors of length K, uniform on the sphere, from the stream `tcav/random`."""
    drawn = numpy_rng(seed, "tcav", "random").normal(size=(n, k))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def against_chance(found: Derivatives, quantity: str = "tcav_quotient") -> Chance:
    """Compare the first direction's quotient with those of all others, which are random.

    A quotient that is NaN, every derivative being zero, has distance 0.
    """
    one = np.ones((len(found.length), 1))
    values = [found.quantities(one, d)[quantity][0] for d in range(found.mean.shape[1])]
    distances = np.nan_to_num(np.abs(np.array(values) - 0.5))
    own, others = float(distances[0]), distances[1:]
    if len(others) == 0:
        return Chance(own, float("nan"), float("nan"), float("nan"))
    beaten = (1 + int((others >= own - 1e-12).sum())) / (1 + len(others))
    return Chance(own, float(others.mean()), float(np.quantile(others, 0.95)), beaten)


def is_linear_after(model: nn.Sequential, layer: str) -> bool:
    """Whether all that follows a layer is linear: all samples then have one derivative, and quotients are 0 or 1."""
    _, suffix = split(model, layer)
    leaves = [module for module in suffix.modules() if next(module.children(), None) is None]
    return all(isinstance(module, (*LINEAR, nn.Sequential)) for module in leaves)


def judging_layer(model: nn.Sequential, preferred: Sequence[str], after: str | None = None) -> str:
    """The layer at which a model is tested: the deepest with something non-linear behind it.

    Args:
        model: classifier, insertions included.
        preferred: layers to take it from, in order of execution, as the inspected ones.
        after: a stage that the layer must follow, as a projection, along whose direction the derivative is zero by
            construction. If no preferred layer follows it, any stage that does is taken, and if everything behind it
            is linear, the first stage after it.
    """
    order = layer_names(model)
    later = order[order.index(after) + 1 :] if after else order
    bent = [layer for layer in later if not is_linear_after(model, layer)]
    chosen = [layer for layer in preferred if layer in bent] or bent
    if chosen:
        return chosen[-1]
    if len(later) < 2:
        raise InputError(f"The after parameter of judging_layer must have a stage behind it. Got '{after}' instead.")
    return later[0]


def _check_length(layer: str, activation: Tensor, directions: Tensor) -> None:
    if directions.ndim != 2 or directions.shape[1] != activation.shape[1]:
        raise InputError(
            f"The vectors parameter of derivatives must be directions of {activation.shape[1]} channels for layer "
            f"'{layer}'. Got shape {tuple(directions.shape)} instead; fit the vectors at this layer."
        )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    undefined = np.full(denominator.shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)
