"""Batch sizes that fit: a line through the peak memory of two small batches, verified once; halved when it runs out."""

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import Field

from xai_robustness.types import Params

log = logging.getLogger(__name__)
T = TypeVar("T")
Trial = Callable[[int], object]
"""Explains a batch of the given size and forgets the result."""

SMALL = (2, 6)
"""The two batch sizes that the memory model rests on."""

CGROUP = Path("/sys/fs/cgroup")
WORDS = ("out of memory", "can't allocate memory", "not enough memory")


class PreflightParams(Params):
    """Batch sizes of attribution methods. Nothing here changes an attribution."""

    enabled: bool = Field(True, description="Measure memory before an attribution set is made.")
    share: float = Field(0.5, gt=0, le=1, description="Share of the free memory that may be used.")
    batch_size: int = Field(32, ge=1, description="Largest batch; the one used without a probe.")
    batch_sizes: dict[str, int] = Field({}, description="Method's key -> its batch size; as given.")


@dataclass(frozen=True)
class Measured:
    """What the probe found out about one method.

    Attributes:
        batch_size: the one to use.
        fixed_bytes: memory that any batch needs, by the line through two small batches.
        bytes_per_sample: memory that each sample adds.
        verified_bytes: measured peak at `batch_size`.
    """

    batch_size: int
    fixed_bytes: int
    bytes_per_sample: int
    verified_bytes: int


def measure(
    trial: Trial, device: torch.device, share: float, limit: int, available: int | None = None, floor: int = 1
) -> Measured:
    """Find the largest batch that needs at most `share` of the free memory, and run it once.

    Args:
        trial: explains n samples.
        device: where it computes.
        share: share of the free memory that may be used, in (0,1].
        limit: largest batch that is wanted, at least 1.
        available: bytes that are free; None: asked of the device.
        floor: least memory a sample needs, in bytes, below which a measured slope is taken for noise.
    """
    budget = int(share * (free_memory(device) if available is None else available))
    few, some = min(SMALL[0], limit), min(SMALL[1], limit)
    trial(few)  # what is made once: libraries, handles, caches
    low, high = peak_memory(trial, few, device), peak_memory(trial, some, device)
    slope = max((high - low) / max(some - few, 1), floor)
    fixed = max(low - slope * few, 0.0)
    size = max(1, min(limit, int((budget - fixed) / slope)))
    while True:
        used = peak_memory(trial, size, device)
        if size == 1 or used <= budget:
            return Measured(size, int(fixed), int(slope), min(used, 2**62))
        size = max(1, min(size - 1, int(size * budget / used)))


def measure_all(
    trials: dict[str, Trial], device: torch.device, params: PreflightParams, limit: int, floor: int
) -> dict[str, object]:
    """The report that users read: free memory, and `Measured` for each method; batch sizes given by hand stay.

    Args:
        trials: key of the method -> its trial.
        device: where they compute.
        params: how; sizes named in `batch_sizes` are not probed.
        limit: samples there are at most in a batch.
        floor: bytes of one image.
    """
    if not trials:
        return {"methods": {}}
    limit = min(params.batch_size, limit)
    methods: dict[str, object] = {}
    for key, trial in trials.items():
        if key in params.batch_sizes:
            methods[key] = {"batch_size": params.batch_sizes[key], "given": True}
        elif params.enabled:
            methods[key] = asdict(measure(trial, device, params.share, limit, floor=floor))
        else:
            methods[key] = {"batch_size": limit, "given": False}
    return {"device": str(device), "free_bytes": free_memory(device), "share": params.share, "methods": methods}


def free_memory(device: torch.device) -> int:
    """Bytes that a process can still take on the device; on the CPU also within the limit of its control group."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    import psutil

    free = psutil.virtual_memory().available
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return int(free if limit == "max" else min(free, max(0, int(limit) - int(used))))
    except (OSError, ValueError):
        return int(free)


def peak_memory(trial: Trial, size: int, device: torch.device) -> int:
    """Bytes that a batch of `size` takes at its peak, beyond what was taken before; huge where it does not fit."""
    gc.collect()
    release(device)
    failed = False
    with _peak(device) as peak:
        try:
            trial(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = True
    release(device)
    return 2**62 if failed else peak[0]


@contextmanager
def _peak(device: torch.device) -> Iterator[list[int]]:
    """Measure the peak inside the context, in bytes: the allocator's own on CUDA, resident memory elsewhere."""
    found = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device) - before
        return
    import psutil

    process, done = psutil.Process(), threading.Event()

    def taken() -> int:
        return int(torch.mps.driver_allocated_memory() if device.type == "mps" else process.memory_info().rss)

    before = taken()

    def watch() -> None:
        while not done.wait(0.001):
            found[0] = max(found[0], taken() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        found[0] = max(found[0], taken() - before)
        done.set()
        watcher.join()


def release(device: torch.device) -> None:
    """Give cached memory back to the device or to the system."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    else:
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps what is freed, which would count again
        if trim is not None:
            trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device; other runtime errors are none of this."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in WORDS)


@dataclass
class BatchSize:
    """A batch size that shrinks when memory runs out, and stays small."""

    value: int


def in_batches(run: Callable[[slice], T], start: int, stop: int, size: BatchSize, device: torch.device) -> list[T]:
    """Results of `run` over rows start:stop in batches; a batch that does not fit is halved and tried again.

    Raises:
        Whatever `run` raises, and its out-of-memory error where a single sample does not fit.
    """
    found: list[T] = []
    while start < stop:
        rows = slice(start, min(start + size.value, stop))
        failed = False
        try:
            found.append(run(rows))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or rows.stop - rows.start == 1:
                raise
            failed = True
        if failed:  # outside of the handler, so that the traceback holds nothing any more
            size.value = max(1, (rows.stop - rows.start) // 2)
            log.warning("Out of memory with %d samples at once: going on with %d.", rows.stop - rows.start, size.value)
            gc.collect()
            release(device)
        else:
            start = rows.stop
    return found
