"""A pool on a Ray cluster: each worker is an actor on some node, and in it a `LocalPool` of one.

The actor, not Ray, watches over the job's process, so that a job ends, is pruned and continues on a cluster as it does
on one machine. Nodes may share the driver's runs folder or have their own: then what a job has made travels back with
its last report.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import ActorUnschedulableError, RayActorError, RayError

from ablations.execution.job import Job
from ablations.execution.local_pool import LocalPool
from ablations.execution.ray_address import no_cluster, reach
from ablations.execution.run_parcel import Parcel, pack, unpack
from ablations.execution.worker_pool import ONGOING, POLL_SECONDS, Report, Slot
from mae import __version__
from mae.errors import UserError
from mae.runs.directory import Busy, RunDirectory
from mae.runtime.threads import wait_passively

NODE_RUNS_DIR = "MAE_NODE_RUNS_DIR"
"""Environment variable of a node: where it keeps runs, if not at the driver's path."""

PATIENCE_SECONDS = 10.0
"""How long a worker may take to come up before its line says that the cluster has no room for it."""


@dataclass(frozen=True)
class Demand:
    """What the workers of a pool take: how many they are, and CPUs and (a part of) a GPU for each."""

    workers: int
    cpus: int
    gpus: float = 0.0


def demand(nodes: Sequence[dict[str, float]], device: str, workers: int | None, per_gpu: int) -> Demand:
    """Return what workers take of nodes with such `CPU` and `GPU`; `UserError` if they have not got it.

    By default one worker per GPU, or `per_gpu`; on CPUs one per node.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: Ray shares out the GPUs; give auto, cpu or cuda")
    with_gpus = [node for node in nodes if node.get("GPU")]
    if device == "cuda" and not with_gpus:
        raise UserError("--device cuda: no node of the Ray cluster has a GPU; give cpu")
    if device == "cpu" or not with_gpus:
        cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
        if (workers or 1) > sum(cpus):
            raise UserError(f"--workers {workers or 1}: the Ray cluster has {sum(cpus)} CPU(s)")
        workers = workers or len(cpus)
        share = max(share for share in range(1, max(cpus) + 1) if sum(each // share for each in cpus) >= workers)
        return Demand(workers, share)
    slots = sum(int(node["GPU"]) for node in with_gpus) * per_gpu
    if (workers or 1) > slots:
        raise UserError(f"--workers {workers}: the Ray cluster's GPUs take {slots} worker(s); raise --per-gpu")
    share = min(int(node.get("CPU", 0) // (node["GPU"] * per_gpu)) for node in with_gpus)
    return Demand(workers or slots, max(1, share), 1 / per_gpu)


@contextmanager
def ray_pool(address: str, device: str, workers: int | None, per_gpu: int, runs_dir: Path) -> Iterator["RayPool"]:
    """Yield a pool on the cluster at `address`; one at `local` is started on this machine and ended with the block."""
    _connect(address)
    marker = runs_dir.resolve() / f".driver-{uuid4().hex}"
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        needs = demand(nodes, device, workers, per_gpu)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        yield RayPool(needs, runs_dir.resolve(), marker.name)
    finally:
        marker.unlink(missing_ok=True)
        ray.shutdown()


def _connect(address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    reach(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RayError, RuntimeError, ValueError) as error:
        raise no_cluster(address, error) from None


class RayWorker:
    """A worker of the pool on its node: the actor."""

    run: RunDirectory
    """Of the job that was started last."""

    def __init__(self, slot: Slot, marker: str, version: str, folder: str) -> None:
        if version != __version__:
            raise RuntimeError(f"mae-cli is {__version__} on node {os.uname().nodename} and {version} at the driver")
        with suppress(OSError):
            os.chdir(folder)  # where the driver's relative paths begin
        self.shares = (slot.runs_dir / marker).exists() and NODE_RUNS_DIR not in os.environ
        self.slot = replace(slot, runs_dir=Path(os.environ.get(NODE_RUNS_DIR, slot.runs_dir)))
        wait_passively(lambda line: None)  # this node's load decides, and nobody listens here
        self.pool = LocalPool([self.slot])

    def shares_folder(self) -> bool:
        """Say whether this node works in the driver's runs folder."""
        return self.shares

    def start(self, job: Job, parcels: dict[str, Parcel]) -> tuple[list[Report], None]:
        """Start a job; `parcels` are finished runs that it needs and the node may not have, by fingerprint."""
        self.run = RunDirectory(self.slot.runs_dir / job.fingerprint)
        for fingerprint, parcel in parcels.items():
            run = RunDirectory(self.slot.runs_dir / fingerprint)
            while run.result() is None:
                try:
                    unpack(parcel, run)
                except Busy:
                    if fingerprint == job.fingerprint:
                        raise
                    time.sleep(0.1)  # another worker of the node unpacks the same run
        self.pool.start(0, job)
        return [], None

    def poll(self) -> tuple[list[Report], Parcel | None]:
        """Return what came within a moment, and with the last report what the job has made, if it has to travel."""
        reports = [report for _, report in self.pool.poll()]
        return reports, None if self.pool.workers else self._parcel()

    def answer(self, prune: str) -> None:
        """Answer `evaluated`."""
        self.pool.answer(0, prune)

    def stop(self) -> Parcel | None:
        """Have the job saved and ended; return what has to travel."""
        self.pool.stop()
        return self._parcel()

    def _parcel(self) -> Parcel | None:
        return None if self.shares or not self.run.path.exists() else pack(self.run)


