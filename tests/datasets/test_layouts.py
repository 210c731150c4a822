"""Readers of official layouts, on tiny generated trees."""

import logging

import numpy as np
import pytest
from tests.datasets import trees
from tests.datasets.trees import dicom, table

from xai_robustness.datasets import isic
from xai_robustness.datasets.decode import decode_image
from xai_robustness.datasets.load import DataParams, check_dataset, load_dataset
from xai_robustness.types import InputError

COUNTS = {
    "ham10000": (40, 7),
    "chexpert": (40, 2),
    "hyper_kvasir": (40, 2),
    "imagenet": (32, 2),
    "isic2020": (30, 3),
    "isic2024": (40, 2),
}
GROUPED = ("ham10000", "chexpert", "isic2020", "isic2024")


def load(name, root, **changes):
    chosen = {"name": name, "size": 16, "val_share": 0.25, "test_share": 0.25} | changes
    return load_dataset(DataParams(**chosen), 0, root, cache=root / "cache")


@pytest.mark.parametrize("name", COUNTS)
def test_every_layout_gives_images_classes_and_disjoint_groups(name, tmp_path):
    getattr(trees, name)(tmp_path)
    splits = load(name, tmp_path)
    n, classes = COUNTS[name]
    assert sum(len(part.labels) for part in splits.values()) == n
    assert len(splits["train"].info.class_names) == classes and splits["train"].info.licence
    ids = np.concatenate([part.sample_ids for part in splits.values()])
    assert len(set(ids.tolist())) == n
    if name in GROUPED:
        groups = [set(part.extras["group"].tolist()) for part in splits.values()]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert all(part.images[: len(part.labels)].std() > 10 for part in splits.values())


def labelled(splits):
    return {name: label for part in splits.values() for name, label in zip(part.names, part.labels)}


