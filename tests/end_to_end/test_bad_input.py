"""Bad input: one sentence, nothing written, no tracking run."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from click import ClickException
from PIL import Image


def refused(project, match: str, *pipelines: str, env: str = "smoke", **params) -> None:
    before = {f for f in project.files() if not f.startswith("01_raw")}
    with pytest.raises(ClickException, match=match) as caught:
        project.run(*pipelines, env=env, **params)
    assert "\n" not in str(caught.value).strip()
    assert {f for f in project.files() if not f.startswith("01_raw")} == before
    assert not (project.folder / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"artifact__rate": 1.5}, r"rate.*\[0, 1\].*1\.5"),
        ({"artifact__rat": 0.5}, r"Unknown parameter 'artifact\.rat'\. Did you mean 'rate'\?"),
        ({"artifcat__rate": 0.5}, r"Unknown parameter 'artifcat'\. Did you mean 'artifact'\?"),
        ({"artifact__kind": "rular"}, r"Unknown artifact 'rular'. Did you mean 'ruler'"),
        ({"artifact__attacked_classes": [7]}, r"attacked_classes.*\[7\]"),
        ({"training__epochs": "many"}, r"training\.epochs.*integer.*'many'"),
        ({"model__name": "resnet19"}, r"Unknown model 'resnet19'"),
        ({"mitigation__rr_clarc__layers": ["layer9"]}, r"Unknown layer 'layer9'.*mitigation"),
        ({"robustness_eval__methods": ["saliencey"]}, r"Unknown .*'saliencey'\. Did you mean 'saliency'"),
        ({"training__checkpoint": "absent.pth"}, r"absent\.pth.*does not exist"),
        ({"data__name": "organmnist3d"}, r"organmnist3d.*(2-D|3-D|3D|2D)"),
        (
            {"attribution_sets__methods": ["saliancy"]},
            r"Unknown attribution method 'saliancy'. Did you mean 'saliency'",
        ),
        (
            {"attribution_sets__methods": [{"method": "grad_cam", "options": {"layer": "layer9"}}]},
            r"Unknown layer 'layer9'",
        ),
        ({"attribution_sets__decorrelated": ["saliency"]}, r"parts\.n.*at least 1.*Got 0"),
        (
            {"robustness_eval__faithfulness__enabled": True, "robustness_eval__faithfulness__decorrelated": True},
            r"parts\.n.*at least 3.*Got 0",
        ),
        ({"device": "gpu"}, r"device"),
    ],
)
def test_parameters(fresh, params, match):
    refused(fresh, match, **params)


def test_an_unknown_pipeline(fresh):
    refused(fresh, "Unknown pipeline 'mitigate'", "mitigate")


def test_an_unknown_study(fresh):
    refused(fresh, "Unknown study 'smoek'.* smoke", env="smoek")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"sample_id;artifact\n1;1\n", "columns sample_id and artifact"),
        (b"sample_id,artifact\n1,1\n2,0,0,0\n", "CSV file in UTF-8.*line 3"),
        (b"sample_id,artifact\n1,\xe9\n", "CSV file in UTF-8"),
        (b"sample_id,artifact\n1,maybe\n", "first in line 2"),
    ],
)
def test_a_persons_table_is_read_before_anything_is_computed(fresh, content, match):
    table = fresh.folder / "reviewed.csv"
    table.write_bytes(content)
    refused(fresh, match, sample_retrieval__review={"reviewer": "csv", "csv": str(table)})


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (["a"] * 11 + ["b"], "samples of every class that there is. Got none of 'b'"),
        (["a", "NaN"] * 6, "must not be empty. Got 6 empty labels"),
    ],
)
def test_labels_of_ones_own(fresh, labels, match):
    folder = fresh.folder / "data" / "01_raw" / "mine"
    folder.mkdir(parents=True)
    rows = ["image,label,split"]
    for i, label in enumerate(labels):
        Image.fromarray(np.full((24, 24), 20 * i, np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{label},{'test' if i == 11 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(rows))
    own = {"data__name": "folder", "data__folder": "mine", "data__table": "labels.csv"}
    own |= {"data__split_column": "split", "data__size": 24}
    refused(fresh, match, **own, **dict.fromkeys(("data__n_train", "data__n_val", "data__n_test")))


def test_a_missing_file_offline_names_file_md5_and_folder(fresh, monkeypatch):
    import urllib.request

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    refused(fresh, r"breastmnist\.npz.*750601b1f35ba3300ea97c75c52ff8f6", data__name="breastmnist")


def breast(project, **changes: np.ndarray | None):
    """Write a small breastmnist.npz with the given changes below data/01_raw."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 40), ("val", 20), ("test", 20)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 2, (n, 1)).astype(np.uint8)
    arrays.update(changes)
    path = project.folder / "data" / "01_raw" / "medmnist" / "breastmnist.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({}, "md5"),
        ({"val_labels": None}, "val_labels"),
        ({"test_labels": np.full((20, 1), 9, np.uint8)}, "(labels|range|class)"),
        ({"train_images": np.full((40, 28, 28), np.nan)}, "(?i)nan|finite|uint8"),
    ],
)
def test_files(fresh, changes, match):
    path = breast(fresh, **changes)
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    refused(fresh, match, data__name="breastmnist")
    assert hashlib.md5(path.read_bytes()).hexdigest() == digest


def test_an_artifact_without_a_training_sample(fresh):
    refused(fresh, "at least one training sample", artifact__rate=1e-9)


def test_the_command_line_says_the_sentence_and_nothing_else(fresh):
    command = [sys.executable, "-m", "kedro", "run", "--env", "smoke", "--params", "artifact.rate=1.5"]
    environment = {**os.environ, "KEDRO_DISABLE_TELEMETRY": "1"}  # as the project's .telemetry does, which is not here
    done = subprocess.run(command, cwd=fresh.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: ") and "artifact.rate" in line and "1.5" in line
    assert done.stdout == ""
