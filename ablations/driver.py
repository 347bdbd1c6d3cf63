"""Works off jobs with a fixed number of places, one process per job; survives whatever happens to a process."""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ablations.live_view import LiveView
from ablations.plan import Job
from ablations.worker import Place, Report, work
from mae.errors import RunError, UserError
from mae.interruption import Interrupted, StopRequest
from mae.run_directory import RunDirectory

RETRIES = 2
"""How often a job whose process died is started again; it continues from its last checkpoint."""

BUSY_SECONDS = 1.0
"""How long a job that another command is working on is left alone before the next look."""


@dataclass
class _Waiting:
    job: Job
    deaths: int = 0
    not_before: float = 0.0


@dataclass
class _Running:
    entry: _Waiting
    place: int
    process: BaseProcess
    pipe: Connection
    last: Report = field(default_factory=lambda: Report("progress"))


def places(device: str, workers: int | None, per_gpu: int, runs_dir: Path) -> list[Place]:
    """Return one place per worker: GPUs shared out in turn, `per_gpu` workers each; CPU threads split evenly."""
    import torch

    if device == "auto" and torch.cuda.is_available():
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    else:
        devices = [device]
    slots = [name for _ in range(per_gpu) for name in devices] if devices[0].startswith("cuda") else devices
    count = workers or len(slots)
    if devices[0].startswith("cuda") and count > len(slots):
        raise UserError(f"--workers {count}: {len(devices)} GPU(s) take {len(slots)} worker(s); raise --per-gpu")
    threads = max(1, (os.cpu_count() or 1) // count)
    return [Place(runs_dir, slots[index % len(slots)], threads) for index in range(count)]


def work_off(
    jobs: Sequence[Job], where: Sequence[Place], view: LiveView, stop: StopRequest, fail_fast: bool = False
) -> dict[str, str]:
    """Do every job; return the reasons of those that failed, by fingerprint.

    A job that finished before, here or under another command, is not done again. Raises `Interrupted` on a stop
    request, once all workers have saved, and `RunError` at the first failure with `fail_fast`.
    """
    queue = deque(_Waiting(job) for job in jobs)
    free = list(range(len(where)))
    running: list[_Running] = []
    failures: dict[str, str] = {}
    try:
        while queue or running:
            if stop.number:
                raise Interrupted(stop.number)
            _start_what_fits(queue, free, running, where, view)
            for worker in _heard(running, view):
                running.remove(worker)
                free.append(worker.place)
                _settle(worker, queue, failures, where[worker.place].runs_dir, view)
            if failures and fail_fast:
                raise RunError(next(iter(failures.values())))
    finally:
        _stop_all(running)
    return failures


def _start_what_fits(
    queue: deque[_Waiting], free: list[int], running: list[_Running], where: Sequence[Place], view: LiveView
) -> None:
    for _ in range(len(queue)):
        if not free:
            return
        entry = queue.popleft()
        if entry.not_before > time.monotonic():
            queue.append(entry)
        elif entry.job.is_done(where[0].runs_dir):
            view.finished(entry.job, reused=True)
        else:
            place = free.pop(0)
            running.append(_start(entry, place, where[place]))
            view.started(place, entry.job)


def _start(entry: _Waiting, place: int, where: Place) -> _Running:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ablations.worker"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(theirs, entry.job, where), daemon=True)
    process.start()
    theirs.close()
    return _Running(entry, place, process, ours)


def _heard(running: list[_Running], view: LiveView) -> list[_Running]:
    """Wait a moment for reports; return the workers that have ended."""
    ended = []
    if not running:  # every job that is left is being worked on by another command
        time.sleep(0.2)
    ready = wait([worker.pipe for worker in running], timeout=0.2)
    for worker in running:
        if worker.pipe not in ready:
            continue
        try:
            worker.last = worker.pipe.recv()
            view.progress(worker.place, worker.last.text, worker.last.share)
        except EOFError:
            worker.process.join()
            worker.pipe.close()
            ended.append(worker)
    view.refresh()
    return ended


def _settle(worker: _Running, queue: deque[_Waiting], failures: dict[str, str], runs_dir: Path, view: LiveView) -> None:
    """Decide what an ended worker's last report means for its job."""
    entry, report = worker.entry, worker.last
    view.idle(worker.place)
    if report.kind == "finished":
        view.finished(entry.job)
        return
    if report.kind == "busy":
        entry.not_before = time.monotonic() + BUSY_SECONDS
        queue.append(entry)
        return
    if report.kind == "failed":
        reason = report.text
    else:
        entry.deaths += 1
        code = worker.process.exitcode
        reason = f"its process ended with {f'signal {-code}' if code and code < 0 else f'exit code {code}'}"
        if entry.deaths <= RETRIES:
            view.say(f"{entry.job.label}: {reason}; continuing from its last checkpoint")
            queue.appendleft(entry)
            return
        reason = f"{reason}, {entry.deaths} times"
        _record_failure(RunDirectory(runs_dir / entry.job.fingerprint), reason)
    failures[entry.job.fingerprint] = reason
    view.failed(entry.job, reason)


def _record_failure(run: RunDirectory, reason: str) -> None:
    """Nobody else can say why: the process that kept the record is dead."""
    if (record := run.read_record()) is not None and run.result() is None:
        run.write_record(record.model_copy(update={"status": "failed", "reason": reason, "ended": time.time()}))


def _stop_all(running: list[_Running]) -> None:
    """Ask every worker to save and end, and wait for that."""
    for worker in running:
        worker.process.terminate()
    for worker in running:
        worker.process.join()
