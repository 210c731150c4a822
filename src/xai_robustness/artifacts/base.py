"""An artifact: something that images carry beside their content, inserted into an image with a mask of where."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple, final

import numpy as np
from jaxtyping import Bool, UInt8

from xai_robustness.registry import Registry
from xai_robustness.types import InputError

Border = Literal["any", "top", "right", "bottom", "left"]


class Insertion(NamedTuple):
    """An image with an artifact and the region that the artifact may have changed.

    Attributes:
        image: uint8 (H,W,C).
        mask: bool (H,W).
    """

    image: UInt8[np.ndarray, "h w c"]
    mask: Bool[np.ndarray, "h w"]


class Artifact(ABC):
    """Base class of artifacts; a call inserts one.

    A subclass draws in `insert`, usually through `blend`. The call keeps the promises: the given image stays as it is,
    shape and dtype are kept, the mask is boolean and not empty, and no pixel outside of it changes.

    Args:
        strength: opacity of the artifact in [0,1], 0 changes nothing; None is the artifact's own default.
        size: its extent relative to the default one, which itself is relative to the image.
        border: where an artifact that lies along a border lies; "any": each image draws its own.

    Raises:
        InputError: a border for an artifact that lies along none.
    """

    localizable: ClassVar[bool] = True
    """Whether the mask says where to look: False where it covers the whole image."""
    at_border: ClassVar[bool] = False
    """Whether the artifact lies along one border, which can be chosen."""
    default_strength: ClassVar[float] = 1.0

    def __init__(self, strength: float | None = None, size: float = 1.0, border: Border = "any") -> None:
        if border != "any" and not self.at_border:
            raise InputError(
                f"The border parameter of {type(self).__name__} must be any, since it lies along no border. "
                f"Got {border} instead."
            )
        self.strength = self.default_strength if strength is None else strength
        self.size = size
        self.border = border

    @abstractmethod
    def insert(self, image: np.ndarray, rng: np.random.Generator) -> Insertion:
        """Draw the artifact into a copy of `image`, uint8 (H,W,C); all its randomness comes from `rng`."""

    @final
    def __call__(self, image: UInt8[np.ndarray, "h w c"], rng: np.random.Generator) -> Insertion:
        """Insert the artifact.

        Args:
            image: uint8 (H,W,C), C = 1 or 3, at least 16 pixels a side; not changed.
            rng: source of placement, text and colour.

        Raises:
            InputError: an image of another kind.
            ValueError: the subclass broke a promise.
        """
        name = type(self).__name__
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or min(image.shape[:2]) < 16:
            raise InputError(
                f"The image parameter of {name} must be uint8 (H,W,1) or (H,W,3), 16 pixels a side or more. "
                f"Got {image.dtype} {image.shape} instead."
            )
        changed, mask = self.insert(image.copy(), rng)
        if changed.shape != image.shape or changed.dtype != np.uint8:
            raise ValueError(f"{name} must keep shape and dtype. Got {changed.dtype} {changed.shape} instead.")
        if mask.shape != image.shape[:2] or mask.dtype != bool or not mask.any():
            raise ValueError(f"{name} must return a boolean mask (H,W) that is not empty.")
        if (changed != image)[~mask].any():
            raise ValueError(f"{name} must change no pixel outside of its mask.")
        return Insertion(changed, mask)

    def length(self, image: np.ndarray, share: float, least: int = 1) -> int:
        """Pixels that `share` of the image's shorter side makes at this size, at least `least`."""
        return max(least, round(share * self.size * min(image.shape[:2])))

    def blend(self, image: np.ndarray, paint: Any, cover: np.ndarray) -> np.ndarray:
        """Mix `paint` into `image`.

        Args:
            image: uint8 (H,W,C).
            paint: a gray value, an RGB colour (its luma on gray images) or an array (H,W,C), 0..255.
            cover: opacity (H,W) in [0,1], multiplied by the strength.

        Returns:
            uint8 (H,W,C).
        """
        paint = np.asarray(paint, np.float64)
        if paint.shape == (3,) and image.shape[2] == 1:
            paint = paint @ [0.299, 0.587, 0.114]
        mixed = image + (self.strength * cover)[..., None] * (paint - image)
        return np.round(np.clip(mixed, 0, 255)).astype(np.uint8)

    @staticmethod
    def ink(image: np.ndarray, region: np.ndarray, rng: np.random.Generator) -> float:
        """Gray value 0..255 that stands out in `region`: bright on gray scans, dark on colour photographs.

        Where the region itself is nearly white, or the photograph nearly black, it is the other way round.
        """
        dark = image[region].mean() > (215 if image.shape[2] == 1 else 90)
        return float(rng.uniform(10, 35) if dark else rng.uniform(230, 250))


ARTIFACTS: Registry[type[Artifact]] = Registry("artifact")
