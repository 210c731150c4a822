"""Attribution sets: many methods on the same images under noise, in one resumable store [EnsembleStrategies]."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import zarr
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS
from xai_robustness.attribution.probe import PreflightParams, Trial, measure_all
from xai_robustness.attribution.set_params import AttributionSetParams, MethodSpec
from xai_robustness.attribution.set_rows import Described, Explained, MeanImages
from xai_robustness.chunks import ArraysJob, ChunkStream
from xai_robustness.datasets.base import ImageSet
from xai_robustness.types import InputError

DECORRELATED = "_decorrelated"
"""Ends the noise's name in the groups whose methods explain a model of their own each."""


def families(specs: Sequence[MethodSpec]) -> list[list[MethodSpec]]:
    """Methods that share a gradient in one list, every other one alone: the units of resuming, beside the chunks."""
    sharing = [spec for spec in specs if getattr(ATTRIBUTORS[spec.method], "uses_gradient", False)]
    return ([sharing] if sharing else []) + [[spec] for spec in specs if spec not in sharing]


def attribution_job(
    model: nn.Module,
    parts: Sequence[nn.Module],
    images: Mapping[str, ImageSet],
    mean_image: Tensor,
    params: AttributionSetParams,
    sizes: Mapping[str, int],
    seed: int,
    device: str,
    attributes: Mapping[str, Any],
) -> ArraysJob:
    """A lazy job that writes an attribution set; an interrupted one goes on by method and chunk.

    Args:
        model: classifier of the study.
        parts: one model for each of `params.decorrelated`.
        images: `<split>/<condition>` -> images, as `chosen` gives them.
        mean_image: (C,H,W) mean of the training images, for methods that compare with it.
        params: methods, noises, target, dtype.
        sizes: key of the method -> batch size.
        seed: seed of the run, of the noise and of methods that draw.
        device: where to compute.
        attributes: kept with the store, beside the methods.

    Returns:
        Groups `<split>/<condition>/<noise>` with `images` float32 (N,C,H,W), `labels`, `sample_ids`, `logits` float32
        (N,K), `mean_images` float32 (1+K,C,H,W), and for each method `attributions/<key>` (N,C,H,W), or (N,1,H,W) for
        heatmaps, and for float16 `scales/<key>` float32 (N,). Groups `<split>/<condition>/<noise>_decorrelated` hold
        the attributions, `logits/<key>` and `targets/<key>` of the methods with a model each.
    """
    streams: dict[str, ChunkStream] = {}
    common = (params, mean_image, sizes, seed, device)
    for name, part in images.items():
        n, chunk = len(part), params.chunk
        for noise in params.noises:
            group = f"{name}/{noise}"
            streams[group] = ChunkStream(n, Described(model, part, noise, params, seed, device), chunk)
            rows = 1 + part.info.n_classes
            streams[f"{group}/means"] = ChunkStream(rows, MeanImages(part, noise, seed, chunk), rows, group)
            for family in families(params.methods):
                compute = Explained(model, part, family, noise, *common)
                streams[f"{group}/{family[0].key}"] = ChunkStream(n, compute, chunk, group)
            for own, spec in zip(parts, params.decorrelated):
                compute = Explained(own, part, [spec], noise, *common, own_logits=True)
                streams[f"{group}{DECORRELATED}/{spec.key}"] = ChunkStream(n, compute, chunk, group + DECORRELATED)
    told = {"methods": {spec.key: spec.model_dump() for spec in [*params.methods, *params.decorrelated]}}
    return ArraysJob(streams, {**told, **attributes}, "explain by all methods")


def probe_sizes(
    model: nn.Module,
    images: ImageSet,
    mean_image: Tensor,
    params: AttributionSetParams,
    preflight: PreflightParams,
    device: str,
) -> dict[str, Any]:
    """Batch sizes of all methods of an attribution set, with what they rest on, as `probe.measure_all` reports it."""
    trials: dict[str, Trial] = {}
    for spec in [*params.methods, *params.decorrelated]:
        trials[spec.key] = Explained(model, images, [spec], "clean", params, mean_image, {}, 0, device).trial
    floor = 4 * int(np.prod(images.image_shape))
    return measure_all(trials, torch.device(device), preflight, params.chunk, floor)


def sizes_of(report: Mapping[str, Any]) -> dict[str, int]:
    """Key of the method -> batch size, from a report."""
    return {key: int(measured["batch_size"]) for key, measured in report.get("methods", {}).items()}


