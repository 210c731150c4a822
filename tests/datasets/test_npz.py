import io
import zipfile

import numpy as np
import pytest

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.npz import check_npz, read_npz
from xai_robustness.types import SPLITS, InputError

GRAY = DatasetInfo("gray", "binary", ("no", "yes"), "CC0")
MULTI = DatasetInfo("multi", "multi-label", ("a", "b", "c"), "CC0")
COUNTS = {"train": 9, "val": 4, "test": 5}


def sound(columns=1, top=2, shape=(28, 28)):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in COUNTS.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, top, (n, columns), dtype=np.uint8)
    return arrays


def write(path, arrays, compressed=True):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("compressed", [True, False])
def test_gray_images_get_a_channel_and_labels_lose_a_column(tmp_path, compressed):
    arrays = sound()
    path = write(tmp_path / "a.npz", arrays, compressed)
    assert check_npz(path, GRAY) == COUNTS
    read = read_npz(path, GRAY)
    for split in SPLITS:
        np.testing.assert_array_equal(read[f"{split}_images"], arrays[f"{split}_images"][..., None])
        np.testing.assert_array_equal(read[f"{split}_labels"], arrays[f"{split}_labels"][:, 0])
        assert read[f"{split}_labels"].dtype == np.int64


def test_multi_label_and_colour_keep_their_axes(tmp_path):
    arrays = sound(columns=3, shape=(28, 28, 3))
    read = read_npz(write(tmp_path / "a.npz", arrays), MULTI)
    assert read["train_images"].shape == (9, 28, 28, 3)
    np.testing.assert_array_equal(read["train_labels"], arrays["train_labels"])


def test_rows_are_those_of_the_whole_file_over_block_borders(tmp_path, monkeypatch):
    monkeypatch.setattr("xai_robustness.datasets.npz._BLOCK_BYTES", 28 * 28 * 2)
    arrays = sound()
    rows = {"train": np.array([0, 1, 4, 8]), "val": np.array([3]), "test": np.array([], int)}
    read = read_npz(write(tmp_path / "a.npz", arrays), GRAY, rows)
    for split in SPLITS:
        np.testing.assert_array_equal(read[f"{split}_images"][..., 0], arrays[f"{split}_images"][rows[split]])
        np.testing.assert_array_equal(read[f"{split}_labels"], arrays[f"{split}_labels"][rows[split], 0])


def test_float_images_in_the_unit_range_become_bytes(tmp_path):
    arrays = sound()
    bytes_ = {key: value / 255 if key.endswith("images") else value for key, value in arrays.items()}
    read = read_npz(write(tmp_path / "a.npz", bytes_), GRAY)
    np.testing.assert_array_equal(read["train_images"][..., 0], arrays["train_images"])


def with_nan(arrays):
    images = arrays["val_images"] / 255
    images[1, 2, 3] = np.nan
    return {"val_images": images}


def with_label(value, split="test", dtype=np.int64):
    def change(arrays):
        labels = arrays[f"{split}_labels"].astype(dtype)
        labels[0] = value
        return {f"{split}_labels": labels}

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: {"val_labels": None}, "must hold the array 'val_labels'. Got test_images, test_labels"),
        (lambda a: {"train_images": a["train_images"][:, :, 0]}, r"'train_images' of .* must be uint8 \(N,H,W\)"),
        (lambda a: {"train_images": a["train_images"].astype(np.int32)}, "Got int32"),
        (lambda a: {"train_images": a["train_images"].astype(np.uint16)}, "Got uint16"),
        (lambda a: {"train_images": np.stack([a["train_images"]] * 4, 3)}, r"Got uint8 \(9, 28, 28, 4\)"),
        (lambda a: {"test_images": a["test_images"][:0], "test_labels": a["test_labels"][:0]}, "at least one sample"),
        (lambda a: {"test_labels": a["test_labels"][:-1]}, r"must be integers \(5,1\). Got uint8 \(4, 1\)"),
        (lambda a: {"test_labels": np.repeat(a["test_labels"], 2, 1)}, r"Got uint8 \(5, 2\)"),
        (with_label(2), r"whole numbers in 0..1. Got values \[2\]"),
        (with_label(-1), r"Got values \[-1\]"),
        (with_label(0.5, dtype=float), r"Got values \[0.5\]"),
        (with_label(np.nan, dtype=float), "free of NaN"),
        (with_nan, "'val_images' of .* free of NaN. Got 1 NaN"),
        (lambda a: {"val_images": a["val_images"] * 2.0}, r"must lie in \[0, 1\] or be uint8"),
        (lambda a: {"val_images": np.asfortranarray(a["val_images"])}, "in C order"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, change, sentence):
    arrays = sound()
    arrays = {key: value for key, value in {**arrays, **change(arrays)}.items() if value is not None}
    path = write(tmp_path / "bad.npz", arrays)
    for check in (check_npz, read_npz):
        with pytest.raises(InputError, match=sentence) as caught:
            check(path, GRAY)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_npz_is_one_sentence(tmp_path):
    path = tmp_path / "bad.npz"
    for content in (b"", b"not a zip", write(tmp_path / "a.npz", sound()).read_bytes()[:500]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="must be an npz file of plain arrays"):
            check_npz(path, GRAY)


def test_objects_are_never_unpickled(tmp_path):
    arrays = sound()
    arrays["train_images"] = np.array([{"a": 1}] * 9, dtype=object)
    with pytest.raises(InputError, match="plain array"):
        read_npz(write(tmp_path / "bad.npz", arrays), GRAY)


def test_a_member_that_ends_early_is_one_sentence(tmp_path):
    arrays = sound()
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, value)
            archive.writestr(f"{key}.npy", buffer.getvalue()[: -100 if key == "val_images" else None])
    assert check_npz(path, GRAY) == COUNTS
    with pytest.raises(InputError, match="'val_images' ends early"):
        read_npz(path, GRAY)
