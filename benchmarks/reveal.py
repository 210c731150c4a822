"""How often reveal finds an injected artifact, and how often it flags a clean control: `make bench-reveal`.

Every cell (study, artifact, rate, seed) trains a classifier, explains it, and asks for the one list of suspects; each
is kept on disk, so that an interrupted benchmark goes on where it stopped. `--limit` stops after so many cells of each
study; the results name what was run.
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
from reveal_cells import STUDIES, Cell, cells, images_of, latents_of, prepare

from xai_robustness.concepts.image_properties import image_properties, label_associations
from xai_robustness.concepts.spectral import RevealParams, find_suspects, rows_of_classes
from xai_robustness.concepts.suspect_evaluation import is_hit, wilson_interval
from xai_robustness.concepts.transplant_list import list_suspects
from xai_robustness.models.checkpoint import load_model

RESULTS = Path(__file__).parent / "results" / "reveal.json"
PARAMS = RevealParams()

KINDS = ("all", "cluster", "neurons")


def judge(cell: Cell, folder: Path, device: str) -> dict[str, object]:
    """What the list of a cell says, and whether its first entries of each kind are hits; kept in `judged.json`."""
    kept = folder / "judged.json"
    if kept.exists():
        return json.loads(kept.read_text())
    latents, images = latents_of(folder), images_of(cell)["train/biased"]
    suspects, members, _ = find_suspects(latents, PARAMS, cell.seed)
    listed = list_suspects(suspects, members, latents, load_model(folder), images, PARAMS, cell.seed, device)
    truth = pd.Series(images.has_artifact, images.sample_ids).loc[latents.sample_ids("train")].to_numpy(bool)
    searched = rows_of_classes(latents, PARAMS, cell.seed)
    hits = [is_hit(row, listed, latents, truth, searched) for _, row in listed.suspects.iterrows()]
    table = listed.suspects.assign(hit=hits)
    found: dict[str, object] = {"cell": cell.name, **json.loads((folder / "finished.json").read_text())}
    for kind in KINDS:
        own = table if kind == "all" else table[table["kind"] == kind]
        found[f"{kind}/top_hit"] = bool(len(own) and own["hit"].iloc[0])
        found[f"{kind}/top_flagged"] = bool(len(own) and own["flagged"].iloc[0])
        found[f"{kind}/first_hit"] = int(np.argmax(own["hit"].to_numpy())) + 1 if own["hit"].any() else None
        found[f"{kind}/least_q"] = float(own["q_value"].min()) if len(own) else None
    first = listed.suspects.iloc[:1]
    for kind in ("cluster", "neurons"):  # what is joined names samples and neurons: by either alone
        alone = first.assign(kind=np.where(first["kind"] == "joined", kind, first["kind"]))
        top = [is_hit(row, listed, latents, truth, searched) for _, row in alone.iterrows()]
        found[f"all/top_hit_by_{kind}"] = any(top)
    associations = label_associations(image_properties(iter([images.images])), images.labels)
    found["properties_flagged"] = sorted(set(associations.loc[associations["flagged"], "property"]))
    listed.members.to_csv(folder / "members.csv", index=False)
    table.to_csv(folder / "list.csv", index=False)
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def rows_of(found: list[tuple[Cell, dict]]) -> list[dict[str, object]]:
    """By study, artifact, rate and kind: how often the first is a hit; for clean controls, how often one is flagged."""
    rows: list[dict[str, object]] = []
    groups: dict[tuple, list[dict]] = {}
    for cell, result in found:
        artifact = "clean control" if cell.rate == 0 else cell.artifact
        groups.setdefault((cell.study, artifact, cell.rate), []).append(result)
    for (study, artifact, rate), own in sorted(groups.items()):
        for kind in KINDS:
            flagged = sum(bool(r[f"{kind}/top_flagged"]) for r in own)
            hits = sum(bool(r[f"{kind}/top_hit"]) for r in own)
            row = {"study": study, "artifact": artifact, "rate": rate, "kind": kind, "cells": len(own)}
            row |= {"top_is_hit": None if rate == 0 else hits, "flagged": flagged}
            rows.append(row | {"share": wilson_interval(flagged if rate == 0 else hits, len(own))})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", default=list(STUDIES), help=f"of {', '.join(STUDIES)}")
    parser.add_argument("--limit", type=int, default=None, help="cells of each study at most")
    parser.add_argument("--folder", type=Path, default=Path("data") / "bench_reveal")
    parser.add_argument("--judge-only", action="store_true", help="judge the cells that are trained already")
    parser.add_argument("--device", default="cpu", help="where classifiers are trained and explained")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every N-th cell from I")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for study in given.studies:
        for cell in cells(study)[: given.limit][given.part[0] :: given.part[1]]:
            if given.judge_only and not (given.folder / cell.name / "finished.json").exists():
                continue
            found.append((cell, judge(cell, prepare(cell, given.folder, given.device), given.device)))
            print(json.dumps(found[-1][1]))
    machine = {"processor": platform.processor() or platform.machine(), "threads": 1}
    versions = {name: version(name) for name in ("torch", "zennit", "scikit-learn")}
    planned = sum(len(cells(study)) for study in STUDIES)
    run = {"cells_planned": planned, "cells_run": [c.name for c, _ in found]}
    table = rows_of(found)
    record = {"machine": machine, "versions": versions, **run, "rows": table, "results": [r for _, r in found]}
    write_record(RESULTS, record)
    print(f"{len(found)} of {planned} cells")
    for row in table:
        print({key: value for key, value in row.items() if key != "share"})


if __name__ == "__main__":
    main()
