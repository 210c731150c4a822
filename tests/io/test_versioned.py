from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError, Version

from xai_robustness.chunks import ArraysJob, ChunkStream
from xai_robustness.io.datasets import Arrays, Report, Table


def table(folder: Path, save: str | None = None, load: str | None = None) -> Table:
    return Table(filepath=str(folder / "t.csv"), version=Version(load, save))


def test_round_trip_keeps_numbers_to_the_bit(tmp_path):
    data = pd.DataFrame({"x": [0.1, 1 / 3, np.nan], "s": ["a", "b", "c"], "flag": [True, False, True]})
    dataset = table(tmp_path, "v1")
    dataset.save(data)
    pd.testing.assert_frame_equal(table(tmp_path).load(), data)


def test_three_versions_are_kept_and_the_newest_loads(tmp_path):
    for i in range(5):
        table(tmp_path, f"v{i}").save(pd.DataFrame({"x": [i]}))
    assert sorted(p.name for p in (tmp_path / "t.csv").iterdir()) == ["v2", "v3", "v4"]
    assert table(tmp_path).load().x[0] == 4
    assert table(tmp_path, load="v2").load().x[0] == 2
    newest = table(tmp_path)
    assert newest.load_version("v3").x[0] == 3 and newest.load().x[0] == 4


def test_a_version_whose_deletion_was_killed_is_none(tmp_path, monkeypatch):
    for i in range(3):
        table(tmp_path, f"v{i}").save(pd.DataFrame({"x": [i]}))
    monkeypatch.setattr("shutil.rmtree", lambda path, **_: (path / "t.csv").unlink())  # provenance.json stays
    table(tmp_path, "v3").save(pd.DataFrame({"x": [3]}))
    assert list(table(tmp_path).provenances()) == ["v1", "v2", "v3"]
    monkeypatch.undo()
    table(tmp_path, "v4").save(pd.DataFrame({"x": [4]}))
    assert sorted(p.name for p in (tmp_path / "t.csv").iterdir()) == ["v2", "v3", "v4"]


def test_a_failed_save_leaves_no_version(tmp_path):
    report = Report(filepath=str(tmp_path / "r.json"), version=Version(None, "v1"))
    with pytest.raises(DatasetError):
        report.save({"x": object()})
    assert not report.exists()
    assert report.provenances() == {}


def test_an_interrupted_job_goes_on_where_it_stopped(tmp_path):
    computed: list[int] = []

    def job(fail_at: int | None) -> ArraysJob:
        def compute(start: int, stop: int):
            if start == fail_at:
                raise RuntimeError("power cut")
            computed.append(start)
            return {"x": np.arange(start, stop, dtype=np.float32)}

        return ArraysJob({"a/b": ChunkStream(10, compute, 3)}, {"unit": "mm"})

    def arrays(version: str) -> Arrays:
        dataset = Arrays(filepath=str(tmp_path / "a.zarr"), version=Version(None, version))
        dataset.provenance = {"fingerprint": "f" * 32}
        return dataset

    with pytest.raises(DatasetError, match="power cut"):
        arrays("v1").save(job(fail_at=6))
    assert not arrays("v1").exists()
    arrays("v2").save(job(fail_at=None))
    assert computed == [0, 3, 6, 9]
    store = arrays("v3").load()
    np.testing.assert_array_equal(store["a/b/x"][:], np.arange(10))
    assert store.attrs["unit"] == "mm"


def test_a_partial_of_another_fingerprint_is_not_reused(tmp_path):
    def arrays(fingerprint: str) -> Arrays:
        dataset = Arrays(filepath=str(tmp_path / "a.zarr"), version=Version(None, f"v{fingerprint[0]}"))
        dataset.provenance = {"fingerprint": fingerprint * 32}
        return dataset

    def job(value: float, broken: bool) -> ArraysJob:
        def compute(start: int, stop: int):
            if broken and start:
                raise RuntimeError
            return {"x": np.full(stop - start, value)}

        return ArraysJob({"g": ChunkStream(4, compute, 2)})

    with pytest.raises(DatasetError):
        arrays("1").save(job(1.0, broken=True))
    arrays("2").save(job(2.0, broken=False))
    assert set(arrays("3").load()["g/x"][:]) == {2.0}


def test_a_version_with_a_path_separator_is_refused(tmp_path):
    with pytest.raises(DatasetError):
        table(tmp_path, load="../other").load()
