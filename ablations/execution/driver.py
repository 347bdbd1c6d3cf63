"""Gets jobs done by a crew, whatever happens to a process: held jobs are waited for, and what fails without its own
doing (a dead process, images that are away, a full disk) is done again later."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablations.execution.crew import Crew, Report
from ablations.execution.job import Job
from ablations.execution.live_view import LiveView
from mae.errors import RunError
from mae.runs.directory import RunDirectory, Status
from mae.runtime.interruption import Interrupted, StopRequest

FAULTS_OF_A_JOB = 3
"""After so many faults that are not its own doing, a job is set aside. Until then it continues from its checkpoint."""

FAULTS_IN_A_ROW = 5
"""After so many of them, with no job ended in between, nothing more is tried: the machine is out of order."""

PAUSE_SECONDS = 1.0
"""How long nothing is started after a fault; after the next ones in a row 4, 16 and 64 times as long."""

BUSY_SECONDS = 1.0
"""How long a job that another command is working on is left alone before the next look."""

REUSED = Report("finished", "reused")
"""What is heard of a job that was finished before its turn, here or under another command."""


@dataclass
class _Entry:
    job: Job
    faults: int = 0
    not_before: float = 0.0


class Driver:
    """A queue of jobs in front of a crew; tells of evaluations and of how each job ends."""

    def __init__(self, crew: Crew, runs_dir: Path, view: LiveView) -> None:
        self.crew, self.runs_dir, self.view = crew, runs_dir, view
        self.queue: deque[_Entry] = deque()
        self.running: dict[int, _Entry] = {}
        self.faults_in_a_row, self.paused_until = 0, 0.0

    def submit(self, job: Job) -> None:
        """Have a job done when a place is free."""
        self.queue.append(_Entry(job))

    @property
    def pending(self) -> int:
        """How many jobs have not ended."""
        return len(self.queue) + len(self.running)

    @property
    def postponed(self) -> int:
        """How many jobs wait after a fault, so that others come first."""
        return sum(entry.faults > 0 and entry.not_before > time.monotonic() for entry in self.queue)

    def events(self) -> Iterator[tuple[Job, Report]]:
        """Start what fits, wait a moment, and yield what is new: `evaluated`, which waits for an `answer`, or
        `finished`, `failed`, `pruned` or `set aside`, which end a job. Raises `RunError` after many faults in a row."""
        if time.monotonic() >= self.paused_until:
            yield from self._start_what_fits()
        for place, report in self.crew.poll():
            if report.kind == "progress":
                self.view.progress(place, report.text, report.share)
            elif report.kind == "warned":
                self.view.say(f"{self.running[place].job.label}: {report.text}")
            elif report.kind == "evaluated":
                yield self.running[place].job, report
            else:
                entry = self.running.pop(place)
                self.view.idle(place)
                if (last := self._settle(entry, report)) is not None:
                    yield entry.job, last
        self.view.refresh()

    def answer(self, job: Job, prune: str = "") -> None:
        """Let a job that was evaluated go on, or have it saved and ended with the reason `prune`."""
        place = next(place for place, entry in self.running.items() if entry.job is job)
        self.crew.answer(place, prune)

    def _start_what_fits(self) -> Iterator[tuple[Job, Report]]:
        free = self.crew.free()
        for _ in range(len(self.queue)):
            if not free:
                return
            entry = self.queue.popleft()
            if entry.not_before > time.monotonic():
                self.queue.append(entry)
            elif entry.job.is_done(self.runs_dir):
                yield entry.job, REUSED
            elif any(stage.is_locked() for stage in entry.job.stages(self.runs_dir)):
                self._put_off(entry)  # a process would identify all images to find out the same
            else:
                place = free.pop(0)
                self.crew.start(place, entry.job)
                self.running[place] = entry
                self.view.started(place, entry.job.label)

    def _put_off(self, entry: _Entry) -> None:
        entry.not_before = time.monotonic() + BUSY_SECONDS
        self.queue.append(entry)

    def _settle(self, entry: _Entry, report: Report) -> Report | None:
        """Return how a job has ended, or None if it goes on."""
        if report.kind == "busy":
            self._put_off(entry)
            return None
        if report.kind in ("fault", "died"):
            return self._postpone(entry, report)
        self.faults_in_a_row = 0
        return report

    def _postpone(self, entry: _Entry, fault: Report) -> Report | None:
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
        self.view.say(f"{entry.job.label}: {fault.text}; continuing from its last checkpoint in a while")
        self.queue.append(entry)
        return None


def work_off(jobs: Sequence[Job], driver: Driver, stop: StopRequest, fail_fast: bool = False) -> dict[str, str]:
    """Do every job; return the reasons of those that failed, by fingerprint.

    A job that finished before, here or under another command, is not done again. Raises `Interrupted` on a stop
    request, once all workers have saved, and `RunError` after many faults in a row, or at the first failure with
    `fail_fast`.
    """
    failures: dict[str, str] = {}
    for job in jobs:
        driver.submit(job)
    try:
        while driver.pending:
            if stop.number:
                raise Interrupted(stop.number)
            for job, report in driver.events():
                if report.kind in ("failed", "set aside"):
                    failures[job.fingerprint] = report.text
                    driver.view.failed(job.label, report.text)
                else:
                    driver.view.finished(job.label, reused=report is REUSED)
            if failures and fail_fast:
                raise RunError(next(iter(failures.values())))
    finally:
        driver.crew.stop()
    return failures


def record_end(run: RunDirectory, status: Status, reason: str) -> None:
    """Say in a run's record how it ended: the process that kept the record is dead."""
    if (record := run.read_record()) is not None and run.result() is None and not run.is_locked():
        run.write_record(record.model_copy(update={"status": status, "reason": reason, "ended": time.time()}))
