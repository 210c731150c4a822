"""Projected gradient ascent on the loss, and the single step that it grew out of."""

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from xai_robustness.attacks.base import ATTACKS, Attack, Best
from xai_robustness.attacks.budget import Budget, Point, check_length
from xai_robustness.attacks.criteria import Criterion, Loss, Misclassified, Reached, cross_entropy
from xai_robustness.attacks.streams import Streams
from xai_robustness.types import InputError


@ATTACKS.register("pgd")
class PGD(Attack):
    """Projected gradient ascent [Madry2018]; each sample keeps its best iterate over all steps and restarts.

    A sample that has been misclassified is left alone from then on, unless the attack looks for the largest loss; so
    restarts only cost what is still standing.

    Args:
        budget: L-infinity, L2, unconstrained or Fourier.
        steps: gradient steps.
        step_size: length of a step, in the unit of eps; by default 2.5 eps / steps, or 1 without a radius.
        random_start: whether the first run starts at random; restarts always do.
        restarts: further runs from random starts.
        targeted: whether labels are wanted classes.
        loss: what is made large (small, if targeted); from logits and labels to (N,).
        criterion: what counts as success; by default misclassification, or the wanted class.
        largest_loss: keep the iterate of the largest loss instead of one that succeeds, as training does.
    """

    name = "pgd"

    def __init__(
        self,
        budget: Budget,
        steps: int = 40,
        step_size: float | None = None,
        random_start: bool = True,
        restarts: int = 0,
        targeted: bool = False,
        loss: Loss = cross_entropy,
        criterion: Criterion | None = None,
        largest_loss: bool = False,
    ) -> None:
        super().__init__(budget, criterion or (Reached() if targeted else Misclassified()))
        if steps < 1 or restarts < 0:
            raise InputError(
                f"The steps parameter of PGD must be at least 1 and restarts at least 0. "
                f"Got {steps} and {restarts} instead."
            )
        check_length(step_size, "PGD")
        bounded = budget.eps != float("inf")
        self.step_size = step_size if step_size is not None else 2.5 * budget.eps / steps if bounded else 1.0
        self.steps, self.random_start, self.restarts = steps, random_start, restarts
        self.sign = -1.0 if targeted else 1.0
        self.loss, self.largest_loss = loss, largest_loss

    def run(
        self,
        model: nn.Module,
        origin: Float[Tensor, "n c h w"],
        labels: Shaped[Tensor, "n ..."],
        streams: Streams,
    ) -> tuple[Float[Tensor, "n c h w"], None]:
        """All runs; the best images."""
        best = Best(origin, by_success=not self.largest_loss)
        for number in range(1 + self.restarts):
            rows = self._standing(best)
            if len(rows) == 0:
                break
            at_random = self.random_start or number > 0
            start = (
                self.budget.start(origin[rows], streams.rows(rows)) if at_random else self.budget.encode(origin[rows])
            )
            self._climb(model, start, origin, labels, rows, best, streams)
        return best.images, None

    def _standing(self, best: Best) -> Int64[Tensor, " r"]:
        return torch.arange(len(best.success)) if self.largest_loss else (~best.success).nonzero()[:, 0].cpu()

    def _climb(
        self,
        model: nn.Module,
        point: Point,
        origin: Tensor,
        labels: Tensor,
        rows: Int64[Tensor, " r"],
        best: Best,
        streams: Streams,
    ) -> None:
        """One run of the samples `rows`; those that succeed drop out."""
        rows = rows.to(origin.device)
        for step in range(self.steps + 1):
            images, logits, loss, gradient = self.gradient(
                model, point, labels[rows], streams.rows(rows), step < self.steps
            )
            success = self.criterion(logits, labels[rows])
            best.offer(images, loss, success, rows)
            if step == self.steps:
                return
            point = self.budget.project(self.budget.ascend(point, gradient, self.step_size), origin[rows])
            if not self.largest_loss:
                point, rows = point[~success], rows[~success]
                if len(rows) == 0:
                    return

    def gradient(
        self, model: nn.Module, point: Point, labels: Tensor, streams: Streams, needed: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images, logits, loss (already with its sign) and its gradient at a point; no gradient unless needed."""
        with torch.set_grad_enabled(needed):
            point = point.detach().requires_grad_(needed)
            images = self.budget.decode(point)
            logits = model(images)
            loss = self.sign * self.loss(logits, labels)
        gradient = torch.autograd.grad(loss.sum(), point)[0] if needed else torch.zeros_like(point)
        return images.detach(), logits.detach(), loss.detach(), gradient


@ATTACKS.register("fgsm")
class FGSM(PGD):
    """One step of length ε along the gradient, from the image itself [Goodfellow2015]."""

    name = "fgsm"

    def __init__(self, budget: Budget, targeted: bool = False, loss: Loss = cross_entropy) -> None:
        super().__init__(budget, 1, budget.eps or None, random_start=False, targeted=targeted, loss=loss)


@ATTACKS.register("estimated_pgd")
class EstimatedPGD(PGD):
    """PGD that only sees logits: the gradient is estimated from antithetic pairs on a sphere [Ilyas2018].

    Args:
        budget: L-infinity or L2.
        queries: pairs of points a step.
        radius: how far from the image they lie, in the unit of the images.
        **options: as for PGD.
    """

    name = "estimated_pgd"

    def __init__(self, budget: Budget, queries: int = 50, radius: float = 1e-2, **options: object) -> None:
        super().__init__(budget, **options)  # type: ignore[arg-type]
        if queries < 1 or radius <= 0 or budget.norm == "fourier":
            raise InputError(
                f"The queries, radius and norm of EstimatedPGD must be at least 1, positive and over images. "
                f"Got {queries}, {radius} and {budget.norm} instead."
            )
        self.queries, self.radius = queries, radius

    def gradient(
        self, model: nn.Module, point: Point, labels: Tensor, streams: Streams, needed: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean over pairs of (L(x + r v) - L(x - r v)) v d / 2r, v uniform on the unit sphere in d dimensions."""
        images, logits, loss, total = super().gradient(model, point, labels, streams, needed=False)
        for _ in range(self.queries if needed else 0):
            v = streams.normal(point)
            v = v / v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            with torch.no_grad():
                difference = self.loss(model(point + self.radius * v), labels) - self.loss(
                    model(point - self.radius * v), labels
                )
            total = total + self.sign * difference[:, None, None, None] * v
        return images, logits, loss, total * point[0].numel() / (2 * self.radius * self.queries)
