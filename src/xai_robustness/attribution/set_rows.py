"""Rows of an attribution set: what a chunk's images, methods and means are."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS
from xai_robustness.attribution.many import attribute_many
from xai_robustness.attribution.probe import BatchSize, in_batches
from xai_robustness.attribution.set_params import AttributionSetParams, MethodSpec
from xai_robustness.chunks import Rows
from xai_robustness.corruptions.conditions import disturb
from xai_robustness.datasets.base import ImageSet
from xai_robustness.models.modes import borrow


@dataclass(frozen=True)
class Explained:
    """Rows of several methods of one model on one noisy image set: called by the job chunk by chunk.

    Attributes:
        model: classifier.
        images: the images without noise.
        specs: methods that run together and share a gradient.
        noise: noise condition.
        params: target and dtype.
        mean_image: (C,H,W) mean of the training images.
        sizes: key -> batch size.
        seed: seed of the run.
        device: where to compute.
        own_logits: also keep logits and targets by method, as models differ.
    """

    model: nn.Module
    images: ImageSet
    specs: Sequence[MethodSpec]
    noise: str
    params: AttributionSetParams
    mean_image: Tensor
    sizes: Mapping[str, int]
    seed: int
    device: str
    own_logits: bool = False

    def on(self, device: str) -> "Explained":
        """The same on another device."""
        return replace(self, device=device)

    def __call__(self, start: int, stop: int) -> Rows:
        """Arrays of rows start:stop."""
        model = self.model.to(self.device)
        methods = {spec.key: spec.create(model, self.mean_image, self.seed) for spec in self.specs}
        size = BatchSize(min(self.sizes[key] for key in methods))

        def run(rows: slice) -> dict[str, np.ndarray]:
            noisy, targets = self._inputs(rows)
            with self._precision():
                found = attribute_many(methods, noisy, targets, len(noisy))
            arrays: dict[str, np.ndarray] = {}
            for key, attribution in found.attributions.items():
                arrays |= packed(key, attribution.float().cpu(), self.params.dtype)
                if self.own_logits:
                    arrays |= {
                        f"logits/{key}": found.logits.float().cpu().numpy(),
                        f"targets/{key}": found.targets.cpu().numpy(),
                    }
            return arrays

        parts = in_batches(run, start, stop, size, torch.device(self.device))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _inputs(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        noisy = noisy_images(self.images, rows, self.noise, self.seed).to(self.device)
        if self.params.target == "label":
            return noisy, torch.from_numpy(self.images.labels[rows]).to(self.device)
        if self.params.autocast == "none":
            return noisy, None
        with borrow(self.model), torch.no_grad():  # the class is that of full precision
            return noisy, self.model(noisy).argmax(1)

    def _precision(self) -> AbstractContextManager[Any]:
        exact = any(getattr(ATTRIBUTORS[spec.method], "full_precision", False) for spec in self.specs)
        if exact or self.params.autocast == "none":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=getattr(torch, self.params.autocast))

    def trial(self, n: int) -> None:
        """Explain n of the images, for the probe."""
        model = self.model.to(self.device)
        methods = {spec.key: spec.create(model, self.mean_image, self.seed) for spec in self.specs}
        rows = torch.arange(n) % len(self.images)
        images = self.images.tensor(rows.numpy()).to(self.device)
        with self._precision():
            attribute_many(methods, images, None, n)


@dataclass(frozen=True)
class Described:
    """Rows that belong to the images alone: the noisy images, what they are, and what the classifier says."""

    model: nn.Module
    images: ImageSet
    noise: str
    params: AttributionSetParams
    seed: int
    device: str

    def on(self, device: str) -> "Described":
        """The same on another device."""
        return replace(self, device=device)

    def __call__(self, start: int, stop: int) -> Rows:
        """Arrays of rows start:stop."""
        model = self.model.to(self.device)

        def run(rows: slice) -> tuple[np.ndarray, np.ndarray]:
            noisy = noisy_images(self.images, rows, self.noise, self.seed)
            with borrow(model), torch.no_grad():
                return noisy.numpy(), model(noisy.to(self.device)).float().cpu().numpy()

        parts = in_batches(run, start, stop, BatchSize(self.params.chunk), torch.device(self.device))
        rows, logits = slice(start, stop), np.concatenate([part[1] for part in parts])
        labels = self.images.labels[rows]
        return {
            "images": np.concatenate([part[0] for part in parts]),
            "logits": logits,
            "targets": logits.argmax(1) if self.params.target == "predicted" else labels,
            "labels": labels,
            "sample_ids": self.images.sample_ids[rows],
        }


@dataclass(frozen=True)
class MeanImages:
    """Mean noisy image of all samples and of each class, one pass; the single chunk of its stream."""

    images: ImageSet
    noise: str
    seed: int
    batch_size: int

    def __call__(self, start: int, stop: int) -> Rows:
        """`mean_images` (1+K,C,H,W): all, then each class by true label; NaN for a class without samples."""
        n_classes = self.images.info.n_classes
        sums = np.zeros((1 + n_classes, *self.images.image_shape))
        counts = np.zeros(1 + n_classes)
        for at in range(0, len(self.images), self.batch_size):
            rows = slice(at, min(at + self.batch_size, len(self.images)))
            noisy = noisy_images(self.images, rows, self.noise, self.seed).double().numpy()
            labels = self.images.labels[rows]
            member = labels if labels.ndim == 2 else np.eye(n_classes)[labels]
            weights = np.concatenate([np.ones((len(labels), 1)), member], 1)
            sums += np.einsum("nk,nchw->kchw", weights, noisy)
            counts += weights.sum(0)
        with np.errstate(invalid="ignore"):
            means = sums / counts[:, None, None, None]
        return {"mean_images": means.astype(np.float32)[start:stop]}


def noisy_images(images: ImageSet, rows: slice, noise: str, seed: int) -> Float[Tensor, "b c h w"]:
    """Images at `rows` in [0,1] under a noise condition, on the CPU."""
    return disturb(noise, images.tensor(rows), images.sample_ids[rows].tolist(), seed)


def packed(key: str, attribution: Tensor, dtype: str) -> dict[str, np.ndarray]:
    """An attribution as it is stored; float16 is divided by each sample's largest magnitude, kept in `scales`.

    Otherwise the small values of float16 would be 0 and the large ones infinite.
    """
    if dtype == "float32":
        return {f"attributions/{key}": attribution.float().numpy()}
    scales = attribution.abs().flatten(1).amax(1)
    shaped = torch.where(scales > 0, scales, 1.0).reshape(-1, *[1] * (attribution.ndim - 1))
    return {f"attributions/{key}": (attribution / shaped).half().numpy(), f"scales/{key}": scales.float().numpy()}


def mean_image(images: ImageSet, batch_size: int = 256) -> Float[Tensor, "c h w"]:
    """Mean of all images in [0,1], accumulated in float64, given as float32."""
    total = torch.zeros(images.image_shape, dtype=torch.float64)
    for batch in images.batches(batch_size):
        total += batch.images.double().sum(0)
    return (total / len(images)).float()
