"""The layer-wise study: how far the maps of eight layers move under perturbation, and what that says of predictions.

Grad-CAM++ maps of the clean and the perturbed image, for the class predicted on the clean one, are scaled to [0,1] and
compared by their RMSE at the layer's own resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.corruptions.tables import MRI_LIKE
from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.bootstrap import Resamples, Statistic, bootstrap, mean_interval, once, percentile_interval
from xai_robustness.metrics.classification import METRICS, Predictions, Weighted
from xai_robustness.metrics.ranking import Ranking
from xai_robustness.models.modes import borrow
from xai_robustness.models.taps import tap
from xai_robustness.progress import progress
from xai_robustness.robustness.corruption import versions
from xai_robustness.robustness.params import SEVERITIES
from xai_robustness.types import METRIC_COLUMNS, InputError

LAYERWISE_COLUMNS = ["layer", "corruption", "severity", "group", *METRIC_COLUMNS]

BATCH = 8
"""Images at once; each comes with its 25 perturbed versions."""


@dataclass(frozen=True)
class LayerwiseSamples:
    """What the study measures on each image.

    Attributes:
        layers: module paths.
        conditions: (corruption, severity) of the V perturbed versions.
        rmse: (L,V,N) of the maps, in [0,1]; NaN where a map is constant.
        image_rmse: (V,N) of the images, in [0,1].
        clean: (N,K) logits.
        perturbed: (V,N,K) logits.
        labels: (N,).
    """

    layers: tuple[str, ...]
    conditions: tuple[tuple[str, int], ...]
    rmse: Float[np.ndarray, "l v n"]
    image_rmse: Float[np.ndarray, "v n"]
    clean: Float[np.ndarray, "n k"]
    perturbed: Float[np.ndarray, "v n k"]
    labels: Int64[np.ndarray, " n"]


def eight_layers(model: nn.Module) -> tuple[str, ...]:
    """The second convolution of the last two blocks of each stage of a ResNet.

    Raises:
        InputError: another architecture; name the layers instead.
    """
    paths = dict(model.named_modules())
    found = []
    for stage in range(1, 5):
        blocks = sorted({int(p.split(".")[1]) for p in paths if p.startswith(f"layer{stage}.") and p.count(".") >= 1})
        found += [f"layer{stage}.{block}.conv2" for block in blocks[-2:]]
    if len(found) != 8 or any(path not in paths for path in found):
        raise InputError(
            "The layers parameter of robustness_eval.layerwise must name module paths for models other than ResNets. "
            "Got none instead."
        )
    return tuple(found)


def grad_cam_pp_maps(
    model: nn.Module, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, " b"] | None, layers: Sequence[str]
) -> tuple[dict[str, Float[Tensor, "b y x"]], Float[Tensor, "b k"]]:
    """Grad-CAM++ maps of several layers at their own resolution, from one forward and one backward pass.

    `relu(sum_k w_k A_k)`, `w_k = sum relu(g) a`, `a = g^2 / (2 g^2 + g^3 sum A_k)` [Chattopadhay2018].

    Args:
        model: classifier.
        images: (B,C,H,W) in [0,1].
        targets: class of each image; None: the predicted one.
        layers: module paths with outputs (B,K,y,x).

    Returns:
        Layer -> maps, never negative; and the logits.
    """
    with borrow(model), torch.enable_grad(), tap(model, layers) as outputs:
        logits = model(images.detach().clone().requires_grad_())
        chosen = logits.argmax(1) if targets is None else targets
        kept = [outputs[layer] for layer in layers]
        gradients = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), kept)
    maps = {}
    for layer, activation, gradient in zip(layers, kept, gradients):
        a, g = activation.detach(), gradient
        below = 2 * g**2 + g**3 * a.sum((2, 3), keepdim=True)
        alpha = torch.where(below != 0, g**2 / torch.where(below != 0, below, 1), 0)
        maps[layer] = ((g.relu() * alpha).sum((2, 3), keepdim=True) * a).sum(1).relu()
    return maps, logits.detach()


def layerwise_samples(
    model: nn.Module, images: ImageSet, layers: Sequence[str], seed: int, device: str
) -> LayerwiseSamples:
    """Explain every image with its 25 perturbed versions in one batch; the clean one is explained once.

    Args:
        model: classifier.
        images: clean images.
        layers: module paths.
        seed: seed of the run.
        device: where to compute.
    """
    names = list(MRI_LIKE)
    conditions = tuple((name, severity) for name in names for severity in SEVERITIES)
    parts: list[tuple[np.ndarray, ...]] = []
    model = model.to(device)
    with progress(len(images), "layer-wise study") as bar:
        for batch in images.batches(BATCH):
            made = [v for *_, v in versions(batch.images, images.sample_ids[batch.rows], names, seed)]
            stack = torch.stack(made)
            n = len(batch.rows)
            with borrow(model), torch.no_grad():
                targets = model(batch.images.to(device)).argmax(1)
            flat = stack.flatten(0, 1).to(device)
            maps, logits = grad_cam_pp_maps(model, flat, targets.repeat(len(made)), layers)
            moved = torch.stack([_distance(maps[layer].unflatten(0, (len(made), n))) for layer in layers])
            shift = (stack[1:] - stack[:1]).square().mean((2, 3, 4)).sqrt()
            answers = logits.unflatten(0, (len(made), n))
            parts.append(tuple(p.cpu().numpy() for p in (moved, shift, answers)))
            bar.update(n)
    rmse, image_rmse, answers_ = (np.concatenate(p, axis=axis) for p, axis in zip(zip(*parts), (2, 1, 1)))
    return LayerwiseSamples(
        tuple(layers), conditions, rmse, image_rmse, answers_[0], answers_[1:], np.asarray(images.labels)
    )


def _distance(maps: Float[Tensor, "v n y x"]) -> Float[Tensor, "w n"]:
    """RMSE of every version's map to the first one's, each scaled to [0,1]."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    scaled = torch.where(high > low, (maps - low) / (high - low), torch.nan)
    return (scaled[1:] - scaled[:1]).square().mean((2, 3)).sqrt()


