"""What every attribution method promises: a signed score for each input element, and a model left as it was."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.models.modes import borrow
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

ATTRIBUTORS = Registry[Callable[..., Any]]("attribution method")


class Shared:
    """One batch and what several methods need of it, each computed when it is first asked for.

    Args:
        model: classifier in evaluation mode with its weights out of the graph.
        images: (B,C,H,W) or (B,C,T), detached.
        targets: (B,) class of each sample; None: the predicted ones.
        with_gradient: whether some method will ask for the gradient, so that one forward pass serves both.

    Attributes:
        notes: what methods leave for others of their kind, by keys of their own.
    """

    def __init__(self, model: nn.Module, images: Tensor, targets: Tensor | None, with_gradient: bool) -> None:
        self.model = model
        self.images = images
        self._targets = targets
        self._with_gradient = with_gradient
        self._logits: Tensor | None = None
        self._gradient: Tensor | None = None
        self.notes: dict[Any, Any] = {}

    @property
    def logits(self) -> Float[Tensor, "b k"]:
        """Logits of the batch, detached."""
        if self._logits is None:
            if self._with_gradient:
                self._run()
            else:
                with torch.no_grad():
                    self._logits = self.model(self.images)
        assert self._logits is not None
        return self._logits

    @property
    def targets(self) -> Int64[Tensor, " b"]:
        """The classes to explain."""
        if self._targets is None:
            self._targets = self.logits.argmax(1)
        return self._targets

    @property
    def gradient(self) -> Float[Tensor, "b c *positions"]:
        """Gradient of each sample's target logit with respect to its image."""
        if self._gradient is None:
            self._run()
        assert self._gradient is not None
        return self._gradient

    def _run(self) -> None:
        x = self.images.detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = self.model(x)
            targets = logits.argmax(1) if self._targets is None else self._targets
            total = logits.gather(1, targets[:, None]).sum()
        self._logits, self._targets = logits.detach(), targets
        self._gradient = torch.autograd.grad(total, x)[0]


