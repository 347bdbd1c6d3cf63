"""A crew of worker processes on this machine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ablations.execution.crew import HEAR_SECONDS, ONGOING, Place, Report
from ablations.execution.forkserver import fork_context
from ablations.execution.job import Job
from mae.errors import UserError


def work(pipe: Connection, job: Job, place: Place) -> None:
    """Do one job in a process of its own; whoever has the crew need not import PyTorch for it."""
    from ablations.execution import worker

    worker.work(pipe, job, place)


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    last: Report = field(default_factory=lambda: Report("progress"))


def places(device: str, workers: int | None, per_gpu: int, runs_dir: Path) -> list[Place]:
    """Return one place per worker: GPUs shared out in turn, `per_gpu` workers each; CPU threads split evenly."""
    import torch
    from joblib import cpu_count  # heeds affinity and a container's share of the cores

    if device == "auto" and torch.cuda.is_available():
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    else:
        devices = [device]
    slots = [name for _ in range(per_gpu) for name in devices] if devices[0].startswith("cuda") else devices
    count = workers or len(slots)
    if devices[0].startswith("cuda") and count > len(slots):
        raise UserError(f"--workers {count}: {len(devices)} GPU(s) take {len(slots)} worker(s); raise --per-gpu")
    threads = max(1, cpu_count() // count)
    return [Place(runs_dir, slots[index % len(slots)], threads) for index in range(count)]


class LocalCrew:
    """A `Crew` of processes on this machine."""

    def __init__(self, where: Sequence[Place]) -> None:
        self.where = where
        self.size = len(where)
        self.workers: dict[int, _Worker] = {}

    def free(self) -> list[int]:
        return [place for place in range(self.size) if place not in self.workers]

    def start(self, place: int, job: Job) -> None:
        context = fork_context()
        ours, theirs = context.Pipe()
        # No daemon: those have no processes that decode images for them. It ends with this one all the same.
        process = context.Process(target=work, args=(theirs, job, self.where[place]))
        process.start()
        theirs.close()
        self.workers[place] = _Worker(process, ours)

    def poll(self) -> list[tuple[int, Report]]:
        if not self.workers:  # whoever asks waits for something else
            time.sleep(HEAR_SECONDS)
            return []
        heard = []
        ready = wait([worker.pipe for worker in self.workers.values()], timeout=HEAR_SECONDS)
        for place, worker in list(self.workers.items()):
            if worker.pipe not in ready:
                continue
            try:
                worker.last = worker.pipe.recv()
                if worker.last.kind in ONGOING:
                    heard.append((place, worker.last))
            except (EOFError, ConnectionResetError):
                heard.append((place, self._last_word(place)))
        return heard

    def answer(self, place: int, prune: str) -> None:
        try:
            self.workers[place].pipe.send(prune)
        except (BrokenPipeError, ConnectionResetError):
            return  # it has died, and `poll` will say so

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.process.terminate()
        for worker in self.workers.values():
            worker.pipe.close()  # one that waits for an answer waits no longer
            worker.process.join()

    def _last_word(self, place: int) -> Report:
        worker = self.workers.pop(place)
        worker.process.join()
        worker.pipe.close()
        if worker.last.kind not in (*ONGOING, "stopped"):
            return worker.last
        code = worker.process.exitcode
        return Report(
            "died", f"its process ended with {f'signal {-code}' if code and code < 0 else f'exit code {code}'}"
        )
