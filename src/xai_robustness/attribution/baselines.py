"""Baselines: the images that attributions compare with, single ones by name and weighted sets of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from xai_robustness.randomness import torch_rng
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

BASELINES = Registry[Callable[["Baseline", Tensor], Tensor]]("baseline")
"""name -> function of the choice and images (B,C,…) that gives baselines (1,C,…) or (B,C,…)."""


@dataclass(frozen=True)
class Baseline:
    """Which image stands for "nothing there"; checked when a method is made, as far as that is possible.

    Args:
        caller: method that uses it, for error sentences.
        choice: a name of BASELINES, or a tensor (C,…) or (1,C,…) in the images' units.
        mean_image: (C,…), for "mean"; usually the mean of the training images.
        seed: seed of the baselines that are random.

    Raises:
        InputError: unknown name, "mean" without a mean image, or values that are not finite.
    """

    caller: str
    choice: str | Tensor = "zero"
    mean_image: Tensor | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.choice, str):
            BASELINES.checked(self.choice)
            if self.choice == "mean" and self.mean_image is None:
                raise InputError(f"The mean_image parameter of {self.caller} must be given for the baseline 'mean'.")
        for name, value in (("baseline", self.choice), ("mean_image", self.mean_image)):
            if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
                raise InputError(f"The {name} parameter of {self.caller} must be finite. Got NaN or infinity instead.")

    def of(self, images: Float[Tensor, "b c *positions"]) -> Float[Tensor, "r c *positions"]:
        """Baselines of a batch, r = 1 for all images or r = b for one each; raises InputError for a wrong shape."""
        if isinstance(self.choice, Tensor):
            return fitted(self.caller, "baseline", self.choice, images)
        return BASELINES[self.choice](self, images)

    def mean(self, images: Float[Tensor, "b c *positions"]) -> Float[Tensor, "1 c *positions"]:
        """The mean image, checked against a batch."""
        assert self.mean_image is not None
        return fitted(self.caller, "mean_image", self.mean_image, images)


def fitted(caller: str, name: str, image: Tensor, images: Tensor) -> Float[Tensor, "1 c *positions"]:
    """Give `image` the dtype, device and dimensions of a batch; raises InputError if it is of another shape."""
    shape = tuple(images.shape[1:])
    if tuple(image.shape) not in (shape, (1, *shape)):
        raise InputError(
            f"The {name} parameter of {caller} must be of the images' shape {shape}. Got {tuple(image.shape)} instead."
        )
    return image.detach().to(images).reshape(1, *shape)


def _constant(value: float) -> Callable[[Baseline, Tensor], Tensor]:
    def make(baseline: Baseline, images: Tensor) -> Tensor:
        return torch.full_like(images[:1], value)

    return make


for _name, _value in (("zero", 0.0), ("black", 0.0), ("grey", 0.5), ("white", 1.0)):
    BASELINES.register(_name)(_constant(_value))


@BASELINES.register("mean")
def mean(baseline: Baseline, images: Float[Tensor, "b c *positions"]) -> Float[Tensor, "1 c *positions"]:
    """The given mean image."""
    return baseline.mean(images)


@BASELINES.register("blur")
def blur(baseline: Baseline, images: Float[Tensor, "b c *positions"]) -> Float[Tensor, "b c *positions"]:
    """Each image blurred by a 5 x 5 Gaussian of standard deviation 10 px, mirrored at the border [Margeloiu2020]."""
    weights = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / (2 * 10.0**2)).to(images)
    weights = weights / weights.sum()
    channels = images.shape[1]
    if images.ndim == 3:
        return F.conv1d(F.pad(images, (2, 2), "reflect"), weights.expand(channels, 1, 5), groups=channels)
    kernel = (weights[:, None] * weights).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), "reflect"), kernel, groups=channels)


@BASELINES.register("uniform")
def uniform(baseline: Baseline, images: Float[Tensor, "b c *positions"]) -> Float[Tensor, "1 c *positions"]:
    """Uniform noise in [0,1], the same for all images."""
    rng = torch_rng(baseline.seed, "baseline", "uniform")
    return torch.rand((1, *images.shape[1:]), generator=rng, dtype=torch.float64).to(images)


@BASELINES.register("noisy")
def noisy(baseline: Baseline, images: Float[Tensor, "b c *positions"]) -> Float[Tensor, "b c *positions"]:
    """Each image plus standard normal noise, the same for all, cut to [0,1] [Margeloiu2020]."""
    rng = torch_rng(baseline.seed, "baseline", "noisy")
    noise = torch.randn((1, *images.shape[1:]), generator=rng, dtype=torch.float64).to(images)
    return (images + noise).clamp(0, 1)


@dataclass(frozen=True)
class BaselineSet:
    """A distribution of baselines: one third mid-grey, one third noise, one third the mean image.

    The published set is as many copies of each as the batch has images, with N(0,1) noise in [-1,1] units; it depends
    on the batch size. Here grey and mean appear once with their weight, and a fixed number of noise
    images shares the third one: the same expectation for any batch, at far fewer distinct baselines. Without a mean
    image, grey and noise have one half each.

    Args:
        caller: method that uses it, for error sentences.
        baselines: own baselines (R,C,…), equally likely, in place of all this; None: the set above.
        mean_image: (C,…) in the images' units, or None.
        seed: seed of the noise, stream "baseline", "noise".

    Raises:
        InputError: own baselines that are no stack of finite images.
    """

    caller: str
    baselines: Tensor | None = None
    mean_image: Tensor | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        own = self.baselines
        if own is not None and (own.ndim < 3 or len(own) == 0 or not bool(torch.isfinite(own).all())):
            raise InputError(
                f"The baselines parameter of {self.caller} must be finite images (R,C,H,W) or signals (R,C,T), R > 0. "
                f"Got {tuple(own.shape)} instead."
            )

    def weighted(
        self, images: Float[Tensor, "b c *positions"], n_noise: int
    ) -> tuple[Float[Tensor, "r c *positions"], Float[Tensor, " r"]]:
        """All baselines, with `n_noise` noise images in the set, and their weights, which sum to 1."""
        if self.baselines is not None:
            found = [fitted(self.caller, "baselines", image, images) for image in self.baselines]
            return torch.cat(found), images.new_full((len(found),), 1 / len(found))
        kinds = 2 if self.mean_image is None else 3
        found = [torch.full_like(images[:1], 0.5), *(self._noise(images, i) for i in range(n_noise))]
        weights = [1 / kinds] + [1 / kinds / n_noise] * n_noise
        if self.mean_image is not None:
            found.append(fitted(self.caller, "mean_image", self.mean_image, images))
            weights.append(1 / kinds)
        return torch.cat(found), images.new_tensor(weights)

    def draw(
        self, images: Float[Tensor, "b c *positions"], places: range
    ) -> tuple[Float[Tensor, "s c *positions"], Float[Tensor, " s"]]:
        """Baselines and numbers in [0,1) of the draws at `places`; a draw depends on its place alone."""
        baselines, positions = [], []
        for place in places:
            rng = torch_rng(self.seed, "baseline", "draw", place)
            which, position = torch.rand(2, generator=rng, dtype=torch.float64).tolist()
            positions.append(position)
            baselines.append(self._pick(images, which, place))
        return torch.cat(baselines), images.new_tensor(positions)

    def _pick(self, images: Tensor, which: float, place: int) -> Tensor:
        if self.baselines is not None:
            return fitted(self.caller, "baselines", self.baselines[int(which * len(self.baselines))], images)
        kind = int(which * (2 if self.mean_image is None else 3))
        if kind == 0:
            return torch.full_like(images[:1], 0.5)
        if kind == 1:
            return self._noise(images, place)
        assert self.mean_image is not None
        return fitted(self.caller, "mean_image", self.mean_image, images)

    def _noise(self, images: Tensor, place: int) -> Tensor:
        rng = torch_rng(self.seed, "baseline", "noise", place)
        noise = torch.randn((1, *images.shape[1:]), generator=rng, dtype=torch.float64)
        return (0.5 + 0.5 * noise).to(images)
