"""Every split in three versions: clean, biased (as trained), attacked (the artifact in every sample)."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd

from xai_robustness.artifacts.insertion import ArtifactParams, AttackPlan, insert_artifact, plan
from xai_robustness.chunks import ArraysJob, ChunkStream, Compute, Rows
from xai_robustness.datasets.base import EXTRA, ImageSet, take
from xai_robustness.datasets.load import RawSplit
from xai_robustness.pipelines.data_ingest.real import RealVersions, real_truth
from xai_robustness.types import Split

CHUNK = 512
FIT = ("train/biased", "val/biased")
SELECT = ("val/clean", "val/attacked")
REPORT = ("test/clean", "test/biased", "test/attacked")
CONTROL = ("train/clean", "train/attacked")


def raw_job(raw: Mapping[Split, RawSplit]) -> ArraysJob:
    """Store of the untouched splits, groups `<split>/raw`."""
    streams = {f"{split}/raw": ChunkStream(len(part.labels), _raw_rows(part), CHUNK) for split, part in raw.items()}
    return ArraysJob(streams, {"info": asdict(next(iter(raw.values())).info)}, "load images")


def _raw_rows(part: RawSplit) -> Compute:
    def compute(start: int, stop: int) -> Rows:
        rows = {"images": part.images, "labels": part.labels, "sample_ids": part.sample_ids}
        if part.lesion_masks is not None:
            rows["lesion_masks"] = part.lesion_masks
        rows |= {f"{EXTRA}{name}": values for name, values in part.extras.items()}
        return {key: value[start:stop] for key, value in rows.items()}

    return compute


def plans(raw: Mapping[str, ImageSet], params: ArtifactParams, seed: int) -> dict[str, AttackPlan]:
    """Which samples of each raw split carry the artifact in the biased version; backdoor flips in training alone."""
    made = {}
    for key, part in raw.items():
        split = key.partition("/")[0]
        flips = split == "train"
        made[split] = plan(part.labels, part.sample_ids, params, part.info.n_classes, seed, flips)
    return made


def version_job(
    raw: Mapping[str, ImageSet], versions: tuple[str, ...], params: ArtifactParams, seed: int, told: bool
) -> ArraysJob:
    """Store of the named versions.

    Args:
        raw: the untouched splits, `<split>/raw`.
        versions: groups to write, `<split>/<condition>`.
        params: the artifact.
        seed: seed of the run.
        told: keep `has_artifact` and the true `masks`; False for what models are fitted on.
    """
    info = next(iter(raw.values())).info
    if params.is_real:
        return ArraysJob(_real_streams(raw, versions, params, seed, told), {"info": asdict(info)}, "cut and paste")
    planned = plans(raw, params, seed)
    streams = {}
    for version in versions:
        split, condition = version.split("/")
        part = raw[f"{split}/raw"]
        compute = _version_rows(part, condition, planned[split], params, seed, told)
        streams[version] = ChunkStream(len(part), compute, CHUNK)
    return ArraysJob(streams, {"info": asdict(info)}, "insert artifacts")


def _real_streams(
    raw: Mapping[str, ImageSet], versions: tuple[str, ...], params: ArtifactParams, seed: int, told: bool
) -> dict[str, ChunkStream]:
    real = RealVersions(raw, params, seed)

    def rows_of(split: str, condition: str) -> Compute:
        return lambda start, stop: real.compute(split, condition, start, stop, told)

    streams = {}
    for version in versions:
        split, condition = version.split("/")
        streams[version] = ChunkStream(len(real.rows(split, condition)), rows_of(split, condition), CHUNK)
    return streams


def _version_rows(
    part: ImageSet, condition: str, planned: AttackPlan, params: ArtifactParams, seed: int, told: bool
) -> Compute:
    where = {
        "clean": np.zeros(len(part), bool),
        "biased": planned.has_artifact,
        "attacked": np.ones(len(part), bool),
    }[condition]
    labels = planned.labels if condition == "biased" else part.labels

    def compute(start: int, stop: int) -> Rows:
        rows = slice(start, stop)
        peaks = part.extras["r_peaks"][rows] if "r_peaks" in part.extras else None
        images, masks = insert_artifact(
            take(part.images, rows), part.sample_ids[rows], where[rows], params, seed, peaks
        )
        arrays: dict[str, np.ndarray] = {
            "images": images,
            "labels": labels[rows],
            "sample_ids": part.sample_ids[rows],
        }
        if told:
            arrays |= {"has_artifact": where[rows], "masks": masks}
        if part.lesion_masks is not None:
            arrays["lesion_masks"] = take(part.lesion_masks, rows)
        return arrays

    return compute


def mask_job(raw: Mapping[str, ImageSet], params: ArtifactParams, seed: int) -> ArraysJob:
    """True masks of the artifact in the biased training and validation images."""
    job = version_job(raw, FIT, params, seed, told=True)

    def masks_only(stream: ChunkStream) -> ChunkStream:
        def compute(start: int, stop: int) -> Rows:
            rows = stream.compute(start, stop)
            return {key: rows[key] for key in ("masks", "sample_ids")}

        return ChunkStream(stream.n, compute, stream.chunk)

    return ArraysJob({key: masks_only(s) for key, s in job.streams.items()}, {}, "store masks")


def truth_table(raw: Mapping[str, ImageSet], params: ArtifactParams, seed: int) -> pd.DataFrame:
    """The oracle's knowledge of training and validation samples: sample_id, split, class, artifact.

    For multi-label tasks the class is the first attacked one that the sample has, else its first label.
    """
    if params.is_real:
        return real_truth(raw, params)
    planned = plans(raw, params, seed)
    parts = [
        pd.DataFrame(
            {
                "sample_id": raw[f"{split}/raw"].sample_ids,
                "split": split,
                "class": _one_class(planned[split].labels, params.attacked_classes),
                "artifact": planned[split].has_artifact,
            }
        )
        for split in ("train", "val")
    ]
    return pd.concat(parts, ignore_index=True)


def _one_class(labels: np.ndarray, attacked: list[int]) -> np.ndarray:
    if labels.ndim == 1:
        return labels
    order = [*attacked, *(c for c in range(labels.shape[1]) if c not in attacked)]
    return np.array(order)[labels[:, order].argmax(axis=1)]
