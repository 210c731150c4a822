"""Modules that a correction inserts into a classifier; each can be rebuilt from its `config()` and its state dict."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.models.taps import POOLINGS, Pooling, pool
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

INSERTIONS = Registry[Any]("insertion")


@INSERTIONS.register("Projection")
class Projection(nn.Module):
    """Move activations along a concept direction until their pooled score equals a target (P-ClArC) [Anders2022].

    a' = a + (target - v·pool(a)) v at every position, so that v·pool(a') = target. The reactive form [Bareeva2024]
    does so only for samples with condition_cav·pool(a) + condition_intercept > 0.

    Args:
        cav: v, float (K,), of length 1.
        target: score that is wanted, usually the mean score of clean samples.
        condition_cav: float (K,) that decides which samples are moved; None moves all.
        condition_intercept: its intercept.
        pooling: max (P-ClArC's) or mean over positions.

    Raises:
        InputError: a direction that is not of length 1, or shapes that differ.
    """

    cav: Tensor
    target: Tensor
    condition_cav: Tensor
    condition_intercept: Tensor

    def __init__(
        self,
        cav: Float[Tensor, " k"],
        target: float,
        condition_cav: Float[Tensor, " k"] | None = None,
        condition_intercept: float = 0.0,
        pooling: Pooling = "max",
    ) -> None:
        super().__init__()
        cav = torch.as_tensor(cav, dtype=torch.float32)
        if cav.ndim != 1 or abs(float(cav.norm()) - 1) > 1e-3:
            raise InputError(
                f"The cav parameter of Projection must be a vector of length 1. "
                f"Got shape {tuple(cav.shape)} and length {float(cav.norm()):.4g} instead."
            )
        if pooling not in POOLINGS or pooling == "sum":
            raise InputError(f"The pooling parameter of Projection must be max or mean. Got {pooling!r} instead.")
        self.pooling: Pooling = pooling
        self.reactive = condition_cav is not None
        self.register_buffer("cav", cav.clone())
        self.register_buffer("target", torch.tensor(float(target)))
        if condition_cav is not None:
            condition_cav = torch.as_tensor(condition_cav, dtype=torch.float32)
            if condition_cav.shape != cav.shape:
                raise InputError(
                    f"The condition_cav parameter of Projection must be of shape {tuple(cav.shape)}. "
                    f"Got {tuple(condition_cav.shape)} instead."
                )
            self.register_buffer("condition_cav", condition_cav.clone())
            self.register_buffer("condition_intercept", torch.tensor(float(condition_intercept)))

    def config(self) -> dict[str, Any]:
        """JSON values from which `from_config` builds a module of the same shape."""
        return {"n_features": len(self.cav), "reactive": self.reactive, "pooling": self.pooling}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Projection":
        """A module with placeholder directions, to be filled by `load_state_dict`."""
        axis = torch.eye(1, config["n_features"])[0]
        return cls(axis, 0.0, axis if config["reactive"] else None, pooling=config["pooling"])

    def applies(self, pooled: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        """1 for samples that are moved, 0 for the others."""
        if not self.reactive:
            return torch.ones_like(pooled[:, 0])
        return ((pooled @ self.condition_cav + self.condition_intercept) > 0).to(pooled.dtype)

    def constant(self, activation: Float[Tensor, "b k *positions"]) -> Float[Tensor, "b k *positions"]:
        """The part of the output that does not scale with the input, target · v, as large as the activation."""
        moved = self.applies(pool(activation, self.pooling))
        shift = moved[:, None] * self.target * self.cav
        return shift.reshape(*shift.shape, *[1] * (activation.ndim - 2)).expand_as(activation)

    def forward(self, activation: Float[Tensor, "b k *positions"]) -> Float[Tensor, "b k *positions"]:
        """Move activations (B,K,…)."""
        pooled = pool(activation, self.pooling)
        shift = (self.applies(pooled) * (self.target - pooled @ self.cav))[:, None] * self.cav
        return activation + shift.reshape(*shift.shape, *[1] * (activation.ndim - 2))
