"""Shapley values of superpixels, by permutations and by weighted regression.

The players are superpixels; one that is absent is replaced by the baseline. A pixel gets the value of its superpixel,
in every channel. The values of an image sum to f_t(x) - f_t(baseline), with any number of samples.
"""

from abc import abstractmethod
from collections.abc import Callable
from itertools import product
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor, check_option
from xai_robustness.attribution.baselines import Baseline
from xai_robustness.attribution.perturbation import masked_logits
from xai_robustness.randomness import torch_rng

Segmentation = Literal["slic", "grid"]
Value = Callable[[Bool[Tensor, "m s"]], Float[Tensor, "m b"]]
"""Coalitions (M,S), true where a player is present -> target logits (M,B)."""


def superpixels(images: Float[Tensor, "b c *positions"], n_segments: int, kind: Segmentation) -> Int64[Tensor, "b ..."]:
    """Number the superpixels of each image from 0, without gaps.

    Args:
        images: (B,C,H,W) in [0,1], or signals (B,C,T), which are always cut into equal intervals.
        n_segments: about how many.
        kind: "slic", which follows edges [Achanta2012], or "grid", equal rectangles.
    """
    if kind == "grid" or images.ndim == 3:
        per_axis = max(1, round(n_segments ** (1 / (images.ndim - 2))))
        places = [torch.arange(n) * min(per_axis, n) // n for n in images.shape[2:]]
        label = places[0] if len(places) == 1 else places[0][:, None] * (int(places[1][-1]) + 1) + places[1]
        return label.expand(len(images), *label.shape).to(images.device)
    from skimage.segmentation import relabel_sequential, slic  # a slow import

    color = images.shape[1] == 3
    labels = []
    for image in images.permute(0, 2, 3, 1).cpu().double().numpy():
        found = slic(image, n_segments, compactness=10.0 if color else 0.1, start_label=1, channel_axis=-1)
        labels.append(torch.from_numpy(relabel_sequential(found)[0].astype("int64") - 1))
    return torch.stack(labels).to(images.device)


class _Coalitions(Attributor):
    """Values of superpixels from target logits of coalitions; subclasses choose coalitions and solve for the values.

    Args:
        model: classifier.
        n_samples: what the subclass says, and by default its `default_samples`.
        n_segments: about how many superpixels.
        segments: "slic" or "grid".
        baseline: a name of BASELINES, or an image (C,…) in the images' units.
        mean_image: (C,…), for the baseline "mean".
        seed: seed of the coalitions, which are the same for images with as many superpixels.
        batch_size: images at once.
        internal_batch_size: forward passes at once, images times coalitions.
    """

    full_precision = True

    default_samples: ClassVar[int]

    def __init__(
        self,
        model: nn.Module,
        n_samples: int | None = None,
        n_segments: int = 16,
        segments: Segmentation = "slic",
        baseline: str | Tensor = "zero",
        mean_image: Tensor | None = None,
        seed: int = 0,
        batch_size: int = 64,
        internal_batch_size: int = 256,
    ) -> None:
        super().__init__(model, batch_size)
        caller, n_samples = type(self).__name__, self.default_samples if n_samples is None else n_samples
        numbers = {"n_samples": n_samples, "n_segments": n_segments, "internal_batch_size": internal_batch_size}
        for name, number in numbers.items():
            check_option(caller, name, number, number >= 1, "at least 1")
        check_option(caller, "segments", segments, segments in ("slic", "grid"), "slic or grid")
        self.n_samples = n_samples
        self.n_segments = n_segments
        self.segments: Segmentation = segments
        self.baseline = Baseline(caller, baseline, mean_image, seed)
        self.seed = seed
        self.internal_batch_size = internal_batch_size

    def attribute(
        self, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b c *positions"]:
        """Values of one batch; images with as many superpixels are asked together."""
        segments = superpixels(images, self.n_segments, self.segments).flatten(1)
        sizes = segments.amax(1) + 1
        baselines = self.baseline.of(images).expand_as(images)
        full = self.logits.gather(1, targets[:, None])[:, 0]
        found = torch.zeros(segments.shape, dtype=images.dtype, device=images.device)
        for size in sizes.unique().tolist():
            rows = (sizes == size).nonzero()[:, 0]
            value = self._value(images[rows], targets[rows], segments[rows], baselines[rows])
            empty = value(torch.zeros(1, size, dtype=torch.bool, device=images.device))[0]
            values = self.solve(value, empty, full[rows], size)
            found[rows] = values.gather(1, segments[rows])
        return found.reshape(len(images), 1, *images.shape[2:]).expand_as(images).clone()

    def _value(self, images: Tensor, targets: Tensor, segments: Tensor, baselines: Tensor) -> Value:
        def value(coalitions: Tensor) -> Tensor:
            def masks(some: slice) -> Tensor:
                absent = ~coalitions[some][:, segments]  # (m,b,positions)
                return absent.reshape(*absent.shape[:2], *images.shape[2:])

            size = self.internal_batch_size
            return masked_logits(self.model, images, targets, masks, len(coalitions), baselines, size)

        return value

    @abstractmethod
    def solve(
        self, value: Value, empty: Float[Tensor, " b"], full: Float[Tensor, " b"], size: int
    ) -> Float[Tensor, "b s"]:
        """Values of `size` players, which sum to full - empty."""


@ATTRIBUTORS.register("shapley_sampling")
class ShapleySampling(_Coalitions):
    """Mean gain of the target logit as superpixels join in random order [Castro2009, Strumbelj2010].

    `n_samples` is the number of orders, 25 by default; each costs as many forward passes as there are superpixels, less
    one. The other options are those of KernelShap.
    """

    default_samples = 25

    def solve(
        self, value: Value, empty: Float[Tensor, " b"], full: Float[Tensor, " b"], size: int
    ) -> Float[Tensor, "b s"]:
        """Mean gains."""
        total = torch.zeros(size, len(full), dtype=full.dtype, device=full.device)
        for order in self.orders(size):
            rank = order.argsort()
            steps = torch.arange(1, size)
            inside = torch.zeros(0, len(full), dtype=full.dtype, device=full.device)
            if size > 1:
                inside = value((rank < steps[:, None]).to(full.device))
            worth = torch.cat([empty[None], inside, full[None]])
            total[order] += worth.diff(dim=0)
        return (total / self.n_samples).T

    def orders(self, size: int) -> list[Int64[Tensor, " s"]]:
        """Random orders of the players, the same for the same seed and number of players."""
        rng = torch_rng(self.seed, "shapley_sampling", size)
        return [torch.randperm(size, generator=rng) for _ in range(self.n_samples)]


@ATTRIBUTORS.register("kernel_shap")
class KernelShap(_Coalitions):
    """Values whose sums over coalitions fit the target logits best, under the Shapley kernel [Lundberg2017].

    Coalitions are drawn by the kernel, each with its complement; where all of them are no more than `n_samples`, they
    are all taken, and the values are the exact ones.

    Args:
        model: classifier.
        n_samples: coalitions, beside the empty and the full one; 256 by default.
        n_segments: about how many superpixels.
        segments: "slic", which follows edges, or "grid", equal rectangles; signals are cut into equal intervals.
        baseline: a name of BASELINES, or an image (C,…) in the images' units.
        mean_image: (C,…), for the baseline "mean".
        seed: seed of the coalitions, which are the same for images with as many superpixels.
        batch_size: images at once.
        internal_batch_size: forward passes at once, images times coalitions.
    """

    default_samples = 256

    def solve(
        self, value: Value, empty: Float[Tensor, " b"], full: Float[Tensor, " b"], size: int
    ) -> Float[Tensor, "b s"]:
        """Weighted least squares with the sum of the values fixed, in float64."""
        if size == 1:
            return (full - empty)[:, None]
        coalitions, weights = self.coalitions(size)
        worth = (value(coalitions.to(full.device)) - empty).double().cpu()  # (M,B)
        z = coalitions.double()
        inverse = torch.linalg.pinv(z.T @ (weights[:, None] * z), hermitian=True)
        free = inverse @ (z.T @ (weights[:, None] * worth))  # (S,B)
        ones = inverse.sum(1, keepdim=True)
        missing = (full - empty).double().cpu() - free.sum(0)
        return (free + ones * missing / ones.sum()).T.to(full)

    def coalitions(self, size: int) -> tuple[Bool[Tensor, "m s"], Float[Tensor, " m"]]:
        """Coalitions of some but not all players, and their weights in the regression (float64)."""
        if 2**size - 2 <= self.n_samples:
            every = torch.tensor(list(product((False, True), repeat=size)))[1:-1]
            present = every.sum(1).double()
            pairs = torch.lgamma(present + 1) + torch.lgamma(size - present + 1)
            return every, (pairs - torch.log(present * (size - present))).exp()
        rng = torch_rng(self.seed, "kernel_shap", size)
        counts = torch.arange(1, size, dtype=torch.float64)
        drawn = 1 + torch.multinomial(1 / (counts * (size - counts)), -(-self.n_samples // 2), True, generator=rng)
        ranks = torch.rand(len(drawn), size, generator=rng).argsort(1).argsort(1)
        half = ranks < drawn[:, None]
        both = torch.cat([half, ~half])
        return both, torch.ones(len(both), dtype=torch.float64)
