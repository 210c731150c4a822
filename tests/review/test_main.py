import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset, Version
from tests.review.test_data import invented

from xai_robustness.io.datasets import Report, Table
from xai_robustness.review.__main__ import SETS, answers_folder, read

ROOT = Path(__file__).parents[2]
CHOSEN = {"layer": "late", "kind": "svm"}


def catalog_of(folder, *runs, shown):
    """A catalog after runs `(version, latents, cavs, chosen, scores of two samples)`; `shown` is reveal's version."""
    data = invented(folder)
    for version, latents, cavs, chosen, values in runs:
        made_from = {"input:latents": latents, "input:cavs": cavs}
        scores = pd.DataFrame({"sample_id": [100, 101], "class": [0, 1]})
        scores = None if values is None else scores.assign(**{"late/svm": values, "early/svm": values})
        contents = {"neuron_ranking.csv": data.neurons, "bias_scores.csv": scores, "chosen_cav.json": chosen}
        for name, content in contents.items():
            if content is not None:
                dataset = _dataset(folder, name, Version(None, version))
                dataset.provenance = {"fingerprint": version, "components": made_from}
                dataset.save(content)
    latents = SimpleNamespace(
        model="f1a9",
        sample_ids=lambda split: data.images[0].sample_ids if split == "train" else np.zeros(0, int),
        heatmaps=lambda split: list(data.heatmaps.values()) if split == "train" else [],
    )
    loaded = {
        "images_fit": {SETS[0]: data.images[0], SETS[1]: data.images[0].subset(np.zeros(0, int))},
        "latents": latents,
        "embeddings": pd.DataFrame(columns=["class", "view", "sample_id", "x", "y"]),
        "suspect_list": pd.DataFrame(columns=["place", "kind", "name", "class"]),
        "suspect_list_members": pd.DataFrame(columns=["name", "sample_id"]),
        "neuron_references": data.references,
        "neuron_heatmaps": data.neuron_heatmaps.root,
        "synthetic_references": data.synthetic.root,
    }
    own = {
        "neuron_ranking": _dataset(folder, "neuron_ranking.csv", Version(shown, None)),
        "bias_scores": _dataset(folder, "bias_scores.csv", Version(None, None)),
        "chosen_cav": _dataset(folder, "chosen_cav.json", Version(None, None)),
    }
    return DataCatalog({**{name: MemoryDataset(value, copy_mode="assign") for name, value in loaded.items()}, **own})


def _dataset(folder, name, version):
    return (Table if name.endswith("csv") else Report)(filepath=str(folder / name), version=version)


def read_from(folder, *runs, shown):
    return read(catalog_of(folder, *runs, shown=shown), "invented", folder)


def test_the_newest_scores_of_the_classifier_that_is_shown(tmp_path):
    data = read_from(
        tmp_path,
        ("v1", "latents 1", "cavs 1", {"layer": "early", "kind": "svm"}, [1.0, 2.0]),
        ("v2", "latents 1", "cavs 2", CHOSEN, [3.0, 4.0]),  # another review of the same classifier
        ("v3", "latents 3", "cavs 3", CHOSEN, [9.0, 9.0]),  # another classifier
        shown="v1",
    )
    assert list(data.views) == ["score of late/svm"]
    assert data.views["score of late/svm"]["y"].tolist() == [3.0, 4.0]
    assert data.note == ""


@pytest.mark.parametrize(
    "runs",
    [
        [("v1", "latents 1", "cavs 1", CHOSEN, [1.0, 2.0]), ("v2", "latents 2", "", None, None)],  # reveal alone
        [("v2", "latents 2", "cavs 2", {}, [1.0, 2.0])],  # nothing was confirmed
        [("v2", "latents 2", "cavs 2", None, [1.0, 2.0])],  # scores without the choice that belongs to them
    ],
)
def test_scores_of_another_classifier_are_left_out_with_a_sentence(tmp_path, runs):
    data = read_from(tmp_path, *runs, shown="v2")
    assert not data.views
    assert data.note.startswith("No bias scores are shown") and "Run sample_retrieval" in data.note


def test_answers_lie_where_no_data_set_does_and_make_clean_leaves_them(tmp_path):
    data = read_from(tmp_path, ("v1", "l", "c", CHOSEN, [1.0, 2.0]), shown="v1")
    assert {data.labels.parent, data.marked.parent} == {tmp_path}
    folder = answers_folder(tmp_path, "invented", 0)
    layer = folder.relative_to(tmp_path).parts[1]
    for catalog in (ROOT / "conf").rglob("catalog*.yml"):
        assert f"data/{layer}/" not in catalog.read_text()
    if not shutil.which("make"):
        pytest.skip("needs make")
    kept, computed = folder / "review.csv", tmp_path / "data" / "05_model_input" / "invented" / "suspects.csv"
    for path in (kept, computed):
        path.parent.mkdir(parents=True)
        path.touch()
    subprocess.run(["make", "-f", str(ROOT / "Makefile"), "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert kept.exists() and not computed.exists()
