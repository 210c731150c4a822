"""The three versions of every split."""

import numpy as np
import pytest

from xai_robustness.artifacts.insertion import ArtifactParams
from xai_robustness.datasets.load import DataParams, load_dataset
from xai_robustness.io.stores import ImagesDataset
from xai_robustness.pipelines.data_ingest.images import CONTROL, FIT, REPORT, SELECT, raw_job, truth_table, version_job

PARAMS = ArtifactParams(kind="ruler", attacked_classes=[1], rate=0.5, flip_rate=0.2)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    raw_job(load_dataset(DataParams(n_train=60, n_val=30, n_test=30), 0, folder)).write(folder / "raw")
    raw = ImagesDataset(str(folder / "raw")).load()
    version_job(raw, FIT + SELECT + REPORT + CONTROL, PARAMS, 0, told=True).write(folder / "all")
    version_job(raw, FIT, PARAMS, 0, told=False).write(folder / "fit")
    return raw, ImagesDataset(str(folder / "all")).load(), ImagesDataset(str(folder / "fit")).load()


def test_clean_is_the_raw_image_and_attacked_differs_inside_the_mask_alone(sets):
    raw, versions, _ = sets
    clean, attacked = versions["test/clean"], versions["test/attacked"]
    np.testing.assert_array_equal(clean.images[:], raw["test/raw"].images[:])
    changed = (clean.images[:] != attacked.images[:]).any(-1)
    assert attacked.has_artifact.all() and not clean.has_artifact.any()
    assert changed.any((1, 2)).all()
    assert not (changed & ~np.asarray(attacked.masks[:])).any()


def test_biased_is_attacked_or_clean_sample_by_sample(sets):
    _, versions, _ = sets
    where = versions["test/biased"].has_artifact
    for name, rows in (("test/attacked", where), ("test/clean", ~where)):
        np.testing.assert_array_equal(versions["test/biased"].images[:][rows], versions[name].images[:][rows])
    assert set(versions["test/biased"].labels[where]) == {1}


def test_a_backdoor_flips_training_labels_alone(sets):
    raw, versions, _ = sets
    assert (versions["train/biased"].labels != raw["train/raw"].labels).any()
    np.testing.assert_array_equal(versions["val/biased"].labels, raw["val/raw"].labels)


def test_what_models_are_fitted_on_does_not_tell_where_the_artifact_is(sets):
    _, versions, fit = sets
    assert fit["train/biased"].has_artifact is None and fit["train/biased"].masks is None
    np.testing.assert_array_equal(fit["train/biased"].images[:], versions["train/biased"].images[:])


def test_the_truth_is_that_of_the_biased_version(sets):
    raw, versions, _ = sets
    truth = truth_table(raw, PARAMS, 0).set_index("sample_id")
    for key in FIT:
        part = versions[key]
        np.testing.assert_array_equal(truth.artifact.loc[part.sample_ids], part.has_artifact)
        np.testing.assert_array_equal(truth["class"].loc[part.sample_ids], part.labels)
