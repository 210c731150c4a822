"""All corrected models of a grid in one folder; an interrupted run goes on with the candidates that are missing."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from xai_robustness.concepts.cav import Cavs
from xai_robustness.datasets.base import ImageSet
from xai_robustness.mitigation.base import (
    Candidate,
    Corrected,
    MaskTable,
    Material,
    MitigationParams,
    grid,
    methods_of,
)
from xai_robustness.models.checkpoint import load_model, save_model, write_atomically

CANDIDATES, RECORD = "candidates.json", "correction.json"
Loader = Callable[[], nn.Sequential]


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

    def write(self, folder: Path) -> None:
        """Leave one folder a candidate, and `candidates.json`, in `folder`.

        A candidate's folder holds `model.safetensors` and `model.json` unless it failed, and `correction.json` in any
        case; it appears whole or not at all. `candidates.json` lists under "candidates" the records of all that were
        made (Candidate, stopped, collapsed, history), and under "absent" those that could not be, with the reason.

        Raises:
            InputError: a layer that the model does not have.
        """
        folder.mkdir(parents=True, exist_ok=True)
        masks = self.masks if self.masks is not None else MaskTable.empty()
        device = self.device
        material = Material(self.model, self.train, self.val, self.cavs or Cavs(), masks, self.seed, device)
        wanted = grid(self.params, self.model)
        absent: dict[str, str] = {}
        for method in methods_of(self.params):
            todo = []
            for candidate in (c for c in wanted if c.method == method.name):
                reason = method.absence(candidate, material)
                if reason is not None:
                    absent[candidate.name] = reason
                elif not (folder / candidate.name / RECORD).exists():
                    todo.append(candidate)
            for corrected in method.correct(todo, material) if todo else ():
                self._save(corrected, folder)
        made = [_read(folder / c.name / RECORD) for c in wanted if c.name not in absent]
        missing = [{**asdict(c), "reason": absent[c.name]} for c in wanted if c.name in absent]
        write_atomically(folder / CANDIDATES, json.dumps({"candidates": made, "absent": missing}, indent=2) + "\n")

    def _save(self, corrected: Corrected, folder: Path) -> None:
        name = corrected.candidate.name
        unfinished = folder / f".partial-{name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        correction = asdict(corrected.candidate)
        if corrected.model is not None:
            save_model(corrected.model, {**self.description, "correction": correction}, unfinished)
        outcome = {"stopped": corrected.stopped, "collapsed": corrected.collapsed, "history": list(corrected.history)}
        write_atomically(unfinished / RECORD, json.dumps({**correction, **outcome}, indent=2) + "\n")
        unfinished.rename(folder / name)


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

    def load(self, name: str, device: str = "cpu") -> nn.Sequential:
        """One corrected classifier, in evaluation mode."""
        return load_model(self.path(name), device)


def load_corrected(folder: Path) -> dict[str, Loader]:
    """Name -> function that loads the model, for every candidate that has one."""
    corrected = CorrectedModels(folder)
    return {candidate.name: partial(corrected.load, candidate.name) for candidate in corrected.candidates()}