def needed_runs(job: Job, runs_dir: Path) -> dict[str, Parcel]:
    """Return the finished runs in `runs_dir`, by fingerprint, that a job goes on from: its own pretraining, or those
    that this one needs, the run of its tokenizer and the one whose weights it begins with."""
    config = job.config
    for names in ((job.fingerprint,), (config.target.tokenizer, config.train.init_from)):
        runs = {name: RunDirectory(runs_dir / name) for name in names if name is not None}
        if finished := {name: pack(run) for name, run in runs.items() if run.result() is not None}:
            return finished
    return {}


@dataclass
class _RemoteWorker:
    """The driver's side of a `RayWorker`: the actor, whether it is up, its job, and the call it has yet to answer."""

    actor: Any
    asked: float = field(default_factory=time.monotonic)
    up: bool = False
    shares: bool = True
    job: Job | None = None
    call: Any = None


class RayPool:
    """A `WorkerPool` on a Ray cluster. A worker whose node is lost comes back on another as soon as there is room."""

    def __init__(self, needs: Demand, runs_dir: Path, marker: str) -> None:
        self.size = needs.workers
        self.runs_dir = runs_dir
        slot = Slot(runs_dir, "cuda" if needs.gpus else "cpu", needs.cpus)
        self.arguments = (slot, marker, __version__, str(Path.cwd()))
        self.actor: Any = ray.remote(RayWorker).options(num_cpus=needs.cpus, num_gpus=needs.gpus)
        self.workers: dict[int, _RemoteWorker] = {}

    def free(self) -> list[int]:
        idle = [number for number, worker in self.workers.items() if worker.job is None]
        return idle + [number for number in range(self.size) if number not in self.workers]

    def start(self, worker: int, job: Job) -> None:
        if worker not in self.workers:
            actor = self.actor.remote(*self.arguments)
            self.workers[worker] = _RemoteWorker(actor, call=actor.shares_folder.remote())
        self.workers[worker].job = job
        if self.workers[worker].up:
            self._hand_over(self.workers[worker])

    def poll(self) -> list[tuple[int, Report]]:
        at_work = {number: worker for number, worker in self.workers.items() if worker.job is not None}
        for worker in at_work.values():
            worker.call = worker.call or worker.actor.poll.remote()
        if not at_work:
            time.sleep(POLL_SECONDS)
            return []
        ready, _ = ray.wait([worker.call for worker in at_work.values()], timeout=POLL_SECONDS)
        came = []
        for number, worker in at_work.items():
            if worker.call in ready:
                came += [(number, report) for report in self._receive(number, worker)]
            elif not worker.up:
                came += [(number, report) for report in self._wait_for_room(number, worker)]
        return came

    def answer(self, worker: int, prune: str) -> None:
        self.workers[worker].actor.answer.remote(prune)

    def stop(self) -> None:
        at_work = [worker for worker in self.workers.values() if worker.job is not None and worker.up]
        calls = [(worker, worker.actor.stop.remote()) for worker in at_work]
        for worker, call in calls:
            with suppress(RayError, Busy):  # lost by now, or being made on this machine too
                self._unpack(worker, ray.get(call))
        for number in list(self.workers):
            self._dismiss(number)

    def _receive(self, number: int, worker: _RemoteWorker) -> list[Report]:
        """Take in the answer to a worker's call: that it is up, or reports, of which the last ones free it."""
        try:
            answer, worker.call = ray.get(worker.call), None
            if not worker.up:
                worker.up, worker.shares = True, answer
                self._hand_over(worker)
                return []
            reports, parcel = answer
            self._unpack(worker, parcel)
        except RayError as error:
            self._dismiss(number)
            return [Report("died", _explain(error))]
        except Busy as error:  # what has come back is being made on this machine too
            reports = [Report("busy", str(error))]
        if reports and reports[-1].kind not in ONGOING:
            worker.job = None
        return list(reports)

    def _hand_over(self, worker: _RemoteWorker) -> None:
        assert worker.job is not None
        parcels = {} if worker.shares else needed_runs(worker.job, self.runs_dir)
        worker.call = worker.actor.start.remote(worker.job, parcels)

    def _unpack(self, worker: _RemoteWorker, parcel: Parcel | None) -> None:
        if parcel is not None and worker.job is not None:
            unpack(parcel, RunDirectory(self.runs_dir / worker.job.fingerprint))

    def _wait_for_room(self, number: int, worker: _RemoteWorker) -> list[Report]:
        """A job that waits for a lost node to come back goes to another worker as soon as one is free."""
        if any(other.up and other.job is None for other in self.workers.values()):
            self._dismiss(number)
            return [Report("busy", "no room in the cluster")]
        waiting = time.monotonic() - worker.asked > PATIENCE_SECONDS
        return [Report("progress", "waits for room in the cluster")] if waiting else []

    def _dismiss(self, number: int) -> None:
        ray.kill(self.workers.pop(number).actor)


def _explain(error: RayError) -> str:
    """Return why a worker is lost, in one line."""
    if isinstance(error, ActorUnschedulableError):
        return "no node of the Ray cluster is large enough for a worker"
    if isinstance(error, RayActorError) and not error.actor_init_failed:
        return "its node, or Ray's process on it, is gone"
    return str(error).strip().splitlines()[-1].strip()
