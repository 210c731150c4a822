import json
import sys

import numpy as np
import pandas as pd
import pytest

from xai_robustness.concepts.embedding import spectral_embedding
from xai_robustness.concepts.separability import input_features
from xai_robustness.concepts.spectral import MEMBER_COLUMNS, SUSPECT_COLUMNS, RevealParams
from xai_robustness.concepts.virelay import VirelayJob
from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.types import InputError

h5py = pytest.importorskip("h5py", reason="h5py writes the files of ViRelAy")
INFO = DatasetInfo("invented", "multi-class", ("round", "lobed", "striped"), "CC0")
PARAMS = RevealParams(
    virelay=True,
    layers=("late",),
    n_neighbors=8,
    n_eigen=6,
    n_clusters=(2, 3),
    clusterings=("kmeans", "dbscan", "hdbscan"),
)


def job(latents, params=PARAMS, channels=1, images=None):
    ids = latents.sample_ids("train")[::-1].copy()  # the images lie in another order than the latents
    pixels = (ids[:, None, None, None] % 251 * np.ones((1, 8, 8, channels))).astype(np.uint8)
    images = images or ImageSet(pixels, latents.labels("train")[::-1].copy(), ids, INFO)
    suspects = pd.DataFrame([[0, 1, 0, "late", 3] + [1.0] * 7], columns=list(SUSPECT_COLUMNS))
    members = pd.DataFrame([(0, 0, 2.0), (0, 3, 1.0), (0, 6, 0.5)], columns=list(MEMBER_COLUMNS))
    return VirelayJob(latents, images, suspects, members, params, seed=0)


def test_the_files_are_those_that_virelay_documents(latents, tmp_path):
    job(latents).write(tmp_path)
    project = json.loads((tmp_path / "project.yaml").read_text())["project"]
    assert project["dataset"] == {"name": "invented", "type": "hdf5", "path": "dataset.h5"}
    assert project["attributions"]["attribution_strategy"] == "true_label"
    assert [a["sources"] for a in project["analyses"]] == [["analysis_input.h5"], ["analysis_late.h5"]]
    labels = json.loads((tmp_path / project["label_map"]).read_text())
    assert labels[1] == {"index": 1, "word_net_id": "class_001", "name": "lobed"}
    with h5py.File(tmp_path / "dataset.h5") as data, h5py.File(tmp_path / "attribution.h5") as explained:
        assert data["data"].shape == (240, 8, 8, 3) and data["data"].dtype == np.uint8
        np.testing.assert_array_equal(data["data"][:, 0, 0, 0], latents.sample_ids("train") % 251)
        np.testing.assert_array_equal(data["label"][:], latents.labels("train"))
        np.testing.assert_array_equal(explained["attribution"][:, 0], latents.heatmaps("train"))
        np.testing.assert_array_equal(explained["prediction"][:], latents.logits("train"))
        np.testing.assert_array_equal(explained["index"][:], np.arange(240))
        assert (explained["label"][:] == data["label"][:]).all() and data["label"].dtype == np.uint16


def test_every_class_has_its_embeddings_and_clusterings(latents, tmp_path):
    job(latents).write(tmp_path)
    with h5py.File(tmp_path / "analysis_input.h5") as file:
        assert list(file) == ["class_000", "class_001", "class_002"]
        group = file["class_000"]
        rows = np.flatnonzero(latents.labels("train") == 0)
        np.testing.assert_array_equal(group["index"][:], rows)
        values, embedding = spectral_embedding(input_features(latents.heatmaps("train")[rows]), 8, 6, seed=0)
        np.testing.assert_allclose(group["embedding/spectral"][:], embedding, atol=1e-6)
        np.testing.assert_allclose(group["embedding/spectral"].attrs["eigenvalue"], values, atol=1e-6)
        assert group["embedding/tsne"].shape == (80, 2)
        names = {"dbscan-0.2", "dbscan-0.3", "hdbscan", "kmeans-02", "kmeans-03", "kmeans-eigengap", "suspects"}
        assert all(set(file[c]["cluster"]) == names for c in file)
        assert np.unique(group["cluster/kmeans-03"][:]).tolist() == [0, 1, 2]
        assert rows[group["cluster/suspects"][:] == 0].tolist() == [0, 3, 6]


def test_nothing_is_written_unless_asked_for(latents, tmp_path):
    job(latents, RevealParams()).write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_signals_and_a_missing_h5py_are_refused(latents, tmp_path, monkeypatch):
    signals = ImageSet(np.zeros((240, 1, 9, 1), np.float32), latents.labels("train"), latents.sample_ids("train"), INFO)
    with pytest.raises(InputError, match="ViRelAy shows images"):
        job(latents, images=signals).write(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"xai_robustness\[virelay\]"):
        job(latents).write(tmp_path)
