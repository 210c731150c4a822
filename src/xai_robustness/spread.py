"""The chunks of a job spread over devices or workers by dask.distributed."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from xai_robustness.chunks import ArraysJob
from xai_robustness.progress import progress
from xai_robustness.types import NEUTRAL, Params

log = logging.getLogger(__name__)


class WorkersParams(Params):
    """Who computes the chunks. Nothing here changes a result."""

    n: Annotated[int | None, NEUTRAL] = Field(
        None, ge=1, description="Local worker processes; null: one a visible device, so none on the CPU."
    )
    scheduler: Annotated[str | None, NEUTRAL] = Field(
        None, description="Address of a Dask scheduler (a cluster by SLURM or dask-cuda) to be used instead."
    )


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
        devices = devices_for(self.device)
        n = self.params.n or len(devices)
        if n == 1 and self.params.scheduler is None:
            self.job.write(folder)
            return
        waiting = self.job.waiting(folder)
        if waiting:
            total = sum(stop - start for _, start, stop in waiting)
            with _client(n, self.params.scheduler) as client, progress(total, self.job.description) as bar:
                from dask.distributed import as_completed

                job = client.scatter(self.job, broadcast=True)
                tasks = [client.submit(_chunk, job, str(folder), item, devices, pure=False) for item in waiting]
                for task in as_completed(tasks):
                    bar.update(task.result())
        self.job.finish(folder)


def _chunk(job: ArraysJob, folder: str, item: tuple[str, int, int], devices: tuple[str, ...]) -> int:
    """Compute one chunk on this worker's device; returns its number of rows."""
    from dask.distributed import get_worker

    name = str(get_worker().name)
    device = devices[int(name) % len(devices)] if name.isdigit() else devices[0]
    return job.write_chunk(Path(folder), item, device)


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
