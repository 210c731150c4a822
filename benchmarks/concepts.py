"""SpRAy on 10,000 latents against CoRelAy, and concept vectors against a 10 x 5 grid of linear SVMs.

CoRelAy runs in an environment of its own, made here by pip with pinned versions (`data/bench_corelay`). Each side of a
run is a process of its own on the same features, in turn; memory is the growth of its largest resident set while it
computes. Concept vectors: the peer is scikit-learn's grid search over ten C and five folds by average precision, whose
liblinear keeps its default tolerance and limit of iterations; `cosine` compares our vector with the peer's. One fit
each, in processor seconds.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import venv
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

PINNED = (
    *("corelay==1.0.0", "numpy==2.4.6", "scipy==1.17.1", "scikit-learn==1.9.1", "scikit-image==0.26.0"),
    *("h5py==3.16.0", "matplotlib==3.11.2", "metrohash-python==1.1.3.3"),
)
FOLDER = Path("data") / "bench_corelay"
SIDE = Path(__file__).parent / "spray_side.py"
LATENTS, CHANNELS = 10_000, 512
CAV_CASES = ((300, 512, 0.3), (1000, 256, 0.15))
"""Samples, channels and how far the artifact moves a channel, in standard deviations."""


def run(runs: int) -> list[dict[str, object]]:
    import torch

    torch.set_num_threads(1)
    return [*spray(runs), *(row for case in CAV_CASES for row in cavs(*case))]


def corelay_python() -> Path:
    """The interpreter of the peer's environment, made once."""
    python = FOLDER / "venv" / "bin" / "python"
    if not (FOLDER / "made.json").exists():
        venv.create(FOLDER / "venv", with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PINNED], check=True)
        (FOLDER / "made.json").write_text(json.dumps(PINNED))
    return python


def make_latents() -> np.ndarray:
    """Shares of relevance of 12 kinds of samples of unequal size, float64 (10000,512)."""
    rng = np.random.default_rng(0)
    kind = rng.choice(12, LATENTS, p=rng.dirichlet(np.full(12, 2.0)))
    relevance = rng.gamma(0.5, size=(12, CHANNELS))[kind] + rng.gamma(0.5, size=(LATENTS, CHANNELS))
    return relevance / relevance.sum(1, keepdims=True)


def spray(runs: int) -> list[dict[str, object]]:
    """Neighbour graph, 32 eigenpairs and KMeans: time and memory of both sides, and how far the results agree."""
    pythons = {"ours": Path(sys.executable), "peer": corelay_python()}
    features = FOLDER / "features.npy"
    found: dict[str, list[dict]] = {"ours": [], "peer": []}
    np.save(features, make_latents())
    for _ in range(runs):
        for side, python in pythons.items():
            arguments = [str(python), str(SIDE), side, str(features), str(FOLDER / f"{side}.npz")]
            done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=_environment(side))
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    both = [np.load(FOLDER / f"{side}.npz") for side in found]
    case = f"SpRAy, {LATENTS} latents of {CHANNELS} channels"
    rows = []
    for key, unit, scale in (("seconds", "s", 1), ("processor", "processor s", 1), ("bytes", "MB", 1e6)):
        ours, peer = ([one[key] / scale for one in found[side]] for side in found)
        ratio = round(statistics.median(p / o for o, p in zip(ours, peer)), 2)
        medians = {"ours": round(statistics.median(ours), 2), "peer": round(statistics.median(peer), 2)}
        rows.append({"case": f"{case}, {unit}", **medians, "unit": unit, "ratio": ratio})
    gap = np.abs(both[0]["values"] - both[1]["values"]).max()
    return [rows[0] | {"largest_difference_of_eigenvalues": float(gap), "same_clusters": _rand(*both)}, *rows[1:]]


def _environment(side: str) -> dict[str, str]:
    kept = dict(os.environ) | {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    if side == "peer":
        kept.pop("PYTHONPATH", None)
    return kept


def _rand(ours: np.lib.npyio.NpzFile, peer: np.lib.npyio.NpzFile) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(ours["labels"], peer["labels"]))


def cavs(n: int, k: int, shift: float) -> list[dict[str, object]]:
    """One fit of each kind, and one grid search; processor seconds."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import LinearSVC

    from xai_robustness.concepts.cav import fit_cav
    from xai_robustness.concepts.directions import STRENGTHS
    from xai_robustness.concepts.labelled import stratified_folds

    rng = np.random.default_rng(n)
    artifact = rng.random(n) < 0.2
    x = rng.gamma(1.0, size=(n, k)) @ np.linalg.qr(rng.normal(size=(k, k)))[0]
    x += artifact[:, None] * rng.normal(size=k) * shift
    standard = (x - x.mean(0)) / np.sqrt(np.mean((x - x.mean(0)) ** 2))
    svm = LinearSVC(class_weight="balanced", random_state=0)
    grid = GridSearchCV(
        svm, {"C": list(1 / STRENGTHS)}, scoring="average_precision", cv=stratified_folds(artifact), n_jobs=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds, _ = _processor(lambda: grid.fit(standard, artifact))
    theirs = grid.best_estimator_.coef_[0]
    rows: list[dict[str, object]] = []
    for kind in ("signal", "ridge", "svm"):
        fit_cav(x, artifact, kind, "layer")
        spent, cav = _processor(partial(fit_cav, x, artifact, kind, "layer"))
        row: dict[str, object] = {
            "case": f"{kind} vector, {n} x {k}",
            "ours": round(spent, 4),
            "peer": round(seconds, 4),
        }
        row |= {"unit": "processor s", "ratio": round(seconds / spent, 2)}
        rows.append(row | {"cosine": round(float(cav.vector @ theirs / np.linalg.norm(theirs)), 5)})
    return rows


def _processor(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = call()
    return time.process_time() - started, result