class AttributionSet:
    """Reader of an attribution set; arrays are read when asked for.

    Args:
        root: the opened store.
    """

    def __init__(self, root: zarr.Group) -> None:
        self.root = root

    @property
    def groups(self) -> tuple[str, ...]:
        """`<split>/<condition>/<noise>` of every group, in the store's order of names."""
        found = []
        for split, conditions in self.root.groups():
            for condition, noises in conditions.groups():
                found += [f"{split}/{condition}/{noise}" for noise, _ in noises.groups()]
        return tuple(sorted(found))

    def methods(self, group: str) -> tuple[str, ...]:
        """Keys of the methods in a group, in the order of the parameters."""
        listed: Any = self.root.attrs.get("methods", {})
        return tuple(key for key in listed if f"{group}/attributions/{key}" in self.root)

    def read(self, group: str, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Rows of an array of a group: images, labels, sample_ids, logits, mean_images, ….

        Raises:
            InputError: no such array.
        """
        path = f"{group}/{name}"
        if path not in self.root:
            raise InputError(f"The attribution set must hold '{path}'. It has the groups {', '.join(self.groups)}.")
        return np.asarray(self.root[path][rows])  # type: ignore[index]

    def attributions(self, group: str, key: str, rows: slice = slice(None)) -> Float[np.ndarray, "n c h w"]:
        """Attributions of a method in their own unit, float32 (N,C,H,W), or (N,1,H,W) for heatmaps."""
        values = self.read(group, f"attributions/{key}", rows).astype(np.float32)
        if f"{group}/scales/{key}" in self.root:
            values *= self.read(group, f"scales/{key}", rows).reshape(-1, *[1] * (values.ndim - 1))
        return values


def gallery_columns(found: AttributionSet, n: int = 4) -> dict[str, Any]:
    """What the gallery shows: n samples of the first image set, from all classes, under every noise condition.

    Args:
        found: the attribution set.
        n: samples; each gives a column a noise condition.

    Returns:
        Arguments of `figures.gallery.gallery`.
    """
    plain = [group for group in found.groups if not group.endswith(DECORRELATED)]
    plain = [group for group in plain if group.rpartition("/")[0] == plain[0].rpartition("/")[0]]
    if not plain:
        return {"images": [], "attributions": {}}
    rows = _from_all_classes(found.read(plain[0], "labels"), n)
    columns = [(row, group) for row in rows for group in plain]
    names: Any = found.root.attrs.get("class_names", [])
    told = [_told(found, group, row, names) for row, group in columns]
    attributions: dict[str, np.ndarray] = {}
    for suffix, mark in (("", ""), (DECORRELATED, ", own model")):
        for key in found.methods(plain[0] + suffix):
            cells = [found.attributions(group + suffix, key, slice(row, row + 1)) for row, group in columns]
            attributions[key + mark] = np.concatenate(cells)
    return {
        "images": np.concatenate([found.read(group, "images", slice(row, row + 1)) for row, group in columns]),
        "attributions": attributions,
        "titles": [title for title, _ in told],
        "correct": [right for _, right in told],
    }


def _from_all_classes(labels: np.ndarray, n: int) -> list[int]:
    """Up to n row numbers, going round the classes in turn."""
    classes = labels if labels.ndim == 1 else labels.argmax(1)
    rank = np.zeros(len(labels), dtype=int)
    for value in np.unique(classes):
        rank[classes == value] = np.arange((classes == value).sum())
    return [int(row) for row in np.lexsort((classes, rank))[:n]]


def _told(found: AttributionSet, group: str, row: int, names: Sequence[str]) -> tuple[str, bool]:
    """Noise, prediction with its probability, and truth of one sample; whether the prediction is right."""
    logits = torch.from_numpy(found.read(group, "logits", slice(row, row + 1)))[0]
    label = found.read(group, "labels", slice(row, row + 1))[0]
    predicted = int(logits.argmax())
    right = bool(label[predicted]) if np.ndim(label) else predicted == int(label)
    share = float((logits.sigmoid() if np.ndim(label) else logits.softmax(0))[predicted])
    name = names[predicted] if predicted < len(names) else str(predicted)
    return f"{group.rpartition('/')[2]}\n{name[:10]}\np = {share:.2f}", right
