"""The queue of jobs in front of a worker pool, and retries.

A job starts as soon as a worker is free and no other command works on it. One that fails by no fault of its own (a dead
process, images that are away, a full disk) is started again later, and continues from its last checkpoint.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablations.execution.job import Job
from ablations.execution.jobs_progress import JobsProgress
from ablations.execution.worker_log import log_file
from ablations.execution.worker_pool import Report, WorkerPool
from mae.errors import RunError
from mae.runs.directory import RunDirectory, Status
from mae.runtime.interruption import StopRequest

FAULTS_OF_A_JOB = 3
"""After so many faults that are not its own doing, a job is set aside. Until then it continues from its checkpoint."""

FAULTS_IN_A_ROW = 5
"""After so many of them, with no job ended in between, nothing more is tried: the machine is out of order."""

PAUSE_SECONDS = 1.0
"""How long nothing is started after a fault; after the next ones in a row 4, 16 and 64 times as long."""

BUSY_SECONDS = 1.0
"""How long a job that another command is working on is left alone before the next look."""

REUSED = Report("finished", "reused")
"""The report of a job that was finished before its turn, here or under another command."""


@dataclass
class _Entry:
    job: Job
    faults: int = 0
    not_before: float = 0.0


class JobQueue:
    """A queue of jobs in front of a pool; tells of evaluations and of how each job ends."""

    def __init__(self, pool: WorkerPool, runs_dir: Path, view: JobsProgress, stop: StopRequest) -> None:
        self.pool, self.runs_dir, self.view, self.stop = pool, runs_dir, view, stop
        self.waiting: deque[_Entry] = deque()
        self.running: dict[int, _Entry] = {}
        self.faults_in_a_row, self.paused_until = 0, 0.0

    def submit(self, job: Job) -> None:
        """Have a job done when a worker is free."""
        self.waiting.append(_Entry(job))

    @property
    def pending(self) -> int:
        """How many jobs have not ended."""
        return len(self.waiting) + len(self.running)

    @property
    def retries(self) -> int:
        """How many jobs wait after a fault, so that others come first."""
        return sum(entry.faults > 0 and entry.not_before > time.monotonic() for entry in self.waiting)

    def events(self) -> Iterator[tuple[Job, Report]]:
        """Start what fits, wait a moment, and yield what is new: `evaluated`, which waits for an `answer`, or
        `finished`, `failed`, `pruned` or `set aside`, which end a job. Raises `RunError` after many faults in a row."""
        if time.monotonic() >= self.paused_until:
            yield from self._start_what_fits()
        for worker, report in self.pool.poll():
            if report.kind == "progress":
                self.view.progress(worker, report.text, report.share)
            elif report.kind == "warned":
                self.view.say(f"{self.running[worker].job.label}: {report.text}")
            elif report.kind == "evaluated":
                yield self.running[worker].job, report
            else:
                entry = self.running.pop(worker)
                self.view.idle(worker)
                if (last := self._settle(entry, report)) is not None:
                    yield entry.job, last
        self.view.refresh()

    def answer(self, job: Job, prune: str = "") -> None:
        """Let a job that was evaluated go on, or have it saved and ended with the reason `prune`."""
        worker = next(worker for worker, entry in self.running.items() if entry.job is job)
        self.pool.answer(worker, prune)

    def logged(self, job: Job) -> str:
        """Return where more is said of a job than a line, for the end of one; nothing if that is on another machine."""
        log = log_file(self.runs_dir, job.fingerprint)
        return f" (log: {log})" if log.exists() else ""

    def _start_what_fits(self) -> Iterator[tuple[Job, Report]]:
        free = self.pool.free()
        for _ in range(len(self.waiting)):
            if not free:
                return
            entry = self.waiting.popleft()
            if entry.not_before > time.monotonic():
                self.waiting.append(entry)
            elif entry.job.is_done(self.runs_dir):
                yield entry.job, REUSED
            elif any(stage.is_locked() for stage in entry.job.stages(self.runs_dir)):
                self._put_back(entry)  # a process would identify all images to find out the same
            else:
                worker = free.pop(0)
                self.pool.start(worker, entry.job)
                self.running[worker] = entry
                self.view.started(worker, entry.job.label)

    def _put_back(self, entry: _Entry) -> None:
        entry.not_before = time.monotonic() + BUSY_SECONDS
        self.waiting.append(entry)

    def _settle(self, entry: _Entry, report: Report) -> Report | None:
        """Return how a job has ended, or None if it goes on."""
        if report.kind == "busy":
            self._put_back(entry)
            return None
        if report.kind in ("fault", "died"):
            return self._retry_later(entry, report)
        self.faults_in_a_row = 0
        return report

    def _retry_later(self, entry: _Entry, fault: Report) -> Report | None:
        """Have a job done again after a pause in which others come first; the report if it is set aside instead."""
        now = time.monotonic()
        entry.faults += 1
        if now >= self.paused_until:  # several workers hit by one fault count once
            self.paused_until = now + PAUSE_SECONDS * 4**self.faults_in_a_row
            self.faults_in_a_row += 1
        if self.faults_in_a_row == FAULTS_IN_A_ROW:
            raise RunError(
                f"stopped after {FAULTS_IN_A_ROW} failures in a row, the last one of {entry.job.label}: {fault.text}; "
                "the same command continues"
            )
        if entry.faults == FAULTS_OF_A_JOB:
            last = Report("set aside", f"{fault.text}, {entry.faults} times")
            if fault.kind == "died":
                record_end(RunDirectory(self.runs_dir / entry.job.fingerprint), "failed", last.text)
            return last
        entry.not_before = now + PAUSE_SECONDS * 4**entry.faults
        logged = self.logged(entry.job)
        self.view.say(f"{entry.job.label}: {fault.text}{logged}; continuing from its last checkpoint in a while")
        self.waiting.append(entry)
        return None


def run_jobs(jobs: Sequence[Job], queue: JobQueue, fail_fast: bool = False) -> dict[str, str]:
    """Do every job; return the reasons of those that failed, by fingerprint.

    A job that finished before, here or under another command, is not done again. Raises `Interrupted` on a stop
    request, and `RunError` after many faults in a row, or at the first failure with `fail_fast`.
    """
    failures: dict[str, str] = {}
    for job in jobs:
        queue.submit(job)
    while queue.pending:
        queue.stop.check()
        for job, report in queue.events():
            if report.kind in ("failed", "set aside"):
                failures[job.fingerprint] = report.text
                queue.view.failed(job.label, report.text + queue.logged(job))
            else:
                queue.view.finished(job.label, reused=report is REUSED)
        if failures and fail_fast:
            raise RunError(next(iter(failures.values())))
    return failures


def record_end(run: RunDirectory, status: Status, reason: str) -> None:
    """Say in a run's record how it ended: the process that kept the record is dead."""
    if (record := run.read_record()) is not None and run.result() is None and not run.is_locked():
        run.write_record(record.model_copy(update={"status": status, "reason": reason, "ended": time.time()}))
