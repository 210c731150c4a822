"""What a gradient explains (criteria) and how a latent gradient is compared to a concept direction (aggregations)."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from xai_robustness.registry import Registry

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]
CRITERIA: Registry[Criterion] = Registry("criterion")
Aggregation = Callable[[Tensor, Tensor], Tensor]
AGGREGATIONS: Registry[Aggregation] = Registry("aggregation")
Form = Callable[[Tensor, Tensor], Tensor]
FORMS: Registry[Form] = Registry("form")


@CRITERIA.register("max_logit")
def max_logit(logits: Float[Tensor, "b k"], labels: Tensor, signs: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """The largest logit."""
    return logits.amax(1)


@CRITERIA.register("target_logit")
def target_logit(logits: Float[Tensor, "b k"], labels: Tensor, signs: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """The logit of the label; the sum over positive labels for multi-label tasks."""
    if labels.ndim == 2:
        return (logits * labels).sum(1)
    return logits.gather(1, labels[:, None])[:, 0]


@CRITERIA.register("all_logits")
def all_logits(logits: Float[Tensor, "b k"], labels: Tensor, signs: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """The sum of all logits."""
    return logits.sum(1)


@CRITERIA.register("all_logits_random")
def all_logits_random(logits: Float[Tensor, "b k"], labels: Tensor, signs: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """The sum of all logits with random signs, RR-ClArC's own choice [Dreyer2023]."""
    return (logits * signs).sum(1)


@CRITERIA.register("logprobs")
def logprobs(logits: Float[Tensor, "b k"], labels: Tensor, signs: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """The mean log-probability of the classes (of the labels being positive, for multi-label tasks) [Ross2017]."""
    log = functional.logsigmoid(logits) if labels.ndim == 2 else functional.log_softmax(logits, 1)
    return log.mean(1)


@CRITERIA.register("loss")
def loss(logits: Float[Tensor, "b k"], labels: Tensor, signs: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """The classification loss, unweighted."""
    return sample_losses(logits, labels)


def sample_losses(logits: Float[Tensor, "b k"], labels: Tensor) -> Float[Tensor, " b"]:
    """Classification loss of each sample, unweighted; the mean over labels for multi-label tasks."""
    if labels.ndim == 2:
        each = functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
        return each.mean(1)
    return functional.cross_entropy(logits, labels, reduction="none")


@CRITERIA.register("softmax")
def softmax(logits: Float[Tensor, "b k"], labels: Tensor, signs: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """The probability of the label (the mean of the positive labels' for multi-label tasks).

    The sum over all classes, as one reads in code, is 1 whatever the model does: its gradient is rounding.
    """
    if labels.ndim == 2:
        return (logits.sigmoid() * labels).sum(1) / labels.sum(1).clamp_min(1)
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def random_signs(logits_shape: torch.Size, generator: torch.Generator) -> Float[Tensor, "b k"]:
    """-1 or 1 with equal probability, on the generator's device."""
    return torch.randint(0, 2, logits_shape, generator=generator, device=generator.device).float() * 2 - 1


def along(gradients: Float[Tensor, "b k *positions"], vector: Float[Tensor, " k"]) -> Float[Tensor, " b *positions"]:
    """The component of a gradient along a direction, at each position."""
    return torch.tensordot(gradients, vector, dims=([1], [0]))


def spatial_mean(gradients: Float[Tensor, "b k *positions"]) -> Float[Tensor, "b k"]:
    """The mean over all positions; (B,K) stays as it is."""
    return gradients.flatten(2).mean(-1) if gradients.ndim > 2 else gradients


def _cosine(gradients: Tensor, vector: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(gradients, dim=1) * torch.linalg.vector_norm(vector)
    return along(gradients, vector).abs() / (length + torch.finfo(gradients.dtype).tiny)


@AGGREGATIONS.register("l2_mean")
def l2_mean(gradients: Float[Tensor, "b k *positions"], vector: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Squared component of the spatial mean, mean over samples [Dreyer2023]."""
    return along(spatial_mean(gradients), vector).square().mean()


@AGGREGATIONS.register("l1_mean")
def l1_mean(gradients: Float[Tensor, "b k *positions"], vector: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Absolute component of the spatial mean, mean over samples."""
    return along(spatial_mean(gradients), vector).abs().mean()


@AGGREGATIONS.register("cosine_mean")
def cosine_mean(gradients: Float[Tensor, "b k *positions"], vector: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Absolute cosine of the spatial mean, in [0,1], mean over samples."""
    return _cosine(spatial_mean(gradients), vector).mean()


@AGGREGATIONS.register("l2")
def l2(gradients: Float[Tensor, "b k *positions"], vector: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Squared component at each position, mean over positions and samples."""
    return along(gradients, vector).square().mean()


@AGGREGATIONS.register("l1")
def l1(gradients: Float[Tensor, "b k *positions"], vector: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Absolute component at each position, mean over positions and samples."""
    return along(gradients, vector).abs().mean()


@AGGREGATIONS.register("cosine")
def cosine(gradients: Float[Tensor, "b k *positions"], vector: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Absolute cosine at each position, in [0,1], mean over positions and samples."""
    return _cosine(gradients, vector).mean()


@FORMS.register("cosine")
def overlap(gradients: Float[Tensor, "b c h w"], masks: Bool[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Cosine in [0,1] of |sum over channels of the gradient| and the mask; 0 where either is zero everywhere."""
    heat = gradients.sum(1).abs().flatten(1)
    region = masks.flatten(1).to(heat)
    lengths = torch.linalg.vector_norm(heat, dim=1) * torch.linalg.vector_norm(region, dim=1)
    return (heat * region).sum(1) / (lengths + torch.finfo(heat.dtype).tiny)


@FORMS.register("squared")
def squared(gradients: Float[Tensor, "b c h w"], masks: Bool[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Sum of the squared gradient inside the mask, over channels and pixels [Ross2017]."""
    return (gradients.square().sum(1) * masks).flatten(1).sum(1)
