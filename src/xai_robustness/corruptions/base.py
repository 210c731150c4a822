"""Corruptions: model-blind degradations of images at severities 1 to 5 [Hendrycks2019]."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from xai_robustness.corruptions.tables import STANDARD, constants
from xai_robustness.randomness import torch_rng
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

Severity = Literal[1, 2, 3, 4, 5]
Images = Float[Tensor, "n c h w"]
Generators = Sequence[torch.Generator]
"""One generator a sample, so that a sample's draw does not depend on its batch."""


class Corruption(ABC):
    """A degradation of images in [0,1]; calling it checks the input, and keeps shape, dtype, device and range.

    Args:
        table: whose constants are used: `standard`, or a data set of MedMNIST-C.

    Attributes:
        severities: the constants of severities 1 to 5.
        by_channel: whether the channels of an image are drawn for independently. MedMNIST-C corrupts gray images as
            colour images and takes the luma, which weakens such noise by a third; with its tables, so does this class.
    """

    name: ClassVar[str]
    by_channel: ClassVar[bool] = False

    def __init__(self, table: str = STANDARD) -> None:
        self.severities = constants(table, self.name)
        self.through_colour = self.by_channel and table != STANDARD

    def __call__(self, images: Images, severity: int, generator: torch.Generator | Generators) -> Images:
        """Corrupt a batch.

        Args:
            images: (N,C,H,W) floats in [0,1], C 1 or 3; not changed.
            severity: 1 (mild) to 5.
            generator: one for the batch, or one a sample; may live on another device than the images, so that equal
                seeds give equal numbers on every device.

        Raises:
            InputError: severity outside 1..5, images of another shape, kind or range, another number of generators.
        """
        _check(self.name, images, severity)
        each = [generator] * len(images) if isinstance(generator, torch.Generator) else generator
        if len(each) != len(images):
            raise InputError(
                f"The generator parameter of {self.name} must be one generator, or one for each of the {len(images)} "
                f"images. Got {len(each)} instead."
            )
        return self.degrade(images, self.severities[int(severity) - 1], each)

    def degrade(self, images: Images, constant: Any, generators: Generators) -> Images:
        """Apply with any constant, also one between the severities (augmentation), and clip to [0,1]."""
        gray = self.through_colour and images.shape[1] == 1
        source = images.expand(-1, 3, -1, -1) if gray else images
        corrupted = self.apply(source, constant, generators).clamp(0, 1)
        corrupted = luma(corrupted) if gray else corrupted
        assert corrupted.shape == images.shape
        return corrupted

    @abstractmethod
    def apply(self, images: Images, constant: Any, generators: Generators) -> Images:
        """The degradation itself; the caller clips the result to [0,1]."""


CORRUPTIONS: Registry[type[Corruption]] = Registry("corruption")


def register(name: str) -> Any:
    """Class decorator: name a corruption and put it into CORRUPTIONS."""

    def store(entry: type[Corruption]) -> type[Corruption]:
        entry.name = name
        return CORRUPTIONS.register(name)(entry)

    return store


def luma(images: Images) -> Images:
    """Gray value of colour images (N,3,H,W) with the weights of ITU-R 601, (N,1,H,W)."""
    weights = images.new_tensor([0.299, 0.587, 0.114])
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)


def corrupt(
    name: str, images: Images, sample_ids: Sequence[int], severity: int, seed: int, table: str = STANDARD
) -> Images:
    """Corrupt a batch by name, each sample with the stream `corruption/<name>/<sample id>` of the run's seed.

    The result of a sample depends neither on its batch nor on its order. The stream is the same for all severities:
    they differ by their constant alone, which makes curves over severities comparable.

    Example:
        >>> corrupt("contrast", torch.full((1, 1, 2, 2), 0.5), [7], severity=5, seed=0).unique().item()
        0.5
    """
    streams = [torch_rng(seed, "corruption", name, int(sample_id)) for sample_id in sample_ids]
    return CORRUPTIONS.create(name, table)(images, severity, streams)


def draw(generators: Generators, shape: tuple[int, ...], like: Tensor, normal: bool) -> Tensor:
    """One draw of `shape` a sample, (N, *shape) in dtype and on the device of `like`: standard normal or U(0,1)."""
    rows = [
        (torch.randn if normal else torch.rand)(shape, generator=generator, device=generator.device)
        for generator in generators
    ]
    return torch.stack(rows).to(like) if rows else like.new_zeros((0, *shape))


def _check(name: str, images: Tensor, severity: int) -> None:
    if isinstance(severity, bool) or severity not in range(1, 6):
        raise InputError(
            f"The severity parameter of {name} must be a whole number from 1 to 5. Got {severity!r} instead."
        )
    check_images(name, images)


def check_images(name: str, images: Tensor) -> None:
    """Raise InputError unless `images` are floats (N,C,H,W) in [0,1] with 1 or 3 channels; `name` is the caller."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
        raise InputError(
            f"The images parameter of {name} must be floats of shape (N,C,H,W) with 1 or 3 channels. "
            f"Got {images.dtype} of shape {tuple(images.shape)} instead."
        )
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise InputError(
            f"The images parameter of {name} must be in [0,1] and free of NaN. "
            f"Got {images.min().item():g}..{images.max().item():g} instead."
        )
