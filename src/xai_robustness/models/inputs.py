"""What a classifier is fed with: images in memory, their channel statistics, flips."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai_robustness.datasets.base import ImageSet
from xai_robustness.randomness import torch_rng

IN_MEMORY = 2**30
"""Images of at most this many bytes are read once; larger sets are read from disk batch by batch."""

FLIP_RATE = 0.25
"""Rate of each of the two flips."""


def flip_draws(n: int, seed: int, epoch: int) -> Bool[Tensor, "n 2"]:
    """Which rows are mirrored left to right and top to bottom in an epoch, each with FLIP_RATE."""
    return torch.rand(n, 2, generator=torch_rng(seed, "augment", epoch)) < FLIP_RATE


def flip(images: Float[Tensor, "b c h w"], draws: Bool[Tensor, "b 2"]) -> Float[Tensor, "b c h w"]:
    """Mirror images left to right where draws[:,0], top to bottom where draws[:,1]."""
    for column, dim in ((0, 3), (1, 2)):
        where = draws[:, column]
        if where.any():
            images[where] = images[where].flip(dim)
    return images


def in_memory(images: ImageSet, limit: int = IN_MEMORY) -> ImageSet:
    """The same set with its images read into memory if they take at most `limit` bytes."""
    if math.prod(images.images.shape) > limit or isinstance(images.images, np.ndarray):
        return images
    return replace(images, images=np.asarray(images.images[:]))


def channel_statistics(images: ImageSet, batch: int = 512) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all pixels, in units of the images ([0,1]; mV for ECG).

    A constant channel gets the standard deviation 1. Rounded to 6 digits, so that they are the same on any machine.
    """
    total = np.zeros((2, images.image_shape[0]))
    for start in range(0, len(images), batch):
        pixels = np.asarray(images.images[start : start + batch], dtype=np.float64)
        pixels = pixels if images.is_signal else pixels / 255
        total += [pixels.sum(axis=(0, 1, 2)), (pixels**2).sum(axis=(0, 1, 2))]
    n = len(images) * math.prod(images.image_shape[1:])
    mean = total[0] / n
    std = np.sqrt(np.maximum(total[1] / n - mean**2, 0))
    return np.round(mean, 6).tolist(), np.where(std < 1e-6, 1.0, np.round(std, 6)).tolist()
