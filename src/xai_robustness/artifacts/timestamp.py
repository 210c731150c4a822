"""A time of day burnt into the picture by the recording device."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xai_robustness.artifacts.base import ARTIFACTS, Artifact, Insertion

_ROWS = {
    "0": "75557",
    "1": "26227",
    "2": "71747",
    "3": "71717",
    "4": "55711",
    "5": "74717",
    "6": "74757",
    "7": "71111",
    "8": "75757",
    "9": "75717",
}
"""Digits 3 pixels wide and 5 high; each row is an octal number whose bits are pixels."""


@ARTIFACTS.register("timestamp")
class Timestamp(Artifact):
    """`HH:MM:SS` (`HH:MM` under 64 pixels) in a corner, 9 % of the side high, 5 pixels at least."""

    def insert(self, image: np.ndarray, rng: np.random.Generator) -> Insertion:
        """Write a random time into the corner that `rng` chooses."""
        height, width = image.shape[:2]
        parts = [int(rng.integers(24)), int(rng.integers(60)), int(rng.integers(60))]
        text = ":".join(f"{part:02d}" for part in parts[: 2 if min(height, width) < 64 else 3])
        written = _write(text, self.length(image, 0.09, least=5))[:height, :width]
        low, right = rng.integers(2, size=2)
        offset = rng.integers(1, self.length(image, 0.04) + 2, size=2)
        top = _anchor(height, written.shape[0], int(offset[0]), bool(low))
        left = _anchor(width, written.shape[1], int(offset[1]), bool(right))
        cover, mask = np.zeros((height, width)), np.zeros((height, width), bool)
        region = (slice(top, top + written.shape[0]), slice(left, left + written.shape[1]))
        cover[region], mask[region] = written, True
        return Insertion(self.blend(image, self.ink(image, mask, rng), cover), mask)


def _anchor(whole: int, part: int, offset: int, far: bool) -> int:
    offset = min(offset, whole - part)
    return whole - part - offset if far else offset


def _write(text: str, height: int) -> np.ndarray:
    """Opacity (h,w) in [0,1] of `text`, cropped to its ink: drawn by pixel where a font could not be read."""
    if height < 9:
        return _write_pixels(text)
    font = ImageFont.load_default(size=height / 0.72)
    canvas = Image.new("L", (height * len(text) * 2, height * 3))
    ImageDraw.Draw(canvas).text((height, height), text, fill=255, font=font)
    return np.asarray(canvas.crop(canvas.getbbox()), np.float64) / 255


def _write_pixels(text: str) -> np.ndarray:
    colon = np.array([[0], [1], [0], [1], [0]])
    blank = np.zeros((5, 1), int)
    columns: list[np.ndarray] = []
    for character in text:
        bits = (
            colon
            if character == ":"
            else np.array([[int(row) >> b & 1 for b in (2, 1, 0)] for row in _ROWS[character]])
        )
        columns += [bits, blank]
    return np.concatenate(columns[:-1], axis=1).astype(np.float64)
