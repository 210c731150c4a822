"""How well concept vectors find the samples with an artifact, and for how many labels: `make bench-retrieval`.

Every cell (study, artifact, seed; class 0 carries the artifact at one rate, 0.3) trains a classifier, explains it, and
calls the nodes of sample_retrieval: vectors of every kind in every layer, of activations and of relevances, fitted on
the true artifact labels of train, with every baseline, chosen on val, judged on test; and the label effort, which
starts from the suspects that reveal finds. Each cell is kept on disk, so that an interrupted benchmark goes on where it
stopped. `--limit` stops after so many cells of each study; the results name what was run. `--effort-of` measures the
label effort alone, on the cells that the reveal benchmark has judged, on whose seeds no part of the refinement was
chosen.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from records import write_record
from retrieval_tables import RANDOM_ALL, TEST, chosen_of, effort_rows, metric_rows
from reveal_cells import ARTIFACTS, SETS, STUDIES, Cell, images_of, latents_of, prepare
from reveal_cells import cells as reveal_cells

from xai_robustness.attribution.latents import Latents
from xai_robustness.concepts.cav import BASELINES, CavParams
from xai_robustness.concepts.directions import CAV_KINDS
from xai_robustness.concepts.params import RetrievalParams
from xai_robustness.concepts.refinement import RANDOM, EffortParams, Refiner, ReportSet, label_curve, whitenings
from xai_robustness.concepts.samples import sample_table
from xai_robustness.concepts.spectral import RevealParams, find_suspects
from xai_robustness.concepts.transplant_list import list_suspects
from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.ranking import Ranking
from xai_robustness.models.checkpoint import load_model
from xai_robustness.pipelines.sample_retrieval.nodes import (
    choose_vector,
    fit_concept_vectors,
    measure_effort,
    score_samples,
)
from xai_robustness.randomness import numpy_rng

RESULTS = Path(__file__).parent / "results" / "retrieval.json"
EFFORT_RESULTS = Path(__file__).parent / "results" / "label_effort.json"
RATE = 0.3
SEEDS = (0, 1, 2)
PARAMS = RetrievalParams(
    cavs=CavParams(kinds=tuple(CAV_KINDS), features=("activations", "relevances"), baselines=BASELINES),
    effort=EffortParams(repeats=5),
)
REVEAL = RevealParams()
EVERYWHERE = EffortParams(repeats=5, n_seeds=20, batch=20, max_labels=200)
"""Random labelling that knows no suspect and draws from all classes, in larger steps and for longer."""


def cells(study: str) -> list[Cell]:
    """Every artifact of every seed, seed by seed."""
    return [Cell(study, kind, RATE, seed) for seed in SEEDS for kind in ARTIFACTS]


def oracle_labels(latents: Latents, truth: pd.DataFrame) -> pd.DataFrame:
    """What `refine_labels` says when every sample of the classes with the artifact was looked at, in train and val."""
    labels = sample_table(latents, ("train", "val")).merge(truth, on="sample_id")
    looked_at = labels["class"].isin(labels.loc[labels["artifact"] & (labels["split"] == "train"), "class"])
    labels["source"] = np.where(looked_at, "reviewed", "assumed")
    return labels[looked_at | (labels["split"] == "train")].reset_index(drop=True)


def measure(cell: Cell, folder: Path, device: str) -> tuple[dict, pd.DataFrame]:
    """Chosen vector and label effort of a cell, and the metrics of all vectors; kept beside its latents."""
    kept, table, curves = (folder / name for name in ("retrieval.json", "retrieval_metrics.csv", "label_curves.csv"))
    if kept.exists():
        return json.loads(kept.read_text()), pd.read_csv(table)
    latents, images = latents_of(folder), images_of(cell)
    truth = truth_of(images)
    labels = oracle_labels(latents, truth)
    cavs = fit_concept_vectors(labels, latents, PARAMS, cell.name, cell.seed)
    scores, metrics = score_samples(latents, latents, cavs, labels, images, PARAMS, cell.seed)
    chosen = choose_vector(latents, cavs, labels, cell.seed)
    effort, about = effort_of(cell, folder, latents, truth, images, device)
    found: dict[str, object] = {"cell": cell.name, **json.loads((folder / "finished.json").read_text())}
    for split in ("train", "val", "test"):
        artifact = images[f"{split}/biased"].has_artifact
        assert artifact is not None
        found[f"{split}_carriers"] = int(artifact.sum())
    found |= {"test_samples": len(images["test/biased"])} | chosen_of(metrics, chosen)
    found["in_class"] = in_class(scores, labels, "{layer}/{kind}".format(**chosen))
    metrics.to_csv(table, index=False)
    effort.to_csv(curves, index=False)
    kept.write_text(json.dumps(found | about), encoding="utf-8")
    return found | about, metrics


def truth_of(images: dict[str, ImageSet]) -> pd.DataFrame:
    """Which samples of train and val carry the artifact."""
    parts = [pd.DataFrame({"sample_id": images[k].sample_ids, "artifact": images[k].has_artifact}) for k in SETS[:2]]
    return pd.concat(parts, ignore_index=True)


def in_class(scores: pd.DataFrame, labels: pd.DataFrame, name: str) -> dict[str, float]:
    """AUROC and average precision of a vector on test samples of the classes that it was fitted on."""
    classes = labels.loc[labels["source"] == "reviewed", "class"].unique()
    own = scores[(scores["split"] == "test") & scores["class"].isin(classes)]
    ranking = Ranking.of(own[name].to_numpy(float), own["artifact"].to_numpy(bool))
    once = np.ones((len(own), 1))
    found = {"auroc": ranking.auroc(once), "average_precision": ranking.average_precision(once)}
    return {key: float(value[0]) for key, value in found.items()} | {"n": len(own)}


def effort_of(
    cell: Cell, folder: Path, latents: Latents, truth: pd.DataFrame, images: dict[str, ImageSet], device: str
) -> tuple[pd.DataFrame, dict[str, object]]:
    """Curves of every strategy, and the labels of every repeat until the target is reached (None: it never was)."""
    if (folder / "members.csv").exists():  # of the reveal benchmark
        suspects, members = (pd.read_csv(folder / f"{name}.csv") for name in ("list", "members"))
    else:
        clusters, members, _ = find_suspects(latents, REVEAL, cell.seed)
        images_fit, model = images["train/biased"], load_model(folder)
        listed = list_suspects(clusters, members, latents, model, images_fit, REVEAL, cell.seed, device)
        suspects, members = listed.suspects, listed.members
    curves, _, _ = measure_effort(suspects, members, latents, latents, truth, images, PARAMS, cell.seed)
    curves = pd.concat([curves, random_everywhere(cell, latents, truth, images["test/biased"])], ignore_index=True)
    labels = {}
    for strategy in (*PARAMS.effort.strategies, RANDOM, RANDOM_ALL):
        own = curves[curves["strategy"] == strategy]
        there = own[own["average_precision"] >= PARAMS.effort.target].groupby("repeat")["labels"].min()
        labels[strategy] = [int(there[i]) if i in there.index else None for i in range(PARAMS.effort.repeats)]
    train = sample_table(latents, ("train",)).merge(truth, on="sample_id")
    classes = train.loc[train["artifact"], "class"].unique()
    pointed = len(suspects) > 0 and suspects["class"].iloc[0] in classes
    return curves, {"reveal_names_the_class": bool(pointed), "labels": labels}


def random_everywhere(cell: Cell, latents: Latents, truth: pd.DataFrame, test: ImageSet) -> pd.DataFrame:
    """`label_curve` of random labelling of all train samples."""
    artifact = truth.set_index("sample_id")["artifact"].loc[latents.sample_ids("train")].to_numpy(bool)
    known = pd.Series(test.has_artifact, test.sample_ids).loc[latents.sample_ids("test")].to_numpy(bool)
    features, reported = {}, {}
    for layer, whitened in whitenings(latents).items():
        features[layer], reported[layer] = (whitened(latents.activations(s, layer, "max")) for s in ("train", "test"))
    tables = []
    for repeat in range(EVERYWHERE.repeats):
        rng = numpy_rng(cell.seed, "effort", "everywhere", repeat)
        curve = label_curve(Refiner(features), artifact, [], ReportSet(reported, known), EVERYWHERE, RANDOM, rng)
        tables.append(curve.assign(strategy=RANDOM_ALL, repeat=repeat))
    return pd.concat(tables, ignore_index=True)


def effort_alone(cell: Cell, folder: Path, device: str) -> dict[str, object]:
    """Label effort of a cell that the reveal benchmark has judged; kept in `effort.json`."""
    kept = folder / "effort.json"
    if not kept.exists():
        images = images_of(cell)
        curves, about = effort_of(cell, folder, latents_of(folder), truth_of(images), images, device)
        curves.to_csv(folder / "label_curves.csv", index=False)
        kept.write_text(json.dumps({"cell": cell.name} | about), encoding="utf-8")
    found: dict[str, object] = json.loads(kept.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", default=list(STUDIES), help=f"of {', '.join(STUDIES)}")
    parser.add_argument("--limit", type=int, default=None, help="cells of each study at most")
    parser.add_argument("--folder", type=Path, default=Path("data") / "bench_retrieval")
    parser.add_argument("--measured-only", action="store_true", help="sum up the cells that are measured already")
    parser.add_argument("--device", default="cpu", help="where classifiers are trained and explained")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every N-th cell from I")
    parser.add_argument("--effort-of", type=Path, help="folder of the reveal benchmark; its cells at the same rate")
    given = parser.parse_args()
    torch.set_num_threads(1)
    versions = {name: version(name) for name in ("torch", "zennit", "scikit-learn")}
    machine = {"processor": platform.processor() or platform.machine(), "threads": 1}
    record: dict[str, object] = {"machine": machine, "versions": versions, "rate": RATE}
    most = dict.fromkeys((*PARAMS.effort.strategies, RANDOM), PARAMS.effort.max_labels)
    most |= {RANDOM_ALL: EVERYWHERE.max_labels}
    if given.effort_of:
        planned = [c for study in given.studies for c in reveal_cells(study) if c.rate == RATE]
        judged = [c for c in planned if (given.effort_of / c.name / "members.csv").exists()]
        efforts = [(c, effort_alone(c, given.effort_of / c.name, given.device), pd.DataFrame()) for c in judged]
        record |= {"cells_planned": len(planned), "cells_run": [cell.name for cell in judged]}
        write_record(
            EFFORT_RESULTS, record | {"effort": effort_rows(efforts, most), "results": [r for _, r, _ in efforts]}
        )
        print(*effort_rows(efforts, most), f"{len(judged)} of {len(planned)} cells", sep="\n")
        return
    found: list[tuple[Cell, dict, pd.DataFrame]] = []
    for study in given.studies:
        for cell in cells(study)[: given.limit][given.part[0] :: given.part[1]]:
            if given.measured_only and not (given.folder / cell.name / "retrieval.json").exists():
                continue
            found.append((cell, *measure(cell, prepare(cell, given.folder, given.device), given.device)))
            print(json.dumps(found[-1][1]))
    total = sum(len(cells(study)) for study in STUDIES)
    record |= {"cells_planned": total, "cells_run": [cell.name for cell, _, _ in found], "metrics": list(TEST)}
    effort = effort_rows(found, most)
    write_record(RESULTS, record | {"effort": effort, "rows": metric_rows(found), "results": [r for _, r, _ in found]})
    print(f"{len(found)} of {total} cells")
    for row in [*(row for row in metric_rows(found) if row["layer"] == "chosen"), *effort]:
        print(row)


if __name__ == "__main__":
    main()
