"""All corrected models of a grid in one folder; an interrupted run goes on with the candidates that are missing."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from xai_robustness.attribution.latents import layer_shapes
from xai_robustness.concepts.cav import Cavs
from xai_robustness.datasets.base import ImageSet
from xai_robustness.mitigation.base import (
    Candidate,
    Corrected,
    MaskTable,
    Material,
    Method,
    MitigationParams,
    grid,
    methods_of,
)
from xai_robustness.mitigation.cache import ActivationCache
from xai_robustness.models.checkpoint import load_model, save_model, write_atomically
from xai_robustness.progress import progress
from xai_robustness.spread import spread
from xai_robustness.types import InputError

CANDIDATES, RECORD, TIMING = "candidates.json", "correction.json", "timing.json"
SHARED = ".activations"
Loader = Callable[[], nn.Sequential]
Todo = tuple[Method, list[Candidate]]


@dataclass(frozen=True)
class CorrectionJob:
    """Makes every candidate of a grid.

    Attributes:
        model: the given classifier; not changed.
        description: what built it, the content of its `model.json`.
        train: biased training images.
        val: biased validation images; recorded, never chosen on.
        cavs: concept vectors, or None where no artifact was confirmed.
        masks: artifact masks of training samples, or None.
        params: the grid.
        seed: seed of the run.
        device: where to compute.
        artifact_labels: sample_id and artifact of training samples, or None.
    """

    model: nn.Sequential
    description: Mapping[str, Any]
    train: ImageSet
    val: ImageSet
    cavs: Cavs | None
    masks: MaskTable | None
    params: MitigationParams
    seed: int = 0
    device: str = "cpu"
    artifact_labels: pd.DataFrame | None = None

    def write(self, folder: Path) -> None:
        """Leave one folder a candidate, and `candidates.json`, in `folder`.

        A candidate's folder holds `model.safetensors` and `model.json` unless it failed, and in any case
        `correction.json` and `timing.json` with the seconds that it took; it appears whole or not at all.
        `candidates.json` lists under "candidates" the records of all that were made (Candidate, stopped, collapsed,
        history), and under "absent" those that could not be, with the reason.

        Raises:
            InputError: a layer that the model does not have, masks of another size than the images, or concept vectors
            of another length than their layer has channels.
        """
        folder.mkdir(parents=True, exist_ok=True)
        material = self._material()
        wanted = grid(self.params, self.model)
        _check(material, {candidate.layer for candidate in wanted if candidate.layer})
        absent: dict[str, str] = {}
        todo: list[Todo] = []
        for method in methods_of(self.params):
            left = []
            for candidate in (c for c in wanted if c.method == method.name):
                reason = method.absence(candidate, material)
                if reason is not None:
                    absent[candidate.name] = reason
                elif not (folder / candidate.name / RECORD).exists():
                    left.append(candidate)
            todo.append((method, left))
        self._correct([(method, left) for method, left in todo if left], material, folder)
        made = [_read(folder / c.name / RECORD) for c in wanted if c.name not in absent]
        missing = [{**asdict(c), "reason": absent[c.name]} for c in wanted if c.name in absent]
        write_atomically(folder / CANDIDATES, json.dumps({"candidates": made, "absent": missing}, indent=2) + "\n")

    def _material(self) -> Material:
        masks = self.masks if self.masks is not None else MaskTable.empty()
        artifact = _flags(self.train, self.artifact_labels)
        return Material(self.model, self.train, self.val, self.cavs or Cavs(), masks, self.seed, self.device, artifact)

    def _correct(self, todo: Sequence[Todo], material: Material, folder: Path) -> None:
        """Make and save what is left, here or side by side in several workers."""
        for left in folder.glob(f"{SHARED}*"):
            shutil.rmtree(left)
        parts = list(_parts(todo))
        if len(parts) < 2 or not self.params.workers.several(self.device):
            self._make(todo, material, folder, SHARED)
            return
        with progress(len(parts), "correct", "part") as bar:
            for _ in spread(_make_part, (self, folder), list(enumerate(parts)), self.params.workers, self.device):
                bar.update(1)

    def _make(self, todo: Sequence[Todo], material: Material, folder: Path, shared_name: str) -> None:
        """Make and save candidates; activations that they share are kept on disk meanwhile."""
        layers = sorted({layer for method, left in todo for layer in method.cached_layers(left)})
        shared = folder / shared_name
        if layers and self.params.cache_gigabytes:
            limit = int(self.params.cache_gigabytes * 2**30)
            cache = ActivationCache(self.model, layers, shared, self.device, self.params.eval_batch_size, limit)
            material = replace(material, cache=cache)
        try:
            for method, left in todo:
                started = time.perf_counter()
                for corrected in method.correct(left, material):
                    self._save(corrected, folder, time.perf_counter() - started)
                    started = time.perf_counter()
        finally:
            shutil.rmtree(shared, ignore_errors=True)

    def _save(self, corrected: Corrected, folder: Path, seconds: float) -> None:
        name = corrected.candidate.name
        unfinished = folder / f".partial-{name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        correction = asdict(corrected.candidate)
        if corrected.model is not None:
            save_model(corrected.model, {**self.description, "correction": correction}, unfinished)
        outcome = {"stopped": corrected.stopped, "collapsed": corrected.collapsed, "history": list(corrected.history)}
        write_atomically(unfinished / RECORD, json.dumps({**correction, **outcome}, indent=2) + "\n")
        write_atomically(unfinished / TIMING, json.dumps({"seconds": seconds}) + "\n")
        unfinished.rename(folder / name)


def _parts(todo: Sequence[Todo]) -> Iterator[Todo]:
    """What can be made by itself: the candidates of one method at one layer that share activations, or one alone."""
    for method, left in todo:
        shares = bool(method.cached_layers(left))
        for _, group in groupby(left, key=lambda candidate: candidate.layer if shares else candidate.name):
            yield method, list(group)


def _make_part(shared: tuple[CorrectionJob, Path], item: tuple[int, Todo], device: str) -> None:
    """Make one part in a worker."""
    (given, folder), (number, part) = shared, item
    job = replace(given, device=device)
    job._make([part], job._material(), folder, f"{SHARED}-{number}")


def _check(material: Material, layers: Set[str]) -> None:
    """Refuse masks and concept vectors that do not fit the images and the model."""
    size, masks = material.train.image_shape[1:], material.masks
    if len(masks) and tuple(masks.masks.shape[1:]) != tuple(size):
        raise InputError(
            f"The masks parameter of CorrectionJob must be as large as the images, {size[0]} x {size[1]} pixels. "
            f"Got {' x '.join(map(str, masks.masks.shape[1:]))} instead; localize the artifact in these images again."
        )
    used = [cav for cav in material.cavs if cav.layer in layers]
    shapes = layer_shapes(material.model, material.train.image_shape, sorted({cav.layer for cav in used}))
    for cav in used:
        if len(cav.vector) != shapes[cav.layer][0]:
            raise InputError(
                f"The cavs parameter of CorrectionJob must have {shapes[cav.layer][0]} numbers in layer '{cav.layer}'. "
                f"Got {len(cav.vector)} for '{cav.name}' instead; fit the concept vectors on this model again."
            )


def _flags(train: ImageSet, labels: pd.DataFrame | None) -> np.ndarray | None:
    """Which training images are labelled as carrying the artifact, bool (N,); None where none is."""
    if labels is None:
        return None
    carrying = labels.loc[labels["artifact"].astype(bool), "sample_id"].to_numpy()
    found = np.isin(train.sample_ids, carrying)
    return found if found.any() else None


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class CorrectedModels:
    """The finished folder of a CorrectionJob.

    Attributes:
        folder: the folder.
    """

    folder: Path

    @property
    def records(self) -> list[dict[str, Any]]:
        """One record a candidate that was made: Candidate, stopped, collapsed, history."""
        return _read(self.folder / CANDIDATES)["candidates"]

    @property
    def absent(self) -> list[dict[str, Any]]:
        """One record a candidate that could not be made: Candidate, reason."""
        return _read(self.folder / CANDIDATES)["absent"]

    def candidates(self) -> list[Candidate]:
        """The candidates that have a model, in the order of the report."""
        return [
            Candidate(**{key: record[key] for key in Candidate.__dataclass_fields__})
            for record in self.records
            if record["stopped"] is None
        ]

    def path(self, name: str) -> Path:
        """The folder of one candidate's model."""
        return self.folder / name

    def seconds(self, name: str) -> float:
        """Wall time that making one candidate took; what it shares with others counts for the first of them."""
        return float(_read(self.folder / name / TIMING)["seconds"])

    def load(self, name: str, device: str = "cpu") -> nn.Sequential:
        """One corrected classifier, in evaluation mode."""
        return load_model(self.path(name), device)


def load_corrected(folder: Path) -> dict[str, Loader]:
    """Name -> function that loads the model, for every candidate that has one."""
    corrected = CorrectedModels(folder)
    return {candidate.name: partial(corrected.load, candidate.name) for candidate in corrected.candidates()}
