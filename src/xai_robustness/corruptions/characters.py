"""Burnt-in text."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from xai_robustness.corruptions.base import Corruption, Generators, Images, draw, register
from xai_robustness.corruptions.tables import REFERENCE_SIZE

LETTERS, LEAST_LETTERS, LEAST_SCALE, MARGIN, ADVANCE = "abcdefghijklmnopqrstuvwxyz", 3, 0.14, 10, 8
CAP_HEIGHT, DETAIL = 21.0, 64
"""Height of a capital letter at font scale 1 in pixels, and the font's size in which glyphs are rendered once."""


@register("characters")
class Characters(Corruption):
    """1 to c words of 3 to l random lowercase letters in random colours, of tiny type, at random places.

    Constants: words, letters, font scale (0.14 to it); a capital letter is 21 pixels high at font scale 1. Sizes are
    for 224 pixels and are scaled with the shorter side. A gray image gets the luma of the colours.
    """

    by_channel = True

    def apply(self, images: Images, constant: tuple[int, int, float], generators: Generators) -> Images:
        """Write word after word."""
        words, letters, largest = constant
        numbers = draw(generators, (1 + words * (7 + letters),), images, normal=False).double().cpu()
        written = images.cpu().clone()
        for image, row in zip(written, numbers.numpy()):
            each = row[1:].reshape(words, -1)
            for word in each[: 1 + int(row[0] * words)]:
                _write(image, word, letters, largest)
        return written.to(images.device)


def _write(image: Float[Tensor, "c h w"], numbers: np.ndarray, letters: int, largest: float) -> None:
    """One word from U(0,1) numbers: length, scale, row, column, colour (3), letters."""
    height, width = image.shape[1:]
    scale = min(height, width) / REFERENCE_SIZE
    length = LEAST_LETTERS + int(numbers[0] * (letters - LEAST_LETTERS + 1))
    steps = round(largest * 100) - round(LEAST_SCALE * 100) + 1
    size = (LEAST_SCALE + int(numbers[1] * steps) / 100) * scale
    text = "".join(LETTERS[int(number * len(LETTERS))] for number in numbers[7 : 7 + length])
    bottom = MARGIN * scale + numbers[2] * (height - 2 * MARGIN * scale)
    left = MARGIN * scale + numbers[3] * max(0.0, width - (ADVANCE * length + MARGIN) * scale)
    cover = _rendered(text, size)
    top, left = max(0, round(bottom - cover.shape[0])), round(left)
    colour = torch.from_numpy(numbers[4:7]).to(image)
    colour = colour if len(image) == 3 else colour.mean(dim=0, keepdim=True)
    part = image[:, top : top + cover.shape[0], left : left + cover.shape[1]]
    opacity = torch.from_numpy(cover).to(image)[: part.shape[1], : part.shape[2]]
    part.copy_(part * (1 - opacity) + colour[:, None, None] * opacity)


def _rendered(text: str, size: float) -> Float[np.ndarray, "h w"]:
    """Opacity in [0,1] of a word whose capitals would be 21 `size` pixels high, averaged over pixels."""
    high = np.concatenate([_glyph(letter) for letter in text], axis=1)
    shrink = CAP_HEIGHT * size / (0.72 * DETAIL)
    shape = (max(1, round(high.shape[1] * shrink)), max(1, round(high.shape[0] * shrink)))
    return np.asarray(Image.fromarray(high).resize(shape, Image.Resampling.BOX), np.float32) / 255


@lru_cache(maxsize=26)
def _glyph(letter: str) -> np.ndarray:
    font = ImageFont.load_default(size=DETAIL)
    canvas = Image.new("L", (int(font.getlength(letter)) + DETAIL // 16, DETAIL + DETAIL // 4))
    ImageDraw.Draw(canvas).text((DETAIL // 32, 0), letter, fill=255, font=font)
    return np.asarray(canvas)
