"""Parts of a job spread over devices or workers by dask.distributed."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field

from xai_robustness.chunks import ArraysJob
from xai_robustness.progress import progress
from xai_robustness.types import NEUTRAL, Params

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkersParams(Params):
    """Who computes the parts of a job. Nothing here changes a result."""

    n: Annotated[int | None, NEUTRAL] = Field(
        None, ge=1, description="Local worker processes; null: one a visible device, so none on the CPU."
    )
    scheduler: Annotated[str | None, NEUTRAL] = Field(
        None, description="Address of a Dask scheduler (a cluster by SLURM or dask-cuda) to be used instead."
    )

    def several(self, device: str) -> bool:
        """Whether others than this process compute, for the run's device setting."""
        return self.scheduler is not None or (self.n or len(devices_for(device))) > 1


def devices_for(device: str) -> tuple[str, ...]:
    """The devices that a setting means: `cuda` is all visible ones, anything else is itself.

    Example:
        >>> devices_for("cpu"), devices_for("cuda:1")
        (('cpu',), ('cuda:1',))
    """
    if device == "cuda" and torch.cuda.device_count() > 1:
        return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    return (device,)


@dataclass(frozen=True)
class SpreadJob:
    """A job whose chunks are computed by several workers; they write their chunks, the parent counts and logs.

    Attributes:
        job: what to compute; its streams' `compute` may have a method `on(device)` that gives it for another device.
        params: how many workers, or whose.
        device: setting of the run.
    """

    job: ArraysJob
    params: WorkersParams
    device: str

    def write(self, folder: Path) -> None:
        """Complete `folder`; with one worker in this process, else through Dask. Interrupted writes go on."""
        if not self.params.several(self.device):
            self.job.write(folder)
            return
        waiting = self.job.waiting(folder)
        if waiting:
            total = sum(stop - start for _, start, stop in waiting)
            with progress(total, self.job.description) as bar:
                for n in spread(_chunk, (self.job, folder), waiting, self.params, self.device):
                    bar.update(n)
        self.job.finish(folder)


def _chunk(shared: tuple[ArraysJob, Path], item: tuple[str, int, int], device: str) -> int:
    """Compute one chunk; returns its number of rows."""
    job, folder = shared
    return job.write_chunk(folder, item, device)


def spread(
    call: Callable[[Shared, Item, str], Result],
    shared: Shared,
    items: Sequence[Item],
    params: WorkersParams,
    device: str,
) -> Iterator[Result]:
    """Results of `call(shared, item, device of the worker)` for each item, in the order in which workers finish.

    Args:
        call: a function of a module.
        shared: sent to every worker once.
        items: one call each.
        params: how many workers, or whose.
        device: setting of the run.
    """
    devices = devices_for(device)
    with _client(params.n or len(devices), params.scheduler) as client:
        from dask.distributed import as_completed

        given = client.scatter(shared, broadcast=True)
        tasks = [client.submit(_on_worker, call, given, item, devices, pure=False) for item in items]
        for task in as_completed(tasks):
            yield task.result()


def _on_worker(call: Callable[..., Any], shared: Any, item: Any, devices: tuple[str, ...]) -> Any:
    from dask.distributed import get_worker

    name = str(get_worker().name)
    return call(shared, item, devices[int(name) % len(devices)] if name.isdigit() else devices[0])


@contextmanager
def _client(n: int, scheduler: str | None) -> Iterator[Any]:
    from dask.distributed import Client, LocalCluster

    if scheduler is not None:
        with Client(scheduler) as client:
            yield client
        return
    options = {"dashboard_address": None, "silence_logs": logging.ERROR, "memory_limit": 0}
    with (
        LocalCluster(n_workers=n, threads_per_worker=1, processes=True, **options) as cluster,
        Client(cluster) as client,
    ):
        yield client
