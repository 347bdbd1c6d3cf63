"""A pool of worker processes on this machine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ablations.execution.forkserver import fork_context
from ablations.execution.job import Job
from ablations.execution.worker_log import log_file, say_into
from ablations.execution.worker_pool import ONGOING, POLL_SECONDS, Report, Slot
from mae.errors import UserError

PER_CORE = 4
"""Most workers for each core: more of them only get in each other's way."""


def work(pipe: Connection, job: Job, slot: Slot) -> None:
    """Do one job in a process of its own; the one that has the pool need not import PyTorch for it."""
    from ablations.execution import worker

    say_into(log_file(slot.runs_dir, job.fingerprint), f"{job.label}, on {slot.device}")
    worker.work(pipe, job, slot)


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    last: Report = field(default_factory=lambda: Report("progress"))


def local_slots(device: str, workers: int | None, per_gpu: int, runs_dir: Path) -> list[Slot]:
    """Return one slot per worker: GPUs shared out in turn, `per_gpu` workers each; CPU threads split evenly."""
    import torch
    from joblib import cpu_count  # heeds affinity and a container's share of the cores

    devices = [device]
    if device == "auto" and torch.cuda.is_available():
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    on_gpus = devices[0].startswith("cuda")
    most = len(devices) * per_gpu if on_gpus else 1
    count = workers or most
    if on_gpus and count > most:
        raise UserError(f"--workers {count}: {len(devices)} GPU(s) take {most} worker(s); raise --per-gpu")
    if not on_gpus and count > PER_CORE * cpu_count():
        raise UserError(f"--workers {count}: expected at most {PER_CORE * cpu_count()} with {cpu_count()} core(s)")
    threads = max(1, cpu_count() // count)
    return [Slot(runs_dir, devices[index % len(devices)], threads) for index in range(count)]


class LocalPool:
    """A `WorkerPool` of processes on this machine, one per slot and job."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self.size = len(slots)
        self.workers: dict[int, _Worker] = {}

    def free(self) -> list[int]:
        return [number for number in range(self.size) if number not in self.workers]

    def start(self, worker: int, job: Job) -> None:
        context = fork_context()
        ours, theirs = context.Pipe()
        # No daemon: those have no processes that decode images for them. It ends with this one all the same.
        process = context.Process(target=work, args=(theirs, job, self.slots[worker]))
        process.start()
        theirs.close()
        self.workers[worker] = _Worker(process, ours)

    def poll(self) -> list[tuple[int, Report]]:
        if not self.workers:  # the queue waits for something else
            time.sleep(POLL_SECONDS)
            return []
        came = []
        ready = wait([worker.pipe for worker in self.workers.values()], timeout=POLL_SECONDS)
        for number, worker in list(self.workers.items()):
            if worker.pipe not in ready:
                continue
            try:
                worker.last = worker.pipe.recv()
                if worker.last.kind in ONGOING:
                    came.append((number, worker.last))
            except (EOFError, ConnectionResetError):
                came.append((number, self._last_report(number)))
        return came

    def answer(self, worker: int, prune: str) -> None:
        try:
            self.workers[worker].pipe.send(prune)
        except (BrokenPipeError, ConnectionResetError):
            return  # it has died, and `poll` will say so

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.process.terminate()
        for worker in self.workers.values():
            worker.pipe.close()  # one that waits for an answer waits no longer
            worker.process.join()

    def _last_report(self, number: int) -> Report:
        worker = self.workers.pop(number)
        worker.process.join()
        worker.pipe.close()
        if worker.last.kind not in (*ONGOING, "stopped"):
            return worker.last
        code = worker.process.exitcode
        ending = f"signal {-code}" if code and code < 0 else f"exit code {code}"
        return Report("died", f"its process ended with {ending}")
