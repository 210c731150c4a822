"""Random draws of attacks: each sample has a stream of its own, so that batches never matter."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xai_robustness.randomness import torch_rng


class Streams:
    """One generator a sample, drawn on the CPU, so that every device sees the same numbers.

    Args:
        seed: seed of the run.
        name: what is drawn.
        ids: ids of the samples (B,).
    """

    def __init__(self, seed: int, name: str, ids: Sequence[int]) -> None:
        self._generators = [torch_rng(seed, name, int(sample)) for sample in ids]

    def __len__(self) -> int:
        return len(self._generators)

    def rows(self, rows: Int64[Tensor, " r"]) -> "Streams":
        """The streams of some of the samples; drawing from them moves the originals on."""
        part = Streams(0, "", ())
        part._generators = [self._generators[row] for row in rows.tolist()]
        return part

    def uniform(self, like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Uniform in [0,1), of the shape, type and device of `like`."""
        drawn = torch.stack([torch.rand(like.shape[1:], generator=g) for g in self._generators])
        return drawn.to(like.device, like.dtype)

    def normal(self, like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Standard normal, of the shape, type and device of `like`."""
        drawn = torch.stack([torch.randn(like.shape[1:], generator=g) for g in self._generators])
        return drawn.to(like.device, like.dtype)
