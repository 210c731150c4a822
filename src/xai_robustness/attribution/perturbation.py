"""Attributions from what the target logit loses when parts of the image are replaced.

One definition of the parts: square patches over all channels (intervals of signals). FeatureAblation puts them side by
side, from the first pixel on. Occlusion moves its window, one patch large, by half a patch. The last ones end at the
border, and a patch larger than the image is the image. The published window of twice a patch, moved by one, is
Occlusion at twice the patch size.
"""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import product

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor, check_option
from xai_robustness.attribution.baselines import Baseline
from xai_robustness.attribution.lean import lean
from xai_robustness.attribution.points import MANY, block_size


def windows(positions: tuple[int, ...], side: int, stride: int) -> Bool[Tensor, "m ..."]:
    """Masks of the windows of `side` pixels that start every `stride` pixels, bool (M,…); cut off at the border.

    Example:
        >>> windows((5,), side=2, stride=2).int().tolist()
        [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    """
    starts = []
    for length in positions:
        beyond = max(0, length - side)
        starts.append(range(0, -(-beyond // stride) * stride + 1, stride))
    masks = torch.zeros(*[len(each) for each in starts], *positions, dtype=torch.bool)
    masks = masks.flatten(0, len(positions) - 1)
    for mask, corner in zip(masks, product(*starts)):
        mask[tuple(slice(start, start + side) for start in corner)] = True
    return masks


def masked_logits(
    model: nn.Module,
    images: Float[Tensor, "b c *positions"],
    targets: Int64[Tensor, " b"],
    masks: Callable[[slice], Bool[Tensor, "m b *positions"]],
    n_masks: int,
    baseline: Float[Tensor, "r c *positions"],
    size: int,
) -> Float[Tensor, "m b"]:
    """Target logit of every image under every mask, where the baseline replaces what the mask covers.

    Args:
        model: classifier in evaluation mode.
        images: (B,C,…).
        targets: (B,) classes.
        masks: makes the masks of a slice of 0..n_masks, (m,B,…), or (m,1,…) for all images alike.
        n_masks: how many masks there are, M.
        baseline: (1,C,…) or (B,C,…).
        size: most masked copies that go through the model at once.
    """
    size = block_size(images, size)
    found, width = [], max(1, size // len(images))
    many = n_masks * len(images) >= MANY
    with torch.no_grad(), lean(model) if many else nullcontext():
        for start in range(0, n_masks, width):
            some = masks(slice(start, min(start + width, n_masks)))
            copies = torch.where(some[:, :, None], baseline, images)
            logits = torch.cat([model(part) for part in copies.flatten(0, 1).split(size)])
            found.append(logits.reshape(len(some), len(images), -1).gather(2, targets.expand(len(some), -1)[..., None]))
    return torch.cat(found)[..., 0]


class _Windows(Attributor):
    """Losses of the target logit under windows, spread over what they cover."""

    full_precision = True

    def __init__(
        self,
        model: nn.Module,
        patch_size: int = 8,
        baseline: str | Tensor = "zero",
        mean_image: Tensor | None = None,
        seed: int = 0,
        batch_size: int = 64,
        internal_batch_size: int = 256,
    ) -> None:
        super().__init__(model, batch_size)
        caller = type(self).__name__
        check_option(caller, "patch_size", patch_size, patch_size >= 1, "at least 1")
        check_option(caller, "internal_batch_size", internal_batch_size, internal_batch_size >= 1, "at least 1")
        self.patch_size = patch_size
        self.baseline = Baseline(caller, baseline, mean_image, seed)
        self.internal_batch_size = internal_batch_size

    @property
    def stride(self) -> int:
        """Pixels between two windows."""
        return self.patch_size

    def attribute(
        self, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b c *positions"]:
        """Mean loss of the windows that cover a pixel, the same for all channels."""
        masks = windows(tuple(images.shape[2:]), self.patch_size, self.stride).to(images.device)
        baseline = self.baseline.of(images)
        shared, size = masks[:, None], self.internal_batch_size
        kept = self.logits.gather(1, targets[:, None])  # (B,1)
        losses = kept - masked_logits(self.model, images, targets, shared.__getitem__, len(masks), baseline, size).T
        cover = masks.flatten(1).to(images.dtype)  # (M,positions)
        mean = (losses @ cover) / cover.sum(0)
        return mean.reshape(len(images), 1, *images.shape[2:]).expand_as(images).clone()


@ATTRIBUTORS.register("feature_ablation")
class FeatureAblation(_Windows):
    """What the target logit loses when a patch is replaced by the baseline, for each patch of a grid [Zeiler2014].

    Args:
        model: classifier.
        patch_size: side of the patches in pixels.
        baseline: a name of BASELINES, or an image (C,…) in the images' units.
        mean_image: (C,…), for the baseline "mean".
        seed: seed of random baselines.
        batch_size: images at once.
        internal_batch_size: forward passes at once, images times patches.
    """


@ATTRIBUTORS.register("occlusion")
class Occlusion(_Windows):
    """Mean loss of the target logit over the windows, moved by half their side, that cover a pixel [Zeiler2014].

    Args:
        model: classifier.
        patch_size: side of the window in pixels; it moves by half of that, rounded down, at least 1.
        baseline: a name of BASELINES, or an image (C,…) in the images' units.
        mean_image: (C,…), for the baseline "mean".
        seed: seed of random baselines.
        batch_size: images at once.
        internal_batch_size: forward passes at once, images times windows.
    """

    @property
    def stride(self) -> int:
        """Half a patch."""
        return max(1, self.patch_size // 2)
