import numpy as np
import pytest

from xai_robustness.chunks import ArraysJob, ChunkStream, open_arrays


def test_chunk_size_does_not_change_the_rows(tmp_path):
    for chunk in (1, 3, 10, 99):
        stream = ChunkStream(10, lambda a, b: {"x": np.arange(a, b), "y": np.ones((b - a, 2, 2), bool)}, chunk)
        ArraysJob({"train/biased": stream}).write(tmp_path / str(chunk))
        group = open_arrays(tmp_path / str(chunk))
        np.testing.assert_array_equal(group["train/biased/x"][:], np.arange(10))
        assert group["train/biased/y"].shape == (10, 2, 2)


def test_what_a_killed_write_left_is_removed(tmp_path):
    folder = tmp_path / "a"
    (folder / "g").mkdir(parents=True)
    (folder / "g" / "zarr.0123.partial").touch()
    ArraysJob({"g": ChunkStream(4, lambda a, b: {"x": np.arange(a, b)}, 2)}).write(folder)
    assert not list(folder.rglob("*.partial"))


def test_wrong_number_of_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="must have 2 rows"):
        ArraysJob({"g": ChunkStream(4, lambda a, b: {"x": np.arange(3)}, 2)}).write(tmp_path / "a")


def test_another_chunk_size_after_a_kill_leaves_no_gap(tmp_path):
    def compute(start, stop):
        if start >= limit:
            raise KeyboardInterrupt
        return {"x": np.arange(start, stop) + 1}

    limit = 4
    with pytest.raises(KeyboardInterrupt):
        ArraysJob({"g": ChunkStream(10, compute, 2)}).write(tmp_path / "a")
    limit = 99
    ArraysJob({"g": ChunkStream(10, compute, 5)}).write(tmp_path / "a")
    np.testing.assert_array_equal(open_arrays(tmp_path / "a")["g/x"][:], np.arange(10) + 1)


def test_another_chunk_size_after_a_kill_lets_no_two_workers_write_into_one_chunk(tmp_path):
    def job(size):
        return ArraysJob({"g": ChunkStream(100, lambda a, b: {"x": np.arange(a, b) + 1}, size)})

    job(16).write_chunk(tmp_path / "a", job(16).waiting(tmp_path / "a")[0])
    again = job(4)
    left = again.waiting(tmp_path / "a")
    assert left == [("g", start, min(start + 16, 100)) for start in range(16, 100, 16)]
    for chunk in reversed(left):
        again.write_chunk(tmp_path / "a", chunk)
    again.finish(tmp_path / "a")
    np.testing.assert_array_equal(open_arrays(tmp_path / "a")["g/x"][:], np.arange(100) + 1)
    assert open_arrays(tmp_path / "a")["g/x"].chunks == (16,)


def test_a_stream_can_write_into_the_group_of_another(tmp_path):
    streams = {"g": ChunkStream(4, lambda a, b: {"x": np.arange(a, b)}, 2)}
    streams["g/more"] = ChunkStream(2, lambda a, b: {"y": np.arange(a, b)}, 2, group="g")
    ArraysJob(streams).write(tmp_path / "a")
    assert sorted(open_arrays(tmp_path / "a")["g"].array_keys()) == ["x", "y"]
