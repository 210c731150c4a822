import json
import logging
import os

import numpy as np
import pytest
from PIL import Image
from tests.datasets.trees import isic2019, picture, table

from xai_robustness.datasets.files import DecodedRows
from xai_robustness.datasets.load import DataParams, check_dataset, dataset_info, external_files, load_dataset
from xai_robustness.types import SPLITS, InputError


@pytest.fixture
def isic(tmp_path):
    isic2019(tmp_path)
    return tmp_path


def isic_params(**changes):
    chosen = {"name": "isic2019", "size": 16, "classes": ["NV", "MEL", "BKL"], "val_share": 0.2, "test_share": 0.2}
    return DataParams(**chosen | changes)


def load(params, root, seed=0):
    return load_dataset(params, seed, root, cache=root / "cache")


def test_isic_classes_lesions_and_pixels(isic):
    splits = load(isic_params(), isic)
    assert sum(len(part.labels) for part in splits.values()) == 30
    assert splits["train"].info.class_names == ("NV", "MEL", "BKL") and splits["train"].info.licence == "CC BY-NC 4.0"
    groups = {split: set(part.extras["group"].tolist()) for split, part in splits.items()}
    assert not groups["train"] & groups["test"] and not groups["train"] & groups["val"]
    for part in splits.values():
        for name, label, image in zip(part.names, part.labels, part.images[: len(part.labels)]):
            number = int(name[-7:])
            assert part.info.class_names[label] == ("MEL", "NV", "BKL")[number // 2 % 3]
            with Image.open(isic / "isic2019" / "ISIC_2019_Training_Input" / f"{name}.jpg") as file:
                expected = np.asarray(file.resize((16, 16), Image.Resampling.BICUBIC))
            assert np.abs(image.astype(int) - expected).max() <= 2


def test_isic_images_may_lie_in_train(tmp_path):
    isic2019(tmp_path, images="Train")
    assert len(load(isic_params(), tmp_path)["train"].labels) > 10


def test_classes_are_chosen_and_joined(isic):
    joined = load(isic_params(classes={"melanoma": ["MEL"], "benign": ["NV", "BKL"]}), isic)
    labels = np.concatenate([part.labels for part in joined.values()])
    assert joined["train"].info.task == "binary" and np.bincount(labels).tolist() == [10, 20]
    kept = load(isic_params(classes=["NV", "MEL"]), isic)
    assert sum(len(part.labels) for part in kept.values()) == 20
    ids = {i for part in kept.values() for i in part.sample_ids.tolist()}
    assert ids <= set(range(30)) and len(ids) == 20
    with pytest.raises(InputError, match="Unknown class 'XYZ' in data.classes. Choose from: MEL, NV"):
        dataset_info(isic_params(classes=["NV", "XYZ"]), isic)


def test_splits_do_not_follow_the_seed_of_a_run_but_subsets_do(isic):
    first, second = (load(isic_params(), isic, seed)["test"].sample_ids for seed in (0, 1))
    np.testing.assert_array_equal(first, second)
    drawn = [set(load(isic_params(n_train=8), isic, seed)["train"].sample_ids.tolist()) for seed in range(4)]
    assert all(len(ids) == 8 for ids in drawn) and len(set(map(frozenset, drawn))) > 1


def test_files_are_decoded_once_and_decoding_goes_on_after_a_kill(isic, monkeypatch):
    from xai_robustness.datasets import decoded, files

    seen = []

    def counting(path, **kwargs):
        seen.append(path.name)
        return original(path, **kwargs)

    original = files.decode_image
    monkeypatch.setattr(files, "decode_image", counting)
    monkeypatch.setattr(decoded, "CHUNK", 8)
    calls = {"n": 0}

    def killed(*args):
        calls["n"] += 1
        if calls["n"] == 3:
            raise KeyboardInterrupt
        return write_chunk(*args)

    from xai_robustness.chunks import ArraysJob

    write_chunk = ArraysJob.write_chunk
    monkeypatch.setattr(ArraysJob, "write_chunk", killed)
    with pytest.raises(KeyboardInterrupt):
        load(isic_params(), isic)
    assert len(seen) == 16
    load(isic_params(), isic)
    assert sorted(seen) == sorted(f"ISIC_{i:07d}.jpg" for i in range(30))
    load(isic_params(test_share=0.3), isic)
    load(isic_params(), isic, seed=5)
    assert len(seen) == 30


FEW = {"n_train": 5, "n_val": 2, "n_test": 2}


def test_of_a_few_samples_only_their_files_are_decoded(isic, monkeypatch):
    from xai_robustness.datasets import files

    every, seen = load(isic_params(), isic), []
    original = files.decode_image
    monkeypatch.setattr(files, "decode_image", lambda path, **k: seen.append(path.stem) or original(path, **k))
    few = load(isic_params(**FEW), isic, seed=1)
    assert sorted(seen) == sorted(name for part in few.values() for name in part.names)
    undecoded = load_dataset(isic_params(**FEW), 1, isic, decode=False)
    for split, part in few.items():
        assert len(part.labels) == FEW[f"n_{split}"]
        np.testing.assert_array_equal(part.sample_ids, undecoded[split].sample_ids)
        rows = np.searchsorted(every[split].sample_ids, part.sample_ids)
        np.testing.assert_array_equal(part.images[:], every[split].images[:][rows])
        np.testing.assert_array_equal(part.labels, every[split].labels[rows])
        np.testing.assert_array_equal(part.extras["group"], every[split].extras["group"][rows])


def test_of_a_few_samples_bad_files_are_named_and_left_out_on_request(isic):
    chosen = load(isic_params(**FEW), isic)["train"].sample_ids
    (isic / "isic2019" / "ISIC_2019_Training_Input" / f"ISIC_{chosen[2]:07d}.jpg").write_text("no image")
    with pytest.raises(InputError, match="Got 1 of 9 that are not"):
        load(isic_params(**FEW), isic)
    kept = load(isic_params(**FEW, skip_bad=True), isic)["train"].sample_ids
    np.testing.assert_array_equal(kept, np.delete(chosen, 2))


def test_files_that_look_alike_are_not_taken_for_each_other(tmp_path):
    for i in range(24):
        picture(tmp_path / "mine" / "abc"[i % 3] / f"{i // 3}.bmp", i, side=16)
    for path in (tmp_path / "mine").rglob("*.bmp"):
        os.utime(path, (0, 0))
    for classes in (["a", "b"], ["a", "c"]):
        splits = load(own(tmp_path / "mine", classes=classes), tmp_path)
        for part in splits.values():
            for name, image in zip(part.names, part.images[:]):
                with Image.open(next((tmp_path / "mine").glob(f"{name}*"))) as file:
                    np.testing.assert_array_equal(image, np.asarray(file))


def test_a_changed_file_changes_the_fingerprint(isic):
    before = external_files(isic_params(), isic)
    assert before == external_files(isic_params(), isic)
    picture(isic / "isic2019" / "ISIC_2019_Training_Input" / "ISIC_0000003.jpg", 99, side=30)
    after = external_files(isic_params(), isic)
    assert (
        before != after and before["ISIC_2019_Training_GroundTruth.csv"] == after["ISIC_2019_Training_GroundTruth.csv"]
    )


def marked(splits):
    return {n for p in splits.values() for n, has in zip(p.names, p.extras["artifact:ruler"]) if has}


def test_artifact_labels_are_matched_by_name_and_the_unmatched_counted(isic, caplog):
    names = [f"ISIC_{i:07d}" for i in (0, 1, 2, 9)]
    (isic / "isic2019" / "art.json").write_text(json.dumps({"ruler": [*names, "ISIC_9999999"], "pen": []}))
    with caplog.at_level(logging.WARNING):
        splits = load(isic_params(artifact_labels="art.json"), isic)
    assert marked(splits) == set(names)
    every = [f"ISIC_{i:07d}" for i in range(28)]
    assert "ruler: 1 of 5 labels match no sample: ISIC_9999999" in caplog.text
    table(isic / "isic2019" / "art.csv", [{"image": n, "ruler": int(n in names)} for n in every])
    again = load(isic_params(artifact_labels="art.csv"), isic)
    assert marked(again) == set(names)
    assert sum(len(part.labels) for part in again.values()) == 28  # of the others nothing is known
    (isic / "isic2019" / "none.json").write_text(json.dumps({"ruler": ["x"]}))
    with pytest.raises(InputError, match="Got none that match"):
        check_dataset(isic_params(artifact_labels="none.json"), isic)


def test_bad_files_are_named_and_counted_and_skipped_only_on_request(isic, caplog):
    images = isic / "isic2019" / "ISIC_2019_Training_Input"
    whole = (images / "ISIC_0000004.jpg").read_bytes()
    (images / "ISIC_0000004.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "ISIC_0000007.jpg").write_text("no image")
    with pytest.raises(
        InputError, match=r"Got 2 of 30 that are not.*ISIC_0000004.jpg \(.*\), ISIC_0000007.jpg \(cannot identify"
    ):
        load(isic_params(), isic)
    with caplog.at_level(logging.WARNING):
        splits = load(isic_params(skip_bad=True), isic)
    kept = {i for part in splits.values() for i in part.sample_ids.tolist()}
    assert kept == set(range(30)) - {4, 7} and "2 files that cannot be read were left out" in caplog.text


def test_missing_images_are_named_before_anything_is_decoded(isic):
    (isic / "isic2019" / "ISIC_2019_Training_Input" / "ISIC_0000002.jpg").unlink()
    with pytest.raises(InputError, match=r"Got 1 of 30 without one instead: .*ISIC_0000002.jpg"):
        check_dataset(isic_params(), isic)
    check_dataset(isic_params(skip_bad=True), isic)
    assert not (isic / "cache").exists()


def test_duplicate_ids_and_unknown_columns_are_refused(isic):
    path = isic / "isic2019" / "ISIC_2019_Training_GroundTruth.csv"
    text = path.read_text()
    path.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(InputError, match="Got 1 names twice or more instead: ISIC_0000000"):
        check_dataset(isic_params(), isic)
    path.write_text(text.replace("image,", "picture,", 1))
    with pytest.raises(InputError, match="must have the column 'image'. Got picture, MEL"):
        check_dataset(isic_params(), isic)
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        check_dataset(isic_params(), isic)


def own(root, **changes):
    return DataParams(
        **{"name": "folder", "folder": str(root), "size": 16, "val_share": 0.25, "test_share": 0.25} | changes
    )


def test_folder_with_a_table(tmp_path):
    rows = []
    for i in range(24):
        picture(tmp_path / "pics" / f"{i}.png", i)
        split = ("train", "training", "val", "test")[i % 4]
        rows.append({"file": f"pics/{i}.png", "dx": "ab"[i % 2], "patient": f"p{i % 4}", "fold": split})
    table(tmp_path / "labels.csv", rows)
    columns = {"table": "labels.csv", "image_column": "file", "label_column": "dx", "group_column": "patient"}
    params = own(tmp_path, **columns, split_column="fold")
    splits = load(params, tmp_path)
    assert [len(splits[split].labels) for split in SPLITS] == [12, 6, 6]
    assert splits["train"].info.class_names == ("a", "b") and splits["train"].info.task == "binary"
    grouped = load(own(tmp_path, **columns), tmp_path)
    patients = [{int(n[5:-4]) % 4 for n in part.names} for part in grouped.values()]
    assert sum(map(len, patients)) == 4
    with pytest.raises(InputError, match="must have the column 'diagnosis'. Got file, dx"):
        check_dataset(own(tmp_path, **columns | {"label_column": "diagnosis"}), tmp_path)


def test_folder_with_several_labels_an_image(tmp_path):
    rows = []
    for i in range(20):
        picture(tmp_path / f"{i}.png", i)
        rows.append({"image": f"{i}.png", "label": ("x|y", "x", "y", ("", "NaN")[i // 4 % 2])[i % 4]})
    table(tmp_path / "t.csv", rows)
    train = load(own(tmp_path, table="t.csv"), tmp_path)["train"]
    assert train.info.task == "multi-label" and train.labels.shape[1] == 2
    expected = {0: [1, 1], 1: [1, 0], 2: [0, 1], 3: [0, 0]}
    assert all(label.tolist() == expected[int(i) % 4] for i, label in zip(train.sample_ids, train.labels))


def test_folder_of_class_folders_with_and_without_official_splits(tmp_path):
    for i in range(16):
        picture(tmp_path / "flat" / "ab"[i % 2] / f"{i}.jpg", i)
        picture(tmp_path / "nested" / ("train", "train", "val", "test")[i // 2 % 4] / "ab"[i % 2] / f"{i}.jpg", i)
    flat, nested = load(own(tmp_path / "flat"), tmp_path), load(own(tmp_path / "nested"), tmp_path)
    assert [len(flat[s].labels) for s in SPLITS] == [8, 4, 4]
    assert [len(nested[s].labels) for s in SPLITS] == [8, 4, 4]
    assert all(name.startswith("test/") for name in nested["test"].names)


def test_a_table_cannot_name_files_outside_of_its_folder(tmp_path):
    table(tmp_path / "in" / "t.csv", [{"image": "../secret.png", "label": "a"}, {"image": "b.png", "label": "b"}])
    with pytest.raises(InputError, match="must lie inside of it. Got '../secret.png'"):
        check_dataset(own(tmp_path / "in", table="t.csv"), tmp_path)


class Store:
    """A stored array that notes how many rows each read takes."""

    def __init__(self, values: np.ndarray, chunk: int) -> None:
        self.values, self.shape, self.dtype, self.chunks = values, values.shape, values.dtype, (chunk, 1, 1)
        self.read: list[int] = []

    def __getitem__(self, rows: slice) -> np.ndarray:
        found = self.values[rows]
        self.read.append(len(found))
        return found


def test_rows_of_a_small_split_are_read_one_chunk_at_a_time():
    values = np.random.default_rng(0).integers(0, 255, (100, 3, 2), dtype=np.uint8)
    store, rows = Store(values, 16), np.random.default_rng(1).permutation(100)[:30]
    part = DecodedRows(store, rows)
    np.testing.assert_array_equal(part[3:27], values[rows[3:27]])
    assert max(store.read) == 16 and len(store.read) == 7
    assert part[0:0].shape == (0, 3, 2) and part.shape == (30, 3, 2)
