"""An attack that leaves the prediction alone and moves its explanation."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from xai_robustness.attacks.base import Attack, Best
from xai_robustness.attacks.budget import Budget, check_length
from xai_robustness.attacks.criteria import Reached, cross_entropy
from xai_robustness.attacks.maps import DifferentiableMap, make_map, post_process
from xai_robustness.attacks.streams import Streams
from xai_robustness.attacks.surrogate import Smoothing, smooth
from xai_robustness.types import InputError


class Objective:
    """What the attack makes small, for each sample.

    Untargeted: the mean relevance of those pixels that were the most relevant of the clean image. Targeted: the mean
    squared difference to a wanted map.

    Args:
        clean: (B,H,W) post-processed heatmaps of the clean images.
        share: the most relevant pixels, as a share of all.
        target: (H,W) or (B,H,W) wanted map in [0,1], or None.
    """

    def __init__(self, clean: Float[Tensor, "b h w"], share: float, target: Tensor | None = None) -> None:
        k = max(1, int(share * clean[0].numel()))
        top = clean.flatten(1).topk(k, dim=1).indices
        self.mask = torch.zeros_like(clean).flatten(1).scatter_(1, top, 1.0).reshape(clean.shape).bool()
        if target is not None and target.shape[-2:] != clean.shape[-2:]:
            raise InputError(
                f"The target parameter of ExplanationAttack must be of the images' size {tuple(clean.shape[-2:])}. "
                f"Got {tuple(target.shape)} instead."
            )
        self.target = None if target is None else target.to(clean).expand_as(clean)

    def __call__(self, maps: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
        """Value of each sample."""
        if self.target is not None:
            return (maps - self.target).square().mean((1, 2))
        return (maps * self.mask).sum((1, 2)) / self.mask.sum((1, 2))


def corner_target(height: int, width: int, share: float = 0.1) -> Float[Tensor, "h w"]:
    """A map of ones in a top left rectangle of this share of the area, zeros elsewhere."""
    target = torch.zeros(height, width)
    target[: max(1, int(height * math.sqrt(share))), : max(1, int(width * math.sqrt(share)))] = 1
    return target


class ExplanationAttack(Attack):
    """Moves relevance out of the pixels that were the most relevant, or into a wanted map [Ghorbani2019].

    Labels are the classes that the model predicts on the clean images; an iterate counts only where the prediction is
    still that one, so that a sample without such an iterate keeps its clean image. The gradient comes from a smooth
    copy of the model [Dombrowski2019], since the gradient of a ReLU network's gradient is zero; what is kept is judged
    by the explanation of the model itself, sample by sample. Where an iterate has lost the prediction, the next step
    only leads back.

    Args:
        budget: how far an image may move.
        method: one of attacks.maps.MAPS.
        settings: of the method.
        steps: steps of the search.
        step_size: length of the first step, in the unit of eps; by default eps / 10; falls to a tenth as a cosine.
        optimizer: pgd: steepest ascent in the budget's norm; adam: Adam with this learning rate.
        share: most relevant pixels, as a share of all.
        target: (H,W) wanted map in [0,1] for a targeted attack.
        smoothing: how ReLUs are replaced for the gradient: softplus, gate or none.
        beta: sharpness of the replacement.
        keep_weight: weight of the cross entropy for the predicted class.
        random_start: start at random within the budget.
    """

    name = "explanation"

    def __init__(
        self,
        budget: Budget,
        method: str = "saliency",
        settings: dict[str, Any] | None = None,
        steps: int = 100,
        step_size: float | None = None,
        optimizer: Literal["pgd", "adam"] = "pgd",
        share: float = 0.1,
        target: Float[Tensor, "h w"] | None = None,
        smoothing: Smoothing = "softplus",
        beta: float = 20.0,
        keep_weight: float = 1e-4,
        random_start: bool = True,
    ) -> None:
        super().__init__(budget, Reached())
        if budget.norm not in ("linf", "l2"):
            raise InputError(f"The norm parameter of ExplanationAttack must be linf or l2. Got {budget.norm} instead.")
        if steps < 1 or not 0 < share <= 1 or optimizer not in ("pgd", "adam"):
            raise InputError(
                f"The steps, share and optimizer parameters of ExplanationAttack must be at least 1, in (0,1], and "
                f"pgd or adam. Got {steps}, {share} and {optimizer} instead."
            )
        check_length(step_size, "ExplanationAttack")
        self.method, self.map = method, make_map(method, **(settings or {}))
        self.steps, self.optimizer, self.share, self.target = steps, optimizer, share, target
        self.step_size = step_size if step_size is not None else budget.eps / 10
        self.smoothing, self.beta, self.keep_weight, self.random_start = smoothing, beta, keep_weight, random_start

    def run(
        self, model: nn.Module, origin: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], streams: Streams
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n s"]]:
        """Search; the curve starts with the clean value and has one of each iterate, by the model itself."""
        explain = self.map.prepare(model, origin, streams)
        clean = post_process(explain(model, origin, labels, graph=False)).detach()
        objective = Objective(clean, self.share, self.target)
        best, rows = Best(origin), torch.arange(len(origin), device=origin.device)
        curve = [objective(clean)]
        best.offer(origin, -curve[0], torch.ones_like(rows, dtype=torch.bool), rows)
        for images, kept in self.iterates(model, origin, labels, streams, explain, objective):
            value = objective(post_process(explain(model, images, labels, graph=False))).detach()
            best.offer(images, -value, kept, rows)
            curve.append(value)
        return best.images, torch.stack(curve, 1)

    def iterates(
        self,
        model: nn.Module,
        origin: Tensor,
        labels: Tensor,
        streams: Streams,
        explain: DifferentiableMap,
        objective: Objective,
    ) -> Any:
        """Yield images and whether their prediction is kept, after the start and after each step."""
        surrogate = smooth(model, self.smoothing, self.beta)
        images = self.budget.start(origin, streams) if self.random_start else origin
        moments = (torch.zeros_like(origin), torch.zeros_like(origin))
        for step in range(self.steps + 1):
            kept, back = self._hold(model, images, labels)
            yield images, kept
            if step == self.steps:
                return
            x = images.detach().requires_grad_()
            value = objective(post_process(explain(surrogate, x, labels)))
            (gradient,) = torch.autograd.grad(value.sum(), x)
            lost = ~kept[:, None, None, None]
            downhill = -torch.where(lost, back, gradient + self.keep_weight * back)
            length = self.step_size * (0.55 + 0.45 * math.cos(math.pi * step / self.steps))
            if self.optimizer == "adam":
                images = self.budget.project(images + length * _adam(downhill, moments, step + 1), origin)
            else:
                images = self.budget.project(self.budget.ascend(images, downhill, length), origin)

    def _hold(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Bool[Tensor, " n"], Tensor]:
        """Whether the prediction is kept, and the gradient of the cross entropy for it."""
        x = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(x)
            total = cross_entropy(logits, labels).sum()
        return self.criterion(logits.detach(), labels), torch.autograd.grad(total, x)[0]


class ExplanationSearch(ExplanationAttack):
    """The control with equal effort: the best of as many random images as the attack has steps; no gradient.

    Arguments are those of ExplanationAttack; every pixel moves by +ε or -ε (L2: a random direction of length ε).
    """

    name = "explanation_search"

    def iterates(
        self,
        model: nn.Module,
        origin: Tensor,
        labels: Tensor,
        streams: Streams,
        explain: DifferentiableMap,
        objective: Objective,
    ) -> Any:
        """Yield random images at the edge of the budget."""
        for _ in range(self.steps):
            images = self.budget.project(self.budget.ascend(origin, streams.normal(origin), self.budget.eps), origin)
            with torch.no_grad():
                yield images, self.criterion(model(images), labels)


def _adam(gradient: Tensor, moments: tuple[Tensor, Tensor], step: int) -> Tensor:
    """Adam's step of length about 1 [Kingma2015]; the moments are updated in place."""
    first, second = moments
    first.mul_(0.9).add_(0.1 * gradient)
    second.mul_(0.999).add_(0.001 * gradient.square())
    return (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-12)