def test_ham10000_labels(tmp_path):
    trees.ham10000(tmp_path)
    found = labelled(load("ham10000", tmp_path))
    assert all(label == int(name[-7:]) // 2 % 7 for name, label in found.items())


def test_chexpert_counts_certain_findings_alone_and_joins_pacemaker_labels(tmp_path, caplog):
    trees.chexpert(tmp_path)
    found = labelled(load("chexpert", tmp_path))
    assert all(label == (int(name[7:12]) % 4 == 0) for name, label in found.items())
    with caplog.at_level(logging.WARNING):
        joined = load("chexpert", tmp_path, artifact_labels="pm.csv")
    assert (
        sum(len(part.labels) for part in joined.values()) == 38 and "2 samples that pm.csv does not list" in caplog.text
    )
    assert sum(int(part.extras["artifact:PM"].sum()) for part in joined.values()) == 8
    several = load("chexpert", tmp_path, target="competition")["train"]
    assert several.info.task == "multi-label" and several.labels[:, 2].all() and not several.labels[:, 4].any()
    with pytest.raises(InputError, match="must have the column 'Fracture'"):
        load("chexpert", tmp_path, target="Fracture")


def test_hyper_kvasir_groups_findings_and_refuses_unknown_ones(tmp_path):
    folder = trees.hyper_kvasir(tmp_path)
    found = labelled(load("hyper_kvasir", tmp_path))
    assert all(label == ("polyps" in name or "barretts" in name) for name, label in found.items())
    assert len(load("hyper_kvasir", tmp_path, target="finding")["train"].info.class_names) == 4
    path = folder / "image-labels.csv"
    path.write_text(path.read_text().replace("polyps", "unicorns"))
    with pytest.raises(InputError, match="Got 10 rows of 1 others instead: unicorns"):
        check_dataset(DataParams(name="hyper_kvasir"), tmp_path)


def test_imagenets_validation_images_are_the_test_split(tmp_path):
    trees.imagenet(tmp_path)
    splits = load("imagenet", tmp_path)
    assert len(splits["test"].labels) == 8 and all(name.startswith("val/") for name in splits["test"].names)
    assert all(name.startswith("train/") for s in ("train", "val") for name in splits[s].names)


def test_isic2020_diagnoses_become_the_classes_of_2019(tmp_path):
    trees.isic2020(tmp_path)
    found = labelled(load("isic2020", tmp_path))
    assert all(label == (int(name[-7:]) - 100) // 2 % 4 for name, label in found.items())


def test_2019_and_2020_together_count_an_image_once(tmp_path):
    trees.isic2019(tmp_path, n=30)
    folder = trees.isic2020(tmp_path)
    path = folder / "train.csv"
    path.write_text(path.read_text().replace("ISIC_0000100", "ISIC_0000004_downsampled"))
    (folder / "train" / "ISIC_0000100.jpg").rename(folder / "train" / "ISIC_0000004_downsampled.jpg")
    found = labelled(load("isic2019_2020", tmp_path, folder=str(tmp_path)))
    assert len(found) == 29 + 30 and "ISIC_0000004" not in found and "ISIC_0000004_downsampled" in found


def test_isic2024_keeps_all_malignant_and_some_benign(tmp_path, monkeypatch):
    trees.isic2024(tmp_path)
    monkeypatch.setattr(isic, "BENIGN_2024", 12)
    found = labelled(load("isic2024", tmp_path))
    assert len(found) == len(set(found)) == 20 and sum(found.values()) == 8


def own(folder):
    return DataParams(name="folder", folder=str(folder), size=16, val_share=0.25, test_share=0.25)


def test_dicom_is_shown_as_it_is_meant(tmp_path, caplog):
    ramp = np.repeat(np.arange(16)[None] * 4000, 16, 0)
    dicom(tmp_path / "plain.dcm", ramp)
    dicom(tmp_path / "inverse.dcm", ramp, "MONOCHROME1")
    dicom(tmp_path / "window.dcm", ramp, WindowCenter=20000, WindowWidth=8000, BurnedInAnnotation="YES")
    plain, inverse = decode_image(tmp_path / "plain.dcm", 16, 1), decode_image(tmp_path / "inverse.dcm", 16, 1)
    np.testing.assert_array_equal(plain[0, :, 0], np.round(np.arange(16) * 17))
    np.testing.assert_array_equal(inverse, 255 - plain)
    with caplog.at_level(logging.WARNING):
        window = decode_image(tmp_path / "window.dcm", 16, 1)[0, :, 0]
    assert (window[:4] == 0).all() and (window[7:] == 255).all() and "text is burned into its pixels" in caplog.text


def test_dicom_of_a_strange_kind_is_named_and_skipped_only_on_request(tmp_path):
    for i in range(12):
        dicom(tmp_path / "xrays" / "ab"[i % 2] / f"{i}.dcm", np.random.default_rng(i).integers(0, 4096, (16, 16)))
    dicom(tmp_path / "xrays" / "a" / "odd.dcm", np.ones((16, 16)), "PALETTE COLOR")
    with pytest.raises(InputError, match=r"Got 1 of 13.*odd.dcm \(its photometric interpretation is PALETTE COLOR"):
        load_dataset(own(tmp_path / "xrays"), 0, tmp_path, cache=tmp_path / "cache")
    skipped = own(tmp_path / "xrays").model_copy(update={"skip_bad": True})
    splits = load_dataset(skipped, 0, tmp_path, cache=tmp_path / "cache")
    assert sum(len(part.labels) for part in splits.values()) == 12


def test_nifti_volumes_give_their_middle_slice(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    (tmp_path / "scans" / "a").mkdir(parents=True)
    volume = np.zeros((20, 20, 5), np.float32)
    volume[5:10, 12:18, 2] = 100
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "scans" / "a" / "0.nii.gz")
    found = decode_image(tmp_path / "scans" / "a" / "0.nii.gz", 20, 1)[..., 0]
    expected = np.rot90(volume[:, :, 2] > 0)
    assert ((found > 128) == expected).mean() > 0.99


def test_a_missing_extra_is_one_sentence(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "nibabel", None)
    (tmp_path / "x.nii").write_bytes(b"")
    from xai_robustness.datasets.decode import decode_image

    with pytest.raises(InputError, match=r"needs the package nibabel. Run: pip install 'xai_robustness\[nifti\]'"):
        decode_image(tmp_path / "x.nii", 16, 1)


def test_labels_of_artifacts_need_a_column_of_images(tmp_path):
    folder = trees.isic2019(tmp_path)
    table(folder / "bad.csv", [{"picture": "a", "ruler": 1}])
    with pytest.raises(InputError, match="must have the column 'image'. Got picture, ruler"):
        check_dataset(DataParams(name="isic2019", artifact_labels="bad.csv"), tmp_path)