def layerwise_metrics(samples: LayerwiseSamples, task: str, seed: int = 0) -> pd.DataFrame:
    """Tables of the study, with 95 % intervals over images.

    Args:
        samples: what was measured.
        task: of the data set.
        seed: seed of the bootstrap.

    Returns:
        Columns layer, corruption, severity, group and METRIC_COLUMNS: `rmse` for all, correctly and incorrectly
        predicted images (by the prediction on the perturbed image); `auroc_loss` (clean minus perturbed AUROC) of
        each condition; for each layer `pearson` and `spearman` between mean RMSE and AUROC loss over the 25
        conditions, and `misclassification_auroc`: how well the RMSE of a version tells that it is misclassified.
    """
    rows: list[tuple[object, ...]] = []
    correct = samples.perturbed.argmax(2) == samples.labels
    for v, (name, severity) in enumerate(samples.conditions):
        groups = {"all": np.ones_like(correct[v]), "correct": correct[v], "incorrect": ~correct[v]}
        for index, layer in enumerate(samples.layers):
            for group, member in groups.items():
                values = samples.rmse[index, v][member]
                defined = int((~np.isnan(values)).sum())
                rows.append((layer, name, severity, group, "rmse", *mean_interval(values, seed=seed), defined))
    resamples = Resamples(samples.labels, seed=seed)
    n = len(samples.labels)
    loss = _losses(samples, task)
    value, spread = loss(once(n))[:, 0], np.concatenate([loss(w) for w in resamples.blocks()], axis=1)
    for v, (name, severity) in enumerate(samples.conditions):
        rows.append(("", name, severity, "all", "auroc_loss", *percentile_interval(value[v], spread[v]), n))
    for index, layer in enumerate(samples.layers):
        for kind in ("pearson", "spearman"):
            found = bootstrap(_correlation(samples.rmse[index], loss, kind), resamples)
            rows.append((layer, "", 0, "all", kind, *found, n))
        found = bootstrap(_misclassification(samples.rmse[index], ~correct), resamples)
        rows.append((layer, "", 0, "all", "misclassification_auroc", *found, n))
    return pd.DataFrame(rows, columns=LAYERWISE_COLUMNS)


def _losses(samples: LayerwiseSamples, task: str) -> Statistic:
    """AUROC clean minus perturbed, (V,b)."""
    made = [Predictions(x, samples.labels, task) for x in (samples.clean, *samples.perturbed)]  # type: ignore[arg-type]

    def loss(weights: np.ndarray) -> np.ndarray:
        areas = np.stack([METRICS["auroc"](Weighted(p, weights)) for p in made])
        return areas[:1] - areas[1:]

    return loss


def _correlation(rmse: Float[np.ndarray, "v n"], loss: Statistic, kind: str) -> Statistic:
    known = np.nan_to_num(rmse)
    defined = (~np.isnan(rmse)).astype(float)

    def correlation(weights: np.ndarray) -> np.ndarray:
        x, y = known @ weights / np.maximum(defined @ weights, 1e-12), loss(weights)
        if kind == "spearman":
            x, y = (pd.DataFrame(v).rank().to_numpy() for v in (x, y))
        x, y = x - x.mean(0), y - y.mean(0)
        below = np.sqrt((x**2).sum(0) * (y**2).sum(0))
        return np.divide((x * y).sum(0), below, out=np.full(below.shape, np.nan), where=below > 0)

    return correlation


def _misclassification(rmse: Float[np.ndarray, "v n"], wrong: np.ndarray) -> Statistic:
    """AUROC of the RMSE for a misclassified version; a replicate draws images, with all of their versions."""
    flat, truth = rmse.ravel(), wrong.ravel()
    kept = ~np.isnan(flat)
    if truth[kept].all() or not truth[kept].any():
        return lambda weights: np.full(weights.shape[1], np.nan)
    ranking = Ranking.of(flat[kept], truth[kept])
    return lambda weights: ranking.auroc(np.tile(weights, (len(rmse), 1))[kept])
