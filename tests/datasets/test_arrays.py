"""Image data sets in one Zarr store."""

import json
import shutil

import numpy as np
import pytest
import zarr
from numcodecs import Pickle
from PIL import Image
from tests.datasets import trees

from xai_robustness.datasets.arrays import StoreRows
from xai_robustness.datasets.load import DataParams, external_files, load_dataset
from xai_robustness.types import InputError


def pixels(n=40, side=24, channels=3):
    small = np.random.default_rng(0).integers(0, 255, (n, 6, 6, channels), dtype=np.uint8)
    return small.repeat(side // 6, 1).repeat(side // 6, 2)


def write(path, images, labels, groups=None, chunk=7, **attributes):
    """A store with arrays at its root, or (group -> rows) in groups."""
    root = zarr.open_group(path, mode="w")
    root.attrs.update(attributes)
    for group, rows in (groups or {"": slice(None)}).items():
        node = root.create_group(group) if group else root
        node.create_array("images", data=images[rows], chunks=(chunk, *images.shape[1:]))
        node.create_array("labels", data=np.asarray(labels)[rows])
    return path


def load(root, **changes):
    chosen = {"name": "folder", "folder": "mine.zarr", "size": 24, "val_share": 0.25, "test_share": 0.25, "workers": 2}
    return load_dataset(DataParams(**chosen | changes), 0, root, cache=root / "cache")


def whole(splits):
    """Images and labels in the order of the store."""
    ids = np.concatenate([part.sample_ids for part in splits.values()])
    images = np.concatenate([part.images[: len(part.labels)] for part in splits.values()])
    labels = np.concatenate([part.labels for part in splits.values()])
    assert sorted(ids.tolist()) == list(range(len(ids)))
    return images[np.argsort(ids)], labels[np.argsort(ids)]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_images_come_back_in_both_orders_of_axes_and_both_kinds(first, kind, tmp_path):
    images, labels = pixels(), np.arange(40) % 2
    stored = images if kind == "uint8" else images.astype(np.float32) / 255
    write(tmp_path / "mine.zarr", np.moveaxis(stored, -1, 1) if first else stored, labels[:, None])
    found, classes = whole(load(tmp_path))
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(classes, labels)


def test_another_choice_of_classes_of_the_same_store_shows_its_own_images(tmp_path):
    write(tmp_path / "mine.zarr", pixels(), np.arange(40) % 4)
    for classes in (["0", "1"], ["2", "3"]):
        for part in load(tmp_path, classes=classes).values():
            np.testing.assert_array_equal(part.images[:], pixels()[part.sample_ids])


def test_rows_are_resized_like_files_and_classes_have_the_stores_names(tmp_path):
    images = pixels()
    write(tmp_path / "mine.zarr", images, np.arange(40) % 3, class_names=["a", "b", "c"])
    splits = load(tmp_path, size=16, classes=["a", "c"], gray=True)
    info = splits["train"].info
    assert info.class_names == ("a", "c") and info.task == "binary" and info.name == "mine"
    one, row = splits["test"], splits["test"].sample_ids[0]
    expected = Image.fromarray(images[row]).convert("L").resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(one.images[0:1][0, ..., 0], expected)


def test_a_chunk_is_read_once_in_order(tmp_path):
    store = write(tmp_path / "mine.zarr", pixels(), np.zeros(40, int))
    rows = StoreRows(store, 24, 3)
    kept = set()
    for i in range(40):
        rows(store / str(i))
        kept.add(id(rows._kept[1]) if i % 7 == 0 else None)
    assert rows._kept[0] == ("", 5)
    before = rows._kept[1]
    rows(store / "36")
    assert rows._kept[1] is before


def test_groups_are_splits_and_imagenets_validation_images_its_test_split(tmp_path):
    groups = {"train": slice(0, 24), "val": slice(24, 40)}
    write(tmp_path / "imagenet.zarr", pixels(), np.arange(40) % 4, groups)
    splits = load(tmp_path, name="imagenet", folder=None, val_share=0.3)
    assert len(splits["test"].labels) == 16 and all(name.startswith("val/") for name in splits["test"].names)
    assert len(splits["train"].labels) + len(splits["val"].labels) == 24
    assert splits["train"].info.name == "imagenet" and "non-commercial" in splits["train"].info.licence
    found, labels = whole(splits)
    np.testing.assert_array_equal(found, pixels())
    np.testing.assert_array_equal(labels, np.arange(40) % 4)


def test_a_zipped_store_is_the_same(tmp_path):
    store = write(tmp_path / "mine.zarr", pixels(), np.arange(40) % 2)
    shutil.make_archive(str(tmp_path / "zipped.zarr"), "zip", store)
    np.testing.assert_array_equal(whole(load(tmp_path, folder="zipped.zarr.zip"))[0], pixels())


def test_validation_images_alone_give_all_splits(tmp_path):
    folder = trees.imagenet(tmp_path, n=64)
    shutil.rmtree(folder / "train")
    splits = load(tmp_path, name="imagenet", folder=None)
    assert {split: len(part.labels) for split, part in splits.items()} == {"train": 8, "val": 4, "test": 4}


def test_a_changed_store_changes_the_fingerprint(tmp_path):
    params = DataParams(name="folder", folder="mine.zarr", size=24)
    write(tmp_path / "mine.zarr", pixels(), np.arange(40) % 2)
    before = external_files(params, tmp_path)
    assert external_files(params, tmp_path) == before
    write(tmp_path / "mine.zarr", pixels()[::-1], np.arange(40) % 2)
    assert external_files(params, tmp_path) != before


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (pixels()[..., :2], np.zeros(40, int), "must be .N,H,W,C. or .N,C,H,W. with 1 or 3 channels"),
        (pixels(), np.zeros(39, int), "labels must be one number an image"),
        (pixels(), np.zeros(40), "labels must be numbers"),
        (pixels(), np.arange(40) % 2 - 1, "must be 0 to 0, places in its class_names. Got -1 to 0"),
        (pixels().astype(np.float32), np.arange(40) % 2, r"Got 40 of 40 .*\(its values must lie in \[0,1\]"),
    ],
)
def test_what_does_not_fit_is_named(images, labels, words, tmp_path):
    write(tmp_path / "mine.zarr", images, labels)
    with pytest.raises(InputError, match=words):
        load(tmp_path)


def test_missing_stores_and_arrays_are_named(tmp_path):
    with pytest.raises(InputError, match="The Zarr store .*mine.zarr does not exist"):
        load(tmp_path)
    zarr.open_group(tmp_path / "mine.zarr", mode="w").create_array("images", data=pixels())
    with pytest.raises(InputError, match="Got no labels"):
        load(tmp_path)


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_a_pickled_array_is_refused_unread(place, tmp_path):
    root = zarr.open_group(tmp_path / "mine.zarr", mode="w", zarr_format=2)
    root.create_array("images", data=pixels(), filters=None, compressors=None)
    root.create_array("labels", data=np.arange(40) % 2)
    described = tmp_path / "mine.zarr" / "images" / ".zarray"
    codec = {"id": Pickle().codec_id}
    values = json.loads(described.read_text()) | {place: [codec] if place == "filters" else codec}
    described.write_text(json.dumps(values))
    with pytest.raises(InputError, match="images must be (stored without pickle|numbers)"):
        load(tmp_path)
