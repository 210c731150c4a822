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


@INSERTIONS.register("SubspaceProjection")
class SubspaceProjection(nn.Module):
    """Move activations inside the span of several directions until each pooled score equals its target.

    With directions V (M,K) and features x = pool(a): a' = a + (V^T (V V^T)^-1 (targets - V x)) at every position, so
    that V pool(a') = targets; directions that depend on each other are met as well as they can be. Without pooling the
    directions are as long as the flattened activation, which moves element by element (full features).

    Args:
        cavs: V, float (M,K), rows of length 1.
        targets: wanted scores, float (M,).
        condition_cav: float (K,) that decides by max-pooled activations which samples are moved; None moves all.
        condition_intercept: its intercept.
        pooling: max, mean, or none (full features).

    Raises:
        InputError: directions that are not of length 1, or shapes that differ.
    """

    cavs: Tensor
    targets: Tensor
    dual: Tensor
    condition_cav: Tensor
    condition_intercept: Tensor

    def __init__(
        self,
        cavs: Float[Tensor, "m k"],
        targets: Float[Tensor, " m"],
        condition_cav: Float[Tensor, " k"] | None = None,
        condition_intercept: float = 0.0,
        pooling: str = "max",
    ) -> None:
        super().__init__()
        cavs, targets = torch.as_tensor(cavs, dtype=torch.float32), torch.as_tensor(targets, dtype=torch.float32)
        if cavs.ndim != 2 or targets.shape != cavs.shape[:1] or bool(((cavs.norm(dim=1) - 1).abs() > 1e-3).any()):
            raise InputError(
                f"The cavs and targets parameters of SubspaceProjection must be M vectors of length 1 and M numbers. "
                f"Got shapes {tuple(cavs.shape)} and {tuple(targets.shape)} instead."
            )
        if pooling not in ("max", "mean", "none"):
            raise InputError(
                f"The pooling parameter of SubspaceProjection must be max, mean or none. Got {pooling!r} instead."
            )
        self.pooling = pooling
        self.reactive = condition_cav is not None
        self.register_buffer("cavs", cavs.clone())
        self.register_buffer("targets", targets.clone())
        self.register_buffer("dual", torch.linalg.pinv(cavs.double(), rtol=1e-4).T.float().contiguous())
        if condition_cav is not None:
            self.register_buffer("condition_cav", torch.as_tensor(condition_cav, dtype=torch.float32).clone())
            self.register_buffer("condition_intercept", torch.tensor(float(condition_intercept)))

    def config(self) -> dict[str, Any]:
        """JSON values from which `from_config` builds a module of the same shape."""
        n, k = self.cavs.shape
        condition = len(self.condition_cav) if self.reactive else 0
        return {"n_directions": n, "n_features": k, "n_condition": condition, "pooling": self.pooling}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SubspaceProjection":
        """A module with placeholder directions, to be filled by `load_state_dict`."""
        n, k, condition = config["n_directions"], config["n_features"], config["n_condition"]
        axes = torch.eye(1, k).expand(n, k)
        return cls(axes, torch.zeros(n), torch.eye(1, condition)[0] if condition else None, pooling=config["pooling"])

    def _applies(self, activation: Tensor) -> Float[Tensor, "b 1"]:
        if not self.reactive:
            return torch.ones_like(activation.flatten(1)[:, :1])
        scores = pool(activation, "max") @ self.condition_cav + self.condition_intercept
        return (scores > 0).to(activation.dtype)[:, None]

    def _spread(self, shift: Float[Tensor, "b k"], activation: Tensor) -> Tensor:
        if self.pooling == "none":
            return shift.reshape(activation.shape)
        return shift.reshape(*shift.shape, *[1] * (activation.ndim - 2))

    def _features(self, activation: Tensor) -> Float[Tensor, "b k"]:
        if self.pooling == "none":
            return activation.flatten(1)
        return pool(activation, "mean" if self.pooling == "mean" else "max")

    def constant(self, activation: Float[Tensor, "b k *positions"]) -> Float[Tensor, "b k *positions"]:
        """The part of the output that does not scale with the input, as large as the activation."""
        shift = self._applies(activation) * (self.targets @ self.dual)
        return self._spread(shift, activation).expand_as(activation)

    def forward(self, activation: Float[Tensor, "b k *positions"]) -> Float[Tensor, "b k *positions"]:
        """Move activations (B,K,…)."""
        missing = self.targets - self._features(activation) @ self.cavs.T
        return activation + self._spread(self._applies(activation) * (missing @ self.dual), activation)
