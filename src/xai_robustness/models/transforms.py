"""Augmentation policies of published recipes, on torchvision's transforms, with random streams of the project."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from xai_robustness.randomness import seed_for

Policy = Literal["reveal_to_revise", "dermoscopy", "rand_augment"]
GREY = 0.5
"""What rotations bring in from outside of the image."""


def _reveal_to_revise(side: Sequence[int]) -> list[Any]:
    from torchvision.transforms import v2

    sometimes = [
        v2.GaussianBlur((5, 9), (0.1, 5.0)),
        v2.RandomRotation((0, 30), fill=GREY),
        v2.ColorJitter(brightness=0.1, saturation=0.1, hue=0.1),
    ]
    flips = [v2.RandomHorizontalFlip(0.25), v2.RandomVerticalFlip(0.25)]
    return [*flips, *(v2.RandomApply([transform], 0.25) for transform in sometimes)]


def _dermoscopy(side: Sequence[int]) -> list[Any]:
    from torchvision.transforms import v2

    colours, flips = v2.ColorJitter(0.2, 0.2, 0.2), [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    return [colours, *flips, v2.RandomAffine(10), v2.RandomRotation(50)]


def _rand_augment(side: Sequence[int]) -> list[Any]:
    from torchvision.transforms import InterpolationMode, v2

    crop = v2.RandomResizedCrop(list(side), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return [crop, v2.RandomHorizontalFlip(), v2.Lambda(_clamped), v2.RandAugment(num_ops=2, magnitude=9)]


def _clamped(images: Tensor) -> Tensor:
    return images.clamp(0, 1)


POLICIES: dict[Policy, Callable[[Sequence[int]], list[Any]]] = {
    "reveal_to_revise": _reveal_to_revise,
    "dermoscopy": _dermoscopy,
    "rand_augment": _rand_augment,
}


class Transforms:
    """Transforms each image by itself; the draws follow its sample id, the epoch and the seed, not its batch.

    Flips, blur, rotation and colour jitter, each for a quarter of the images [Pahde2025]; or colour jitter, flips,
    shear-free affine shifts and rotation [Margeloiu2020]; or random crops, flips and two random operations
    [Touvron2021]. Random erasing fills a rectangle with noise afterwards.

    Args:
        policy: which of them; None: none.
        erasing: share of the images in which a rectangle is erased.
        side: (H,W) of the images.
    """

    def __init__(self, policy: Policy | None, erasing: float, side: Sequence[int]) -> None:
        from torchvision.transforms import v2

        steps = POLICIES[policy](side) if policy else []
        steps = [*steps, v2.Lambda(_clamped)]
        if erasing:
            noise = v2.RandomErasing(erasing, value="random")
            steps += [v2.Normalize([0.5], [0.25]), noise, v2.Normalize([-2.0], [4.0])]
        self.transform = v2.Compose(steps)

    def __call__(
        self, images: Float[Tensor, "b c h w"], sample_ids: Sequence[int], seed: int, epoch: int
    ) -> Float[Tensor, "b c h w"]:
        """Transformed images of the same shape; the policies keep them in [0,1], erasing fills with N(0.5, 0.25)."""
        rows = []
        with torch.random.fork_rng(devices=[]):
            for image, sample_id in zip(images, sample_ids):
                torch.manual_seed(seed_for(seed, "transform", epoch, int(sample_id)))
                rows.append(self.transform(image))
        return torch.stack(rows)


class Mixing:
    """Mixes the images and labels of a batch: mixup or CutMix, each batch one of the two that are asked for.

    Args:
        mixup: alpha of the Beta law of mixup's share; 0: no mixup.
        cutmix: the same of CutMix.
        n_classes: number of classes.
    """

    def __init__(self, mixup: float, cutmix: float, n_classes: int) -> None:
        from torchvision.transforms import v2

        mixes = {v2.MixUp: mixup, v2.CutMix: cutmix}
        self.choices = [kind(alpha=alpha, num_classes=n_classes) for kind, alpha in mixes.items() if alpha]

    def __call__(
        self, images: Float[Tensor, "b c h w"], labels: Tensor, seed: int, epoch: int, batch: int
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k"]]:
        """Mixed images, and the share of each class in them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "mix", epoch, batch))
            choice = self.choices[int(torch.randint(len(self.choices), ()))]
            mixed, shares = choice(images, labels)
        return mixed, shares
