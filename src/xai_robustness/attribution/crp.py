"""Concept relevance propagation: heatmaps of single channels, and the samples that a channel answers to [Achtibat2023].

A concept is a channel of a layer, or a set of channels. Its conditional heatmap is the input relevance of that part of
the layer's relevance; its reference samples are those in which it has most relevance, or most activation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xai_robustness.attribution.heatmap import to_heatmap
from xai_robustness.attribution.lrp import Lrp, Targets
from xai_robustness.types import InputError


def conditional_heatmaps(
    lrp: Lrp,
    images: Float[Tensor, "b c h w"],
    targets: Targets,
    layer: str,
    concepts: Sequence[Sequence[int]],
    batch_size: int = 64,
) -> Float[Tensor, "b n h w"]:
    """Input heatmaps of parts of a layer's relevance: all channels but a concept's are set to 0 on the way down.

    The whole pass runs once; the part below the layer runs once a concept, many concepts and images in one batch.
    Heatmaps of concepts that share no channel and cover all sum to the ordinary heatmap.

    Args:
        lrp: an open LRP context.
        images: (B,C,H,W) in [0,1].
        targets: class of each image, or a function from logits to classes.
        layer: stage whose channels are meant.
        concepts: N sets of channels.
        batch_size: rows of the passes below the layer; changes memory, not results.

    Returns:
        Heatmaps (B,N,H,W), signed, in units of the target's logit.

    Raises:
        InputError: unknown layer or channel, or no concept.
    """
    relevance = lrp.run(images, targets, [layer]).relevances[layer]
    masks = _masks(concepts, relevance.shape[1]).to(relevance)
    masks = masks.reshape(*masks.shape, *[1] * (relevance.ndim - 2))
    rows = [(i, n) for i in range(len(images)) for n in range(len(masks))]
    parts = []
    for start in range(0, len(rows), batch_size):
        which, concept = torch.tensor(rows[start : start + batch_size], device=images.device).T
        wanted = relevance[which] * masks[concept]
        parts.append(to_heatmap(lrp.from_layer(images[which], layer, lambda _, given=wanted: given)))  # type: ignore[misc]
    return torch.cat(parts).unflatten(0, (len(images), len(masks)))


def _masks(concepts: Sequence[Sequence[int]], n_channels: int) -> Float[Tensor, "n k"]:
    if not concepts or any(not 0 <= channel < n_channels for concept in concepts for channel in concept):
        raise InputError(
            f"The concepts parameter of conditional_heatmaps must be sets of channels in 0..{n_channels - 1}. "
            f"Got {[list(concept) for concept in concepts][:4]} instead."
        )
    masks = torch.zeros(len(concepts), n_channels)
    for row, concept in zip(masks, concepts):
        row[list(concept)] = 1
    return masks


@dataclass(frozen=True)
class TopSamples:
    """For each of K channels the samples with the highest scores, best first.

    Attributes:
        samples: row numbers in the stream, int64 (K,n).
        scores: float (K,n).
        positions: flat position of the channel's maximum in that sample, int64 (K,n).
    """

    samples: Int64[Tensor, "k n"]
    scores: Float[Tensor, "k n"]
    positions: Int64[Tensor, "k n"]


@dataclass(frozen=True)
class References:
    """Reference samples of a layer's channels by relevance (RelMax) and by activation (ActMax)."""

    relevance: TopSamples
    activation: TopSamples


def reference_samples(
    lrp: Lrp,
    batches: Iterable[tuple[Float[Tensor, "b c h w"], Targets]],
    layers: Sequence[str],
    top: int = 40,
    how: Literal["sum", "max"] = "sum",
) -> dict[str, References]:
    """Find each channel's reference samples in one stream over the data; memory does not grow with it.

    A sample's relevance score of a channel is the relevance pooled over positions, divided by the sum of absolute
    scores of all channels; its activation score is the pooled activation. Ties keep the order of the stream.

    Args:
        lrp: an open LRP context.
        batches: images and what is explained of each, in the order that row numbers count.
        layers: stages whose channels are meant; all from one pass a batch.
        top: samples kept a channel; all if there are fewer.
        how: pool over positions by sum or max.

    Raises:
        InputError: unknown layer, no data, or fewer than one sample wanted.
    """
    if top < 1 or how not in ("sum", "max"):
        raise InputError(
            f"The top and how parameters of reference_samples must be at least 1, and sum or max. "
            f"Got {top} and {how!r} instead."
        )
    kept: dict[tuple[str, str], TopSamples] = {}
    seen = 0
    for images, targets in batches:
        found = lrp.run(images, targets, layers)
        rows = torch.arange(seen, seen + len(images), device=images.device)
        for layer in layers:
            for kind, values in (("relevance", found.relevances[layer]), ("activation", found.activations[layer])):
                scores, positions = _scores(values, how)
                if kind == "relevance":
                    scores = scores / (scores.abs().sum(1, keepdim=True) + torch.finfo(scores.dtype).tiny)
                kept[layer, kind] = _best(kept.get((layer, kind)), rows, scores, positions, top)
        seen += len(images)
    if not seen:
        raise InputError("The batches parameter of reference_samples must hold images. Got none.")
    return {layer: References(kept[layer, "relevance"], kept[layer, "activation"]) for layer in layers}


def _scores(values: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """Pooled values (B,K), and where the maximum is (B,K)."""
    flat = values.flatten(2) if values.ndim > 2 else values.unsqueeze(2)
    largest, positions = flat.max(2)
    return (flat.sum(2) if how == "sum" else largest), positions


def _best(before: TopSamples | None, rows: Tensor, scores: Tensor, positions: Tensor, top: int) -> TopSamples:
    samples, scores, positions = rows.expand(scores.shape[1], -1), scores.T, positions.T
    if before is not None:
        samples = torch.cat([before.samples, samples], 1)
        scores = torch.cat([before.scores, scores], 1)
        positions = torch.cat([before.positions, positions], 1)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top]
    return TopSamples(samples.gather(1, order), scores.gather(1, order), positions.gather(1, order))
