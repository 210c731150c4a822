"""Lossy storage."""

from io import BytesIO

import numpy as np
import torch
from PIL import Image

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
