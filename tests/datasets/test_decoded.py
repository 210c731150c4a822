"""The store of decoded files: never that of other samples, never half of one, never what was true yesterday."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from tests.datasets.trees import ecg, ptbxl, write_record

from xai_robustness.datasets import decode, decoded
from xai_robustness.datasets.decode import BadFileError
from xai_robustness.datasets.load import DataParams, external_files, load_dataset
from xai_robustness.types import SPLITS, InputError


def folder(root):
    """24 images of two classes, all of one size and one time of change; the value of image i is i."""
    for i in range(24):
        path = root / "mine" / "ab"[i % 2] / f"{i:02d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(path)
        os.utime(path, (0, 0))
    return root


def params(**changes):
    chosen = {"name": "folder", "folder": "mine", "size": 16, "val_share": 0.25, "test_share": 0.25}
    return DataParams(**chosen | changes)


def load(root, **changes):
    return load_dataset(params(**changes), 0, root, cache=root / "cache")


def values(splits):
    """Sample id -> value of its image."""
    return {int(i): int(x[0, 0, 0]) for part in splits.values() for i, x in zip(part.sample_ids, part.images[:])}


def test_samples_of_another_table_are_not_taken_for_those_of_the_first(tmp_path):
    for i in range(24):
        path = tmp_path / "mine" / f"p{i}" / "view.bmp"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(path)
        os.utime(path, (0, 0))
    for start in (0, 12):
        rows = [f"p{i}/view.bmp,{'ab'[i % 2]}" for i in range(start, start + 12)]
        (tmp_path / "mine" / "t.csv").write_text("\n".join(["image,label", *rows]) + "\n")
        found = values(load(tmp_path, table="t.csv"))
        assert found == {i: start + i for i in range(12)}


def test_a_store_that_is_deleted_while_it_is_read_is_an_error_and_no_black_image(tmp_path):
    splits = load(folder(tmp_path))
    (store,) = (tmp_path / "cache").glob("*.zarr")
    shutil.rmtree(store / "all")
    assert (splits["train"].images[:] == 0).all()  # that is what Zarr makes of it
    (store / decoded.WHOLE).unlink()
    with pytest.raises(InputError, match="must stay until a run has read them"):
        splits["train"].images[:]


def test_of_unused_stores_three_stay_and_one_that_is_half_deleted_is_made_anew(tmp_path, monkeypatch):
    first = values(load(folder(tmp_path)))
    (store,) = (tmp_path / "cache").glob("*.zarr")
    for size in (17, 18, 19):
        load(tmp_path, size=size)
    assert store.exists()  # a run of today may read it
    os.utime(store / decoded.WHOLE, (0, 0))
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: None)  # killed before anything is deleted
    load(tmp_path, size=20)
    assert not store.exists() and list((tmp_path / "cache").glob(".deleted-*"))
    assert values(load(tmp_path)) == first
    monkeypatch.undo()
    os.utime(next((tmp_path / "cache").glob("[!.]*.zarr")) / decoded.WHOLE, (0, 0))
    load(tmp_path, size=21)
    assert not list((tmp_path / "cache").glob(".deleted-*"))


def test_what_could_not_be_read_once_is_tried_again(tmp_path, monkeypatch):
    folder(tmp_path)
    original = decode.decode_image

    def hiccup(path, **kwargs):
        if path.stem in ("03", "04"):
            raise BadFileError("Input/output error")
        return original(path, **kwargs)

    monkeypatch.setattr("xai_robustness.datasets.files._version", lambda _: "1")
    monkeypatch.setattr("xai_robustness.datasets.files.decode_image", hiccup)
    with pytest.raises(InputError, match=r"Got 2 of 24 that are not instead: 04.bmp \(Input/output error\)"):
        load(tmp_path)
    monkeypatch.setattr("xai_robustness.datasets.files.decode_image", original)
    found = values(load(tmp_path))
    assert sorted(found.values()) == list(range(24))


def test_other_code_that_decodes_makes_another_store(tmp_path, monkeypatch):
    folder(tmp_path)
    load(tmp_path)
    monkeypatch.setattr("xai_robustness.datasets.files.code_hashes", lambda function: {"decode": "other"})
    load(tmp_path)
    assert len(list((tmp_path / "cache").glob("*.zarr"))) == 2


def test_moving_a_file_to_another_class_or_renaming_a_class_counts(tmp_path):
    folder(tmp_path)
    found = [external_files(params(), tmp_path)]
    (tmp_path / "mine" / "a" / "22.bmp").rename(tmp_path / "mine" / "b" / "22.bmp")
    found.append(external_files(params(), tmp_path))
    for old, new in (("a", "benign"), ("b", "malignant")):
        (tmp_path / "mine" / old).rename(tmp_path / "mine" / new)
    found.append(external_files(params(), tmp_path))
    for classes in ({"x": ["benign"], "y": ["malignant"]}, {"y": ["malignant"], "x": ["benign"]}):
        found.append(external_files(params(classes=classes), tmp_path))
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


def test_two_tables_of_one_name_count_both(tmp_path):
    folder(tmp_path)
    rows = [f"{'ab'[i % 2]}/{i:02d}.bmp,{'ab'[i % 2]}" for i in range(24)]
    path = tmp_path / "mine" / "labels.csv"
    path.write_text("\n".join(["image,label", *rows]) + "\n")
    (tmp_path / "mine" / "marks").mkdir()
    marks = [f"{'ab'[i % 2]}/{i:02d}.bmp,{int(i < 8)}" for i in range(24)]
    (tmp_path / "mine" / "marks" / "labels.csv").write_text("\n".join(["image,pen", *marks]) + "\n")
    chosen = params(table="labels.csv", artifact_labels="marks/labels.csv")
    before = external_files(chosen, tmp_path)
    path.write_text(path.read_text() + "\n")  # the samples stay as they are
    after = external_files(chosen, tmp_path)
    assert sum(before[key] != after[key] for key in before) == 1 and before.keys() == after.keys()


def test_the_signal_of_a_record_counts_and_not_its_header_alone(tmp_path):
    records = ptbxl(tmp_path)
    chosen = DataParams(name="ptbxl")
    first = load_dataset(chosen, 0, tmp_path, cache=tmp_path / "cache")
    before = external_files(chosen, tmp_path)
    signal, header = (records / "records100" / "00000" / f"00001_lr.{kind}" for kind in ("dat", "hea"))
    told = header.read_bytes(), header.stat()
    write_record(signal.with_suffix(""), ecg(seed=99)[0])
    header.write_bytes(told[0])
    os.utime(header, ns=(told[1].st_atime_ns, told[1].st_mtime_ns))
    assert external_files(chosen, tmp_path) != before
    again = load_dataset(chosen, 0, tmp_path, cache=tmp_path / "cache")
    assert any(not np.array_equal(first[s].images[:], again[s].images[:]) for s in SPLITS)
    signal.unlink()
    with pytest.raises(InputError, match="Got 1 of 20 without one instead: .*00001_lr.dat"):
        external_files(chosen, tmp_path)
