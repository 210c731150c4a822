import pytest
import torch

from xai_robustness.attribution import probe
from xai_robustness.attribution.probe import (
    BatchSize,
    PreflightParams,
    in_batches,
    is_out_of_memory,
    measure,
    measure_all,
)

CPU = torch.device("cpu")
MB = 2**20


def linear(n: int) -> None:
    """Needs 8 MB and 8 MB for each sample."""
    torch.ones((1 + n) * 2 * MB)


def test_the_largest_batch_that_fits() -> None:
    found = measure(linear, CPU, share=0.5, limit=64, available=200 * MB)
    assert 9 <= found.batch_size <= 12  # 100 MB / 8 MB, less the fixed part
    assert found.verified_bytes <= 100 * MB
    assert 6 * MB < found.bytes_per_sample < 10 * MB


def test_the_limit_holds() -> None:
    assert measure(linear, CPU, share=0.5, limit=4, available=2**40).batch_size == 4
    assert measure(linear, CPU, share=0.5, limit=1, available=2**40).batch_size == 1


def test_verification_catches_what_grows_faster_than_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "peak_memory", lambda trial, n, device: n**2 * MB)
    found = measure(lambda n: None, CPU, share=1.0, limit=1000, available=400 * MB)
    assert found.batch_size <= 20 and found.verified_bytes <= 400 * MB


def test_a_batch_that_does_not_fit_at_all_is_made_smaller() -> None:
    def trial(n: int) -> None:
        if n > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    found = measure(trial, CPU, share=0.5, limit=64, available=2**40)
    assert 1 <= found.batch_size <= 10


def test_other_errors_of_a_trial_are_not_hidden() -> None:
    def trial(n: int) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        measure(trial, CPU, share=0.5, limit=64, available=2**40)


def test_sizes_given_by_hand_stay_and_a_switched_off_probe_runs_nothing() -> None:
    def never(n: int) -> None:
        raise AssertionError("not to be run")

    off = PreflightParams(enabled=False, batch_size=16, batch_sizes={"mine": 5})
    report = measure_all({"mine": never, "other": never}, CPU, off, limit=12, floor=1)
    assert report["methods"] == {
        "mine": {"batch_size": 5, "given": True},
        "other": {"batch_size": 12, "given": False},
    }
    assert measure_all({}, CPU, off, limit=12, floor=1) == {"methods": {}}
    on = measure_all({"mine": never, "other": linear}, CPU, PreflightParams(batch_sizes={"mine": 5}), 3, 1)
    assert on["methods"]["other"]["batch_size"] == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: "), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_the_real_error_of_the_cpu_counts() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


def test_out_of_memory_halves_the_batch_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    def run(rows: slice) -> list[int]:
        tried.append(rows.stop - rows.start)
        if tried[-1] > 3:
            torch.empty(2**60)
        return list(range(rows.start, rows.stop))

    size = BatchSize(8)
    parts = in_batches(run, 5, 20, size, CPU)
    assert [row for part in parts for row in part] == list(range(5, 20))
    assert size.value == 2 and tried[:4] == [8, 4, 2, 2]
    assert "Out of memory with 8 samples at once: going on with 4." in caplog.text


def test_one_sample_that_does_not_fit_and_other_errors_are_raised() -> None:
    def too_large(rows: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def wrong(rows: slice) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(torch.OutOfMemoryError):
        in_batches(too_large, 0, 4, BatchSize(4), CPU)
    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(wrong, 0, 4, BatchSize(4), CPU)
