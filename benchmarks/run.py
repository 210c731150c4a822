"""Side by side with the peers, in one run on the same input: `make bench`, or `python benchmarks/run.py latents`."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from latents import latents
from sweep import sweep

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "torchvision", "captum", "zennit", "scikit-learn")


def paired(ours: Callable[[], object], peer: Callable[[], object], runs: int) -> tuple[list[float], list[float]]:
    """Seconds of both, in turn, after one warm-up each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for run in range(-1, runs):
        for call, kept in zip((ours, peer), seconds):
            started = time.perf_counter()
            call()
            if run >= 0:
                kept.append(time.perf_counter() - started)
    return seconds


def row(case: str, ours: list[float], peer: list[float]) -> dict[str, object]:
    """Medians, and the median of the ratios of neighbouring runs."""
    ratio = statistics.median(p / o for o, p in zip(ours, peer))
    a, b = statistics.median(ours), statistics.median(peer)
    return {"case": case, "ours": round(a, 4), "peer": round(b, 4), "unit": "s", "ratio": round(ratio, 2)}


def ridge(runs: int) -> list[dict[str, object]]:
    """Ridge vectors of ten strengths, 5-fold selection: one decomposition a fold against scikit-learn grid search."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import average_precision_score, make_scorer
    from sklearn.model_selection import GridSearchCV

    from xai_robustness.concepts.cav import fit_cav
    from xai_robustness.concepts.directions import STRENGTHS

    rng = np.random.default_rng(0)
    artifact = rng.random(2000) < 0.2
    x = rng.normal(size=(2000, 512)) + artifact[:, None] * rng.normal(size=512) * 0.2
    signs = np.where(artifact, 1.0, -1.0)
    weights = np.where(artifact, 1 / artifact.sum(), 1 / (~artifact).sum())

    def ours() -> object:
        return fit_cav(x, artifact, "ridge", "layer")

    def peer() -> object:
        scorer = make_scorer(lambda y, s: average_precision_score(y > 0, s))
        search = GridSearchCV(Ridge(), {"alpha": list(STRENGTHS)}, scoring=scorer, cv=5)
        return search.fit(x, signs, sample_weight=weights)

    return [row("ridge vector, 2000 x 512, 10 strengths", *paired(ours, peer, runs))]


def attribution_set(runs: int) -> list[dict[str, object]]:
    """The 16 configurations of the published attribution set, all at once, against captum one after another.

    At 224 pixels, where captum alone needs minutes, once.
    """
    from attribution_set import rows

    return [*rows(runs), *rows(1, ("224",))]


def corruptions(runs: int) -> list[dict[str, object]]:
    """MedMNIST-C's corruptions at 224 pixels against medmnistc; see corruptions.py."""
    from corruptions import run

    return run(runs)


def concepts(runs: int) -> list[dict[str, object]]:
    """SpRAy on 10,000 latents against CoRelAy, concept vectors against a grid of linear SVMs; see concepts.py."""
    from concepts import run

    return run(runs)


def agreement(runs: int) -> list[dict[str, object]]:
    """Explanations of clean and corrupted images in one job, against pair after pair, once; see agreement.py."""
    from agreement import rows

    return rows()


TOPICS = {
    "agreement": agreement,
    "concepts": concepts,
    "latents": latents,
    "ridge": ridge,
    "sweep": sweep,
    "attribution_set": attribution_set,
    "corruptions": corruptions,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topics", nargs="*", default=[], help=f"of {', '.join(TOPICS)}; all by default")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for topic in given.topics or TOPICS:
        rows = TOPICS[topic](given.runs)
        machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        versions = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
        RESULTS.mkdir(exist_ok=True)
        record = {"machine": machine, "versions": versions, "runs": given.runs, "rows": rows}
        (RESULTS / f"{topic}.json").write_text(json.dumps(record, indent=1) + "\n")
        print(f"{'case':58} {'ours s':>9} {'peer s':>9} {'ratio':>7}")
        for r in rows:
            print(f"{r['case']:58} {r['ours']:9} {r['peer']:9} {r['ratio']:7}")


if __name__ == "__main__":
    main()
