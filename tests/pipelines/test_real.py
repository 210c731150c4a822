import json

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from tests.datasets.trees import isic2019

from xai_robustness.artifacts.insertion import ArtifactParams
from xai_robustness.datasets.load import DataParams, load_dataset
from xai_robustness.io.stores import ImagesDataset
from xai_robustness.pipelines.data_ingest.images import (
    CONTROL,
    FIT,
    REPORT,
    SELECT,
    mask_job,
    raw_job,
    truth_table,
    version_job,
)

PARAMS = ArtifactParams(kind="real", name="plaster", cut_out="colour")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("real")
    folder = isic2019(root, n=60)
    marked = [f"ISIC_{i:07d}" for i in range(0, 60, 3)]
    for name in marked:
        path = folder / "ISIC_2019_Training_Input" / f"{name}.jpg"
        pixels = np.array(Image.open(path))
        pixels[:9, :9] = (0, 255, 255)
        Image.fromarray(pixels).save(path, quality=98)
    (folder / "art.json").write_text(json.dumps({"plaster": marked}))
    data = DataParams(
        name="isic2019",
        size=24,
        classes=["NV", "MEL", "BKL"],
        artifact_labels="art.json",
        val_share=0.2,
        test_share=0.2,
    )
    raw_job(load_dataset(data, 0, root, cache=root / "cache")).write(root / "raw")
    raw = ImagesDataset(str(root / "raw")).load()
    version_job(raw, FIT + SELECT + REPORT + CONTROL, PARAMS, 0, told=True).write(root / "all")
    version_job(raw, FIT, PARAMS, 0, told=False).write(root / "fit")
    mask_job(raw, PARAMS, 0).write(root / "masks")
    return raw, ImagesDataset(str(root / "all")).load(), ImagesDataset(str(root / "fit")).load()


def test_biased_is_the_data_as_they_are(sets):
    raw, versions, fit = sets
    for split in ("train", "val"):
        np.testing.assert_array_equal(fit[f"{split}/biased"].images[:], raw[f"{split}/raw"].images[:])
        assert fit[f"{split}/biased"].masks is None and fit[f"{split}/biased"].has_artifact is None
    where = raw["test/raw"].extras["artifact:plaster"]
    np.testing.assert_array_equal(versions["test/biased"].has_artifact, where)


def test_clean_is_without_the_artifact_and_attacked_the_same_samples_with_a_cut_out(sets):
    raw, versions, _ = sets
    for split in ("train", "val", "test"):
        clean, attacked, part = versions[f"{split}/clean"], versions[f"{split}/attacked"], raw[f"{split}/raw"]
        expected = part.sample_ids[~part.extras["artifact:plaster"]]
        np.testing.assert_array_equal(clean.sample_ids, expected)
        np.testing.assert_array_equal(attacked.sample_ids, expected)
        changed = (clean.images[:] != attacked.images[:]).any(-1)
        masks = np.asarray(attacked.masks[:])
        assert changed.any((1, 2)).all() and not (changed & ~masks).any() and masks.mean() < 0.4
        assert attacked.has_artifact.all() and not clean.has_artifact.any()


def test_the_truth_is_what_the_labels_say(sets):
    raw, _, _ = sets
    truth = truth_table(raw, PARAMS, 0).set_index("sample_id")
    for split in ("train", "val"):
        part = raw[f"{split}/raw"]
        np.testing.assert_array_equal(truth.artifact.loc[part.sample_ids], part.extras["artifact:plaster"])


def test_the_name_must_be_given():
    with pytest.raises(ValidationError, match="must say which artifact when its kind is real"):
        ArtifactParams(kind="real")
