import hashlib

import numpy as np
import pytest
from pydantic import ValidationError

from xai_robustness.datasets import medmnist
from xai_robustness.datasets.load import (
    PHANTOM_COUNTS,
    DataParams,
    check_dataset,
    dataset_info,
    external_files,
    load_dataset,
    raw_root,
)
from xai_robustness.types import SPLITS, InputError

COUNTS = {"train": 20, "val": 7, "test": 9}


@pytest.fixture
def fake_root(tmp_path, monkeypatch):
    """A folder of raw data whose breastmnist is small, gray and has its md5 in the table."""
    path = tmp_path / "medmnist" / "breastmnist.npz"
    path.parent.mkdir()
    write(path, monkeypatch)
    return tmp_path


def write(path, monkeypatch, **changes):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in COUNTS.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 2, (n, 1), dtype=np.uint8)
    np.savez_compressed(path, **{**arrays, **changes})
    monkeypatch.setitem(medmnist.INFO["breastmnist"], "MD5", hashlib.md5(path.read_bytes()).hexdigest())


def test_phantom_needs_no_file(tmp_path):
    params = DataParams(n_train=12, n_val=3, n_test=6)
    check_dataset(params, tmp_path)
    splits = load_dataset(params, 0, tmp_path)
    assert [len(splits[split].images) for split in SPLITS] == [12, 3, 6]
    train = splits["train"]
    assert train.images.shape == (12, 28, 28, 3) and train.labels.shape == (12,) and train.labels.dtype == np.int64
    assert train.lesion_masks.shape == (12, 28, 28)
    assert train.info == dataset_info(params) and train.info.task == "multi-class"
    assert external_files(params, tmp_path) == {}
    assert not list(tmp_path.iterdir())


def test_phantom_images_do_not_follow_the_seed_of_a_run(tmp_path):
    params = DataParams(n_train=6, n_val=3, n_test=3)
    first, other = (load_dataset(params, seed, tmp_path)["train"].images for seed in (0, 1))
    np.testing.assert_array_equal(first, other)


def test_phantom_counts_have_defaults(tmp_path):
    splits = load_dataset(DataParams(n_train=3), 0, tmp_path)
    assert {split: len(raw.labels) for split, raw in splits.items()} == {**PHANTOM_COUNTS, "train": 3}


def test_medmnist_is_loaded_whole_by_default(fake_root):
    splits = load_dataset(DataParams(name="breastmnist"), 0, fake_root)
    assert {split: len(raw.labels) for split, raw in splits.items()} == COUNTS
    assert splits["val"].images.shape == (7, 28, 28, 1) and splits["val"].lesion_masks is None


def test_sample_ids_are_unique_and_name_the_row(fake_root):
    whole = load_dataset(DataParams(name="breastmnist"), 0, fake_root)
    part = load_dataset(DataParams(name="breastmnist", n_train=5, n_test=4), 3, fake_root)
    ids = np.concatenate([raw.sample_ids for raw in whole.values()])
    assert len(np.unique(ids)) == len(ids) and ids.dtype == np.int64
    for split in SPLITS:
        row = {int(i): image for i, image in zip(whole[split].sample_ids, whole[split].images)}
        for sample_id, image in zip(part[split].sample_ids, part[split].images):
            np.testing.assert_array_equal(image, row[int(sample_id)])
    assert [len(part[split].labels) for split in SPLITS] == [5, 7, 4]


def test_a_larger_count_keeps_the_samples_of_a_smaller_and_seeds_differ(fake_root):
    def ids(n, seed):
        splits = load_dataset(DataParams(name="breastmnist", n_train=n), seed, fake_root)
        return set(splits["train"].sample_ids.tolist())

    assert ids(5, 0) < ids(10, 0)
    assert ids(5, 0) != ids(5, 1)


def test_external_files_name_the_content(fake_root):
    params = DataParams(name="pneumoniamnist", size=64)
    md5 = medmnist.INFO["pneumoniamnist"]["MD5_64"]
    assert external_files(params, fake_root) == {"medmnist/pneumoniamnist_64.npz": md5}


def test_raw_root_is_the_variable_or_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("XAI_DATA_ROOT", str(tmp_path / "raw"))
    assert raw_root(tmp_path) == tmp_path / "raw"
    monkeypatch.delenv("XAI_DATA_ROOT")
    assert raw_root(tmp_path) == tmp_path / "data" / "01_raw"
    monkeypatch.chdir(tmp_path)
    assert raw_root() == tmp_path / "data" / "01_raw"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": "brestmnist"}, "Unknown MedMNIST flag 'brestmnist'"),
        ({"name": "nodulemnist3d"}, "only 2-D ones work"),
        ({"size": 32}, "must be one of 28, 64, 128, 224. Got 32"),
        ({"n_train": 0}, "n_train"),
        ({"n_trian": 5}, "n_trian"),
    ],
)
def test_bad_parameters_are_refused(values, sentence):
    with pytest.raises(ValidationError, match=sentence):
        DataParams(**values)


def test_check_finds_too_many_samples(fake_root):
    params = DataParams(name="breastmnist", n_val=8)
    with pytest.raises(InputError, match="The n_val parameter of DataParams must be at most 7"):
        check_dataset(params, fake_root)


def test_check_says_what_is_wrong_inside_before_it_compares_the_md5(fake_root, monkeypatch):
    path = fake_root / "medmnist" / "breastmnist.npz"
    params = DataParams(name="breastmnist")
    good = medmnist.INFO["breastmnist"]["MD5"]
    write(path, monkeypatch, val_labels=np.full((7, 1), 5))
    monkeypatch.setitem(medmnist.INFO["breastmnist"], "MD5", good)
    with pytest.raises(InputError, match=r"'val_labels' of .* whole numbers in 0..1. Got values \[5\]"):
        check_dataset(params, fake_root)
    write(path, monkeypatch, val_labels=np.zeros((7, 1)))
    monkeypatch.setitem(medmnist.INFO["breastmnist"], "MD5", good)
    with pytest.raises(InputError, match=f"must have the md5 {good}"):
        check_dataset(params, fake_root)


def test_check_reads_no_uint8_image(fake_root, monkeypatch):
    from xai_robustness.datasets import npz

    read, keys = npz._read_rows, []
    monkeypatch.setattr(npz, "_read_rows", lambda path, key, rows=None: keys.append(key) or read(path, key, rows))
    check_dataset(DataParams(name="breastmnist"), fake_root)
    assert set(keys) == {"train_labels", "val_labels", "test_labels"}


@pytest.mark.parametrize(("flag", "counts"), [("breastmnist", (546, 78, 156)), ("pneumoniamnist", (4708, 524, 624))])
def test_real_files_load(data_root, flag, counts):
    params = DataParams(name=flag)
    check_dataset(params, data_root)
    splits = load_dataset(params, 0, data_root)
    assert tuple(len(splits[split].labels) for split in SPLITS) == counts
    assert splits["train"].images.shape[1:] == (28, 28, 1)
    assert set(np.unique(splits["train"].labels)) == {0, 1}
