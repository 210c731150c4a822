"""Whether relevance inside a lesion follows what varies there: its colour."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from xai_robustness.metrics.agreement import spearman
from xai_robustness.types import InputError

WINDOW = 5
"""Side of the window in which colour variation is measured, in pixels."""


def colour_variation(images: Float[Tensor, "n c h w"], window: int = WINDOW) -> Float[Tensor, "n h w"]:
    """Standard deviation of the colour around each pixel: the root of the summed variances of the channels.

    Args:
        images: in [0,1]; gray images have one channel.
        window: odd side of the square around a pixel; at the border, what of it lies in the image.

    Returns:
        float64, at least 0.
    """
    if window < 3 or window % 2 == 0:
        raise InputError(f"The window parameter of colour_variation must be odd and at least 3. Got {window} instead.")
    x = images.double()
    x = x - x.mean(dim=(2, 3), keepdim=True)
    reach = window // 2

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, window, stride=1, padding=reach, count_include_pad=False)

    return (mean(x * x) - mean(x).square()).clamp(min=0).sum(1).sqrt()


def colour_agreement(
    maps: Float[Tensor, "n h w"], images: Float[Tensor, "n c h w"], masks: Bool[Tensor, "n h w"], window: int = WINDOW
) -> Float[Tensor, " n"]:
    """Spearman's rank correlation in [-1,1] of |relevance| and colour variation over the pixels of each lesion.

    Args:
        maps: heatmaps of any sign and unit.
        images: in [0,1].
        masks: where the lesions are.
        window: as for `colour_variation`.

    Returns:
        float64; NaN for lesions of fewer than 3 pixels, and where relevance or colour does not vary or is not finite.
    """
    if maps.shape != masks.shape or images.shape[2:] != masks.shape[1:] or len(images) != len(masks):
        raise InputError(
            f"The masks parameter of colour_agreement must have the heatmaps' and the images' size. "
            f"Got {tuple(masks.shape)}, {tuple(maps.shape)} and {tuple(images.shape)} instead."
        )
    variation = colour_variation(images, window).to(maps.device)
    found = [_spearman(m[inside].double().abs(), v[inside]) for m, v, inside in zip(maps, variation, masks)]
    return torch.stack(found) if found else maps.new_zeros(0, dtype=torch.float64)


def _spearman(a: Float[Tensor, " p"], b: Float[Tensor, " p"]) -> Float[Tensor, ""]:
    return spearman(a[None, None], b[None, None])[0] if len(a) >= 3 else a.new_tensor(torch.nan)
