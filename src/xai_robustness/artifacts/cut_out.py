"""Real artifacts, cut out of the images that carry them and laid onto others: attacked versions of real data.

Nobody has drawn masks of most real artifacts. Two simple detectors stand in for them: colours that only images with
the artifact have (plasters, pen marks), and the straightest thin dark line (rulers). They serve the attacked versions
and their scores alone; no model, vector or correction is fitted on them unless the labelled control asks for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage, signal

from xai_robustness.registry import Registry

CUT_OUTS: Registry[type["CutOut"]] = Registry("cut-out")


class CutOut(ABC):
    """Finds an artifact in images that are labelled with it, and lays it onto others."""

    @abstractmethod
    def fit(self, carriers: Iterable[UInt8[np.ndarray, "h w c"]], others: Iterable[UInt8[np.ndarray, "h w c"]]) -> None:
        """Learn what there is to learn from training images with the artifact and without."""

    @abstractmethod
    def cover(self, image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w"]:
        """Opacity of the artifact in an image that carries it, in [0,1]; all zero where it is not found."""

    @abstractmethod
    def paste(
        self, image: UInt8[np.ndarray, "h w c"], donor: UInt8[np.ndarray, "h w c"], cover: Float[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w c"]:
        """Lay the artifact of `donor` onto `image`; nothing changes where `cover` is 0."""


@CUT_OUTS.register("colour")
class ColourCutOut(CutOut):
    """Pixels whose colour is far likelier in images with the artifact than in others [Jones2002].

    The ratio of two histograms of 16 x 16 x 16 colours, smoothed over the image and cut at LEAST; the piece is laid
    onto the other image with soft edges: x (1 - cover) + donor cover.
    """

    BINS = 16
    LEAST = 2.0
    """Natural logarithm of the likelihood ratio."""
    SMALLEST = 0.004
    """Pieces below this share of the image are dropped."""

    def fit(self, carriers: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> None:
        """Count the colours of both kinds of images."""
        self.ratio = np.log(self._density(carriers) / self._density(others))

    def _density(self, images: Iterable[np.ndarray]) -> np.ndarray:
        counts = np.zeros(self.BINS**3)
        for image in images:
            counts += np.bincount(self._bins(image).ravel(), minlength=self.BINS**3)
        shape = (self.BINS,) * 3
        smooth = ndimage.gaussian_filter(counts.reshape(shape) + 5, 0.7, mode="nearest").ravel()
        return smooth / smooth.sum()

    def _bins(self, image: np.ndarray) -> np.ndarray:
        colours = (np.broadcast_to(image, (*image.shape[:2], 3)) // (256 // self.BINS)).astype(np.int64)
        return (colours[..., 0] * self.BINS + colours[..., 1]) * self.BINS + colours[..., 2]

    def cover(self, image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w"]:
        """Soft mask of the typical colours."""
        side = min(image.shape[:2])
        found = ndimage.gaussian_filter(self.ratio[self._bins(image)], side / 56) > self.LEAST
        found = ndimage.binary_fill_holes(ndimage.binary_dilation(found, iterations=max(1, side // 112)))
        pieces, n = ndimage.label(found)
        if n:
            sizes = ndimage.sum_labels(found, pieces, np.arange(1, n + 1))
            found = np.isin(pieces, 1 + np.flatnonzero(sizes >= self.SMALLEST * found.size))
        soft = ndimage.gaussian_filter(found.astype(np.float64), side / 112)
        return np.where(soft < 0.05, 0.0, soft)

    def paste(
        self, image: UInt8[np.ndarray, "h w c"], donor: UInt8[np.ndarray, "h w c"], cover: Float[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w c"]:
        """Mix the donor's pixels in."""
        mixed = image + cover[..., None] * (donor.astype(np.float64) - image)
        return np.round(np.clip(mixed, 0, 255)).astype(np.uint8)


