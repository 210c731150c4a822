"""The studies of the mitigation benchmark, each an environment of its own in a scratch Kedro project; resumable."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ("phantom", "breastmnist", "pneumoniamnist")
ARTIFACTS = ("ruler", "timestamp", "band_aid", "dark_corner", "brightness")
RATES = (0.5, 0.25, 0.1)
MODELS = ("resnet18", "vgg11")
SEEDS = (0, 1, 2)
TABLES = ("correction_metrics.csv", "relevance_metrics.csv", "tcav_metrics.csv", "localization_metrics.csv")
RESULTS = (*TABLES, "selection.json", "verdict.json")
OPT_IN = ("a_clarc", "dfr", "group_dro", "jtt", "cdep")


@dataclass(frozen=True)
class Cell:
    """One study: data set, artifact of class 0, its rate in training, architecture and seed."""

    study: str
    artifact: str
    rate: float
    model: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.study}-{self.artifact}-{100 * self.rate:g}-{self.model}-{self.seed}"


def cells(studies: tuple[str, ...] | list[str]) -> Iterator[Cell]:
    """All cells: seed by seed, architecture by architecture, the highest rate first, then study by study."""
    for seed, model, rate, study, artifact in product(SEEDS, MODELS, RATES, studies, ARTIFACTS):
        yield Cell(study, artifact, rate, model, seed)


def parameters(cell: Cell, device: str) -> dict[str, Any]:
    """The study's own file, with the cell's artifact and model, every inspected layer and the opt-in methods."""
    own = ROOT / "conf" / cell.study / "parameters.yml"
    found = yaml.safe_load(own.read_text()) if own.exists() else {}
    found["device"] = device
    own_place = found.get("artifact", {}) if cell.artifact == found.get("artifact", {}).get("kind") else {}
    found["artifact"] = own_place | {"kind": cell.artifact, "rate": cell.rate, "attacked_classes": [0]}
    if cell.model != found.get("model", {}).get("name"):
        found["model"] = {"name": cell.model}
    grid = found.setdefault("mitigation", {})
    for method in ("rr_clarc", "p_clarc", "reactive_p_clarc"):
        grid.setdefault(method, {})["layers"] = []
    for method in OPT_IN:
        grid.setdefault(method, {})["enabled"] = True
    grid["a_clarc"]["layers"] = []
    return found


def run(cell: Cell, root: Path, device: str = "cpu", keep: bool = False) -> Path:
    """Run the chain up to the verdict for a cell, unless it was; returns the folder with its tables.

    No figures are drawn and no run is tracked.

    What an interrupted cell has finished is used again. Models and activations of a finished one are removed.
    """
    results = root / "cells" / cell.name
    if (results / "cell.json").exists():
        return results
    project = _project(root.resolve())
    conf = project / "conf" / cell.name
    conf.mkdir(exist_ok=True)
    (conf / "globals.yml").write_text(yaml.safe_dump({"study": cell.name, "seed": cell.seed}))
    (conf / "parameters.yml").write_text(yaml.safe_dump(parameters(cell, device)))
    paths = {"PYTHONPATH": os.pathsep.join([str(project / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])}
    outputs = ",".join(Path(name).stem for name in RESULTS)
    command = [sys.executable, "-m", "kedro", "run", "--env", cell.name, "--to-outputs", outputs]
    subprocess.run(command, cwd=project, env=os.environ | paths, check=True)
    _collect(cell, project, results)
    if not keep:
        for layer in (project / "data").glob("0*"):
            shutil.rmtree(layer / cell.name, ignore_errors=True)
    return results


def _project(root: Path) -> Path:
    """A Kedro project with the code and the base configuration of this one; Kedro follows no link out of a project."""
    project = root / "project"
    (project / "conf").mkdir(parents=True, exist_ok=True)
    for name in ("pyproject.toml", "conf/logging.yml"):
        shutil.copy(ROOT / name, project / name)
    for name in ("src", "conf/base"):
        shutil.copytree(ROOT / name, project / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "conf" / "base" / "mlflow.yml").write_text("enabled: false\n")
    return project


def _newest(folder: Path) -> Path:
    """The newest version of a versioned data set."""
    return max(p for p in folder.iterdir() if not p.name.startswith("."))


def _collect(cell: Cell, project: Path, results: Path) -> None:
    """Keep the tables, the selection, the verdict and the seconds of every candidate."""
    results.mkdir(parents=True, exist_ok=True)
    reports = project / "data" / "08_reporting" / cell.name / f"seed_{cell.seed}"
    for name in RESULTS:
        shutil.copy(_newest(reports / name) / name, results / name)
    models = project / "data" / "06_models" / cell.name / f"seed_{cell.seed}" / "corrected_classifiers"
    seconds = {p.parent.name: json.loads(p.read_text())["seconds"] for p in models.glob("*/**/timing.json")}
    (results / "cell.json").write_text(json.dumps({"cell": cell.name, "seconds": seconds}))


def table_of(results: Path, name: str) -> pd.DataFrame:
    """One of the TABLES of a finished cell."""
    return pd.read_csv(results / name)