class Attributor(ABC):
    """A method that explains one logit of each sample.

    A subclass writes `attribute` for one batch. This class checks the input, cuts it into batches, and lends the model
    out in evaluation mode with its weights out of the graph; a subclass that hangs hooks into it or changes a module
    undoes that in a context manager, so that the model comes back as it was whatever happens. Random draws come from
    named streams and are the same for every sample, so neighbours and batches never change an attribution.

    Args:
        model: classifier from images (B,C,H,W) in [0,1], or signals (B,C,T), to logits (B,K).
        batch_size: samples explained at once; changes memory, not results.
    """

    heatmaps: ClassVar[bool] = False
    """Whether the method knows no channels: its attributions have one, (N,1,H,W) or (N,1,T)."""

    targeted: ClassVar[bool] = True
    """Whether attributions depend on the target; those of attention alone do not."""

    uses_gradient: ClassVar[bool] = False
    """Whether `attribute` asks for `self.gradient`, so that methods can share it."""

    full_precision: ClassVar[bool] = False
    """Whether the method compares sums or small differences, which half precision would round away."""

    def __init__(self, model: nn.Module, batch_size: int = 64) -> None:
        check_option("Attributor", "batch_size", batch_size, batch_size >= 1, "at least 1")
        self.model: Any = model
        self.batch_size = batch_size
        self._shared: Shared | None = None

    def __call__(
        self, images: Float[Tensor, "n c *positions"], targets: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n d *positions"]:
        """Explain the logits `targets` of `images`.

        Args:
            images: (N,C,H,W) in [0,1], or signals (N,C,T), finite, on the model's device.
            targets: (N,) class of each sample.

        Returns:
            Attribution of the images' shape and dtype, signed, on their device; one channel where `heatmaps` is set.

        Raises:
            InputError: images that are not finite or of another shape, targets that are not one class a sample.
        """
        check_inputs(type(self).__name__, images, targets)
        parts = []
        with torch.inference_mode(False), borrow(self.model):
            check_targets(type(self).__name__, self.model, images, targets)
            for start in range(0, len(images), self.batch_size):
                rows = slice(start, start + self.batch_size)
                shared = Shared(
                    self.model, images[rows].detach().clone(), targets[rows].clone(), with_gradient=self.uses_gradient
                )
                parts.append(self.explain(shared))
        return torch.cat(parts)

    def explain(self, shared: Shared) -> Float[Tensor, "b d *positions"]:
        """Attribution of one batch that is checked, with the model lent out; for those who run several methods."""
        self._shared = shared
        try:
            found = self.attribute(shared.images, shared.targets).detach()
        finally:
            self._shared = None
        expected = (len(shared.images), 1 if self.heatmaps else shared.images.shape[1], *shared.images.shape[2:])
        assert found.shape == expected, f"{type(self).__name__} gave {tuple(found.shape)} in place of {expected}"
        return found

    @abstractmethod
    def attribute(
        self, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b d *positions"]:
        """Attribution of one batch; the model is in evaluation mode and its weights are out of the graph."""

    @property
    def gradient(self) -> Float[Tensor, "b c *positions"]:
        """Gradient of the target logits with respect to the batch at work; not to be changed, others may share it."""
        assert self._shared is not None, "only `attribute` has a batch"
        return self._shared.gradient

    @property
    def logits(self) -> Float[Tensor, "b k"]:
        """Logits of the batch at work; not to be changed, others may share them."""
        assert self._shared is not None, "only `attribute` has a batch"
        return self._shared.logits

    @property
    def notes(self) -> dict[Any, Any]:
        """What methods of this kind have left about the batch at work."""
        assert self._shared is not None, "only `attribute` has a batch"
        return self._shared.notes


def check_option(caller: str, name: str, value: object, fine: bool, constraint: str) -> None:
    """Raise the library's one error sentence unless an option's value is `fine`."""
    if not fine:
        raise InputError(f"The {name} parameter of {caller} must be {constraint}. Got {value} instead.")


def check_inputs(caller: str, images: Tensor, targets: Tensor | None) -> None:
    """Raise InputError unless images are finite floats (N,C,…), N > 0, with one int64 target each."""
    shapes = images.ndim in (3, 4) and len(images) > 0 and images.is_floating_point()
    if targets is not None:
        shapes = shapes and targets.shape == images.shape[:1] and targets.dtype == torch.int64
    if not shapes:
        given = "none" if targets is None else f"{targets.dtype} {tuple(targets.shape)}"
        raise InputError(
            f"The images and targets parameters of {caller} must be float (N,C,H,W) or (N,C,T) and int64 (N,) with "
            f"N > 0. Got {images.dtype} {tuple(images.shape)} and {given} instead."
        )
    broken = ~torch.isfinite(images).flatten(1).all(1)
    if bool(broken.any()):
        rows = broken.nonzero()[:8, 0].tolist()
        raise InputError(
            f"The images parameter of {caller} must be finite. Got NaN or infinite values in {int(broken.sum())} of "
            f"{len(images)} images, the first at {rows} instead; leave them out."
        )


def check_targets(caller: str, model: nn.Module, images: Tensor, targets: Tensor) -> None:
    """Raise InputError unless every target is a class of the model; costs a forward pass of one image.

    Args:
        caller: who asks, for the error sentence.
        model: classifier in evaluation mode.
        images: (N,C,…), of which the first is passed through the model.
        targets: (N,) int64.
    """
    with torch.no_grad():
        logits = model(images[:1])
    if logits.ndim != 2 or len(logits) != 1:
        raise InputError(
            f"The model parameter of {caller} must give logits (B,K). Got {tuple(logits.shape)} for one image instead."
        )
    if bool((targets < 0).any() | (targets >= logits.shape[1]).any()):
        raise InputError(
            f"The targets parameter of {caller} must be in 0..{logits.shape[1] - 1}, the model's classes. "
            f"Got {targets[(targets < 0) | (targets >= logits.shape[1])].tolist()[:8]} instead."
        )


def target_gradient(
    model: nn.Module, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
) -> Float[Tensor, "b c *positions"]:
    """Gradient of each sample's target logit with respect to its image (samples must not influence each other)."""
    x = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        total = model(x).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(total, x)[0]