@CUT_OUTS.register("line")
class LineCutOut(CutOut):
    """The strip along the strongest straight, thin, dark line of about a third of the image's side.

    Darkness is what a morphological closing fills up; its mean along a rotating segment is largest on a ruler. The
    darkness alone is carried over, so that the skin below stays that of the other image.
    """

    ANGLES = 24
    SHARE = 0.3
    """Length of the segment, in units of the image's shorter side."""
    MOST = 25.0
    """Gray values above this count as this: a dark spot is no line."""

    def fit(self, carriers: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> None:
        """A line is a line: nothing to learn."""

    def cover(self, image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w"]:
        """1 on the strip, 0 elsewhere."""
        height, width = image.shape[:2]
        side = min(height, width)
        dark = np.minimum(self._darkness(image).mean(-1), self.MOST)
        frame = max(1, side // 40)
        inside = np.zeros((height, width), bool)
        inside[frame:-frame, frame:-frame] = True
        lit = ndimage.minimum_filter(image.mean(-1), 2 * frame + 1) > 40
        dark = np.where(inside & lit, dark, 0)
        length = int(self.SHARE * side) | 1
        best, where, turn = 0.0, (0, 0), 0
        for k in range(self.ANGLES):
            response = signal.fftconvolve(dark, _segment(length, np.pi * k / self.ANGLES), mode="same")
            place = np.unravel_index(response.argmax(), response.shape)
            if response[place] > best:
                best, where, turn = float(response[place]), (int(place[0]), int(place[1])), k
        if best < 2:
            return np.zeros((height, width))
        angle = np.pi * turn / self.ANGLES
        y, x = np.ogrid[:height, :width]
        dy, dx = y - where[0], x - where[1]
        across, along = np.abs(dx * np.sin(angle) - dy * np.cos(angle)), np.abs(dx * np.cos(angle) + dy * np.sin(angle))
        return ((across <= 0.035 * side) & (along <= 0.75 * length)).astype(np.float64)

    @staticmethod
    def _darkness(image: np.ndarray) -> np.ndarray:
        """(H,W,C): how much darker a pixel is than its surroundings, at the scale of thin lines."""
        extent = max(3, min(image.shape[:2]) // 16) | 1
        return ndimage.grey_closing(image, (extent, extent, 1)).astype(np.float64) - image

    def paste(
        self, image: UInt8[np.ndarray, "h w c"], donor: UInt8[np.ndarray, "h w c"], cover: Float[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w c"]:
        """Darken the image as the line darkens its own."""
        mixed = image - cover[..., None] * self._darkness(donor)
        return np.round(np.clip(mixed, 0, 255)).astype(np.uint8)


def _segment(length: int, angle: float) -> np.ndarray:
    """Mean along a straight segment, as a kernel."""
    kernel = np.zeros((length, length))
    steps = np.linspace(-(length // 2), length // 2, 2 * length)
    rows = np.round(length // 2 + steps * np.sin(angle)).astype(int)
    columns = np.round(length // 2 + steps * np.cos(angle)).astype(int)
    kernel[rows, columns] = 1
    return kernel / kernel.sum()


class Donors:
    """Images that carry a real artifact, with its cover, ready to be laid onto others.

    Args:
        cut_out: a fitted detector.
        images: uint8 (D,H,W,C) of samples labelled with the artifact; those in which it is not found are dropped.
    """

    def __init__(self, cut_out: CutOut, images: UInt8[np.ndarray, "d h w c"]) -> None:
        covers = np.stack([cut_out.cover(image) for image in images]) if len(images) else np.zeros((0, 1, 1))
        found = covers.any(axis=(1, 2))
        self.cut_out, self.images, self.covers = cut_out, images[found], covers[found]
        self.n_dropped = int((~found).sum())

    def __len__(self) -> int:
        return len(self.images)

    def paste(
        self, image: UInt8[np.ndarray, "h w c"], rng: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "h w c"], Bool[np.ndarray, "h w"]]:
        """Lay the artifact of a donor that `rng` chooses onto an image; returns it and the region it may have changed.

        The piece is mirrored at random, which keeps it at the borders where such artifacts lie.
        """
        chosen = int(rng.integers(len(self)))
        donor, cover = self.images[chosen], self.covers[chosen]
        for axis, flip in enumerate(rng.integers(2, size=2)):
            if flip:
                donor, cover = np.flip(donor, axis), np.flip(cover, axis)
        return self.cut_out.paste(image, donor, cover), cover > 0
