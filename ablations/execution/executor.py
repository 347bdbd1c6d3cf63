"""Who does the jobs of a command: worker processes on this machine, or workers on the nodes of a Ray cluster."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rich.console import Console

from ablations.execution.forkserver import start_server
from ablations.execution.job_retries import JobQueue
from ablations.execution.jobs_progress import JobsProgress
from ablations.execution.local_pool import LocalPool, local_slots
from ablations.execution.ray_address import cluster_address, reach
from ablations.execution.worker_pool import WorkerPool
from mae.config.tree import Config
from mae.errors import UserError
from mae.runtime.imports import importing
from mae.runtime.interruption import stop_on_signals
from mae.runtime.progress import ConsoleProgress, Progress
from mae.runtime.threads import wait_passively


@dataclass(frozen=True)
class Executor:
    """Where jobs run and how many at a time; `address` is a Ray cluster's, without one Ray starts on this machine.

    `later` are modules that this process will need once all jobs are done: it imports them while it waits.

    Raises `UserError` if that cannot be.
    """

    device: str = "auto"
    workers: int | None = None
    per_gpu: int = 1
    kind: Literal["local", "ray"] = "local"
    address: str | None = None
    later: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.address and self.kind != "ray":
            raise UserError(f"--address {self.address}: only --executor ray has an address")
        if self.kind == "ray" and find_spec("ray") is None:
            raise UserError("--executor ray needs Ray, which is not installed: pip install 'mae-cli[cluster]'")

    def reach(self) -> None:
        """Raise `UserError` if the device or the Ray cluster is not there.

        To be asked before anything that needs it is on record.
        """
        if self.kind == "ray":
            reach(cluster_address(self.address))
        elif self.device not in ("auto", "cpu"):
            from mae.runtime.machine import choose_device

            choose_device(self.device)

    def prepare(self, say: Callable[[str], None]) -> None:
        """Have the server that workers are forked from import PyTorch while this process does so itself."""
        if self.kind == "local":
            wait_passively(say, max(self.workers or 1, self.per_gpu))  # the server hands its environment on
            start_server()

    def decode(self, configs: Iterable[Config], progress: Progress) -> None:
        """Decode the images of `configs` once, before any worker needs them, and say what they are.

        `UserError` if they are not fit: nothing is written to the runs folder before that is known.
        """
        self.prepare(progress.say)
        from mae.data.dataset import load_data  # heavy: a study or sweep that is finished answers at once

        runs = {data: config.run for config in configs for data in (config.data, config.probed_data)}
        for found in dict.fromkeys(load_data(data, run, progress).told() for data, run in runs.items()):
            progress.say(found)

    @contextmanager
    def pool(self, runs_dir: Path) -> Iterator[WorkerPool]:
        """Yield the workers. Enter it before signals are handled: Ray takes SIGTERM for itself when it starts."""
        if self.kind == "local":
            self.reach()
            yield LocalPool(local_slots(self.device, self.workers, self.per_gpu, runs_dir))
            return
        from ablations.execution.ray_pool import ray_pool

        with ray_pool(cluster_address(self.address), self.device, self.workers, self.per_gpu, runs_dir) as pool:
            yield pool

    @contextmanager
    def queue(self, runs_dir: Path, jobs: int, console: Console) -> Iterator[JobQueue]:
        """Yield a queue for `jobs` jobs on images that are decoded already.

        A signal becomes the queue's request to stop. When the block ends, all workers have saved and ended.
        """
        self.prepare(ConsoleProgress(console).say)
        with self.pool(runs_dir) as pool, stop_on_signals() as stop, JobsProgress(console, jobs, pool.size) as view:
            try:
                with importing(self.later):
                    yield JobQueue(pool, runs_dir, view, stop)
            finally:
                pool.stop()
