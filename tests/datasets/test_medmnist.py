import hashlib
import io
import logging
import urllib.request

import numpy as np
import pytest
from tests.datasets.web import Response, refuse, serve

from xai_robustness.datasets import medmnist
from xai_robustness.datasets.medmnist import MEDMNIST_2D, check_flag, medmnist_file, medmnist_md5, medmnist_path
from xai_robustness.types import InputError


def npz_bytes():
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (6, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 2, (6, 1), dtype=np.uint8)
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def content(monkeypatch):
    """Bytes that stand in for breastmnist.npz, with their md5 in the table."""
    data = npz_bytes()
    monkeypatch.setitem(medmnist.INFO["breastmnist"], "MD5", hashlib.md5(data).hexdigest())
    return data


@pytest.fixture
def offline(monkeypatch):
    refuse(monkeypatch)


def test_twelve_flags_with_task_classes_and_licence():
    assert len(MEDMNIST_2D) == 12
    counts = {flag: info.n_classes for flag, info in MEDMNIST_2D.items()}
    assert counts["pathmnist"] == 9 and counts["breastmnist"] == 2 and counts["organsmnist"] == 11
    tasks = {flag: info.task for flag, info in MEDMNIST_2D.items() if info.task != "multi-class"}
    assert tasks == {
        "chestmnist": "multi-label",
        "pneumoniamnist": "binary",
        "breastmnist": "binary",
        "retinamnist": "ordinal",
    }
    assert MEDMNIST_2D["pneumoniamnist"].class_names == ("normal", "pneumonia")
    assert MEDMNIST_2D["chestmnist"].n_classes == 14
    licences = {flag: info.licence for flag, info in MEDMNIST_2D.items()}
    assert licences.pop("dermamnist") == "CC BY-NC 4.0"
    assert set(licences.values()) == {"CC BY 4.0"}


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("organmnist3d", "3-D data set, and only 2-D ones work"),
        ("brestmnist", "Unknown MedMNIST flag"),
        ("../a", "Unknown"),
    ],
)
def test_other_flags_are_refused(flag, sentence, tmp_path):
    for use in (check_flag, lambda f: medmnist_md5(f, 28), lambda f: medmnist_file(f, 28, tmp_path)):
        with pytest.raises(InputError, match=sentence):
            use(flag)


def test_paths_and_md5_follow_the_size(tmp_path):
    assert medmnist_path("breastmnist", 28, tmp_path) == tmp_path / "medmnist" / "breastmnist.npz"
    assert medmnist_path("breastmnist", 224, tmp_path) == tmp_path / "medmnist" / "breastmnist_224.npz"
    assert medmnist_md5("breastmnist", 28) == "750601b1f35ba3300ea97c75c52ff8f6"
    assert len({medmnist_md5("breastmnist", size) for size in medmnist.SIZES}) == 4
    with pytest.raises(InputError, match=r"must be one of 28, 64, 128, 224\. Got 32"):
        medmnist_path("breastmnist", 32, tmp_path)


def test_a_local_file_is_used_first(tmp_path, content, offline):
    path = medmnist_path("breastmnist", 28, tmp_path)
    path.parent.mkdir()
    path.write_bytes(content)
    assert medmnist_file("breastmnist", 28, tmp_path) == path


def test_a_changed_file_is_refused_even_after_it_was_accepted(tmp_path, content, offline):
    path = medmnist_path("breastmnist", 28, tmp_path)
    path.parent.mkdir()
    path.write_bytes(content)
    medmnist_file("breastmnist", 28, tmp_path)
    path.write_bytes(content + b" ")
    with pytest.raises(InputError, match=f"must have the md5 {medmnist_md5('breastmnist', 28)}. Got"):
        medmnist_file("breastmnist", 28, tmp_path)


def test_offline_the_error_names_file_md5_and_folder(tmp_path, offline):
    with pytest.raises(InputError) as caught:
        medmnist_file("pneumoniamnist", 64, tmp_path)
    for part in (
        "pneumoniamnist_64.npz",
        medmnist_md5("pneumoniamnist", 64),
        str(tmp_path / "medmnist"),
        "XAI_DATA_ROOT",
    ):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_downloaded_once(tmp_path, content, monkeypatch):
    asked = []
    serve(monkeypatch, content, asked)
    for _ in range(2):
        path = medmnist_file("breastmnist", 28, tmp_path)
    assert path.read_bytes() == content
    assert asked == [medmnist.INFO["breastmnist"]["url"]]
    assert [entry.name for entry in path.parent.iterdir()] == ["breastmnist.npz"]


def test_a_wrong_download_leaves_no_file(tmp_path, monkeypatch):
    serve(monkeypatch, b"<html>busy</html>")
    with pytest.raises(InputError, match=r"The download of https://zenodo\.org.* must have the md5"):
        medmnist_file("breastmnist", 28, tmp_path)
    assert not list((tmp_path / "medmnist").iterdir())


def test_a_broken_download_leaves_no_file(tmp_path, content, monkeypatch):
    class Broken(Response):
        def read(self, size=-1):
            if self.tell():
                raise TimeoutError("timed out")
            return super().read(100)

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Broken(content))
    with pytest.raises(InputError, match="timed out"):
        medmnist_file("breastmnist", 28, tmp_path)
    assert not list((tmp_path / "medmnist").iterdir())


def test_dermamnist_warns_once_of_its_duplicates(tmp_path, monkeypatch, caplog):
    data = npz_bytes()
    monkeypatch.setitem(medmnist.INFO["dermamnist"], "MD5", hashlib.md5(data).hexdigest())
    serve(monkeypatch, data)
    medmnist._warn_duplicates.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            medmnist_file("dermamnist", 28, tmp_path)
    assert len(caplog.records) == 1 and "several images of one lesion" in caplog.text
