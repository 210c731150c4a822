"""Lossy storage and low resolution."""

from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from xai_robustness.corruptions.base import Corruption, Generators, Images, register


@register("jpeg_compression")
class JpegCompression(Corruption):
    """JPEG encoding and decoding at quality c (1..95) of the image rounded to 8 bits; runs on the CPU."""

    def apply(self, images: Images, constant: int, generators: Generators) -> Images:
        """Encode and decode image by image."""
        pixels = (images * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
        decoded = np.empty_like(pixels)
        for row, image in enumerate(pixels):
            decoded[row] = _recoded(image, constant)
        return torch.from_numpy(decoded).permute(0, 3, 1, 2).contiguous().to(images) / 255


def _recoded(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


@register("pixelate")
class Pixelate(Corruption):
    """Box resampling to the share c of height and width, and back."""

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Apply both resamplings as one matrix from each side."""
        rows, columns = (_pixelated(size, constant).to(images) for size in images.shape[-2:])
        return rows @ images @ columns.T


@lru_cache(maxsize=32)
def _pixelated(size: int, share: float) -> Float[Tensor, "s s"]:
    small = max(1, int(size * share))
    return _box(size, small) @ _box(small, size)


def _box(target: int, source: int) -> Float[Tensor, "t s"]:
    """Pillow's box filter: mean of the source pixels whose centres a target pixel covers.

    Where there are more target pixels than source pixels, it is the nearest source pixel.
    """
    scale = source / target
    width = max(scale, 1.0)
    centres = (torch.arange(target, dtype=torch.float64)[:, None] + 0.5) * scale
    offsets = (torch.arange(source, dtype=torch.float64) + 0.5 - centres) / width
    weights = ((offsets > -0.5) & (offsets <= 0.5)).double()
    return weights / weights.sum(dim=1, keepdim=True)
