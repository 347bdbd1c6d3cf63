"""Progress of many jobs at once: a bar for all of them and one per worker, and plain lines off a terminal.

Progress of one piece of work, in this process, is `mae.runtime.progress`.
"""

import time
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from mae.runtime.progress import LINE_SECONDS, duration

NOTE = TextColumn("{task.fields[note]}", markup=False)  # names of cells are in it
COLUMNS = ("{task.description}", BarColumn(bar_width=24), TaskProgressColumn(), NOTE)


@dataclass
class _Shown:
    """What a worker is at: `share` of the training is behind it, `resumed` of it from an earlier command."""

    label: str
    note: str = "starting"
    share: float = 0.0
    resumed: float | None = None
    began: float = 0.0
    trained: float | None = None

    @property
    def own(self) -> float:
        """The share that this command has trained."""
        return self.share - (self.resumed or 0.0)


class JobsProgress:
    """Shows jobs done, failed and left, time left, and what each worker is at."""

    def __init__(self, console: Console, jobs: int, workers: int) -> None:
        self.console, self.jobs, self.workers = console, jobs, workers
        self.done = self.reused = self.failures = self.prunings = 0
        self.at: dict[int, _Shown] = {}
        self.started_at = self.reported = time.monotonic()
        self.trains_since: float | None = None
        self.training = self.whole = 0.0  # seconds of jobs that have ended: up to the end of training, and in all
        self.resumed = 0.0  # shares of their trainings that an earlier command had done
        self.bars = Progress(*COLUMNS, console=console) if console.is_terminal else None

    def __enter__(self) -> "JobsProgress":
        if self.bars:
            self.total_row = self.bars.add_task("study", total=self.jobs, note="")
            self.rows = [self.bars.add_task(f"worker {n + 1}", total=1.0, note="") for n in range(self.workers)]
            self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bars:
            for row in self.rows:
                self.bars.remove_task(row)
            self.bars.stop()

    def say(self, message: str) -> None:
        """Show one line that stays."""
        self.console.print(message, highlight=False, markup=False)

    def started(self, worker: int, label: str) -> None:
        self.at[worker] = _Shown(label, began=time.monotonic())

    def progress(self, worker: int, note: str, share: float) -> None:
        """Take in a worker's report: what it is at, and the share of its training that is behind it."""
        job, now = self.at[worker], time.monotonic()
        if note.startswith("pretraining") and job.resumed is None:
            job.resumed = share
            self.trains_since = self.trains_since or now  # what comes before the first step is paid once
        if share >= 1 and job.trained is None:
            job.trained = now
        job.note, job.share = note, share

    def idle(self, worker: int) -> None:
        job = self.at.pop(worker)
        self.resumed += job.resumed or 0.0
        if job.trained and job.resumed == 0:
            self.training += job.trained - job.began
            self.whole += time.monotonic() - job.began

    def finished(self, label: str, reused: bool = False) -> None:
        self.done += 1
        self.reused += reused
        self.say(f"{self._ended()}/{self.jobs} {'reused' if reused else 'done'}: {label}{self._left()}")

    def pruned(self, label: str) -> None:
        self.prunings += 1
        self.say(f"{self._ended()}/{self.jobs} pruned: {label}{self._left()}")

    def failed(self, label: str, reason: str) -> None:
        self.failures += 1
        self.say(f"{self._ended()}/{self.jobs} FAILED: {label}: {reason}")

    def refresh(self) -> None:
        """Bring the bars up to date; off a terminal, print a line now and then."""
        if self.bars:
            counts = f"{self.failures} failed{self._left()}"
            self.bars.update(self.total_row, completed=self._ended(), note=counts)
            for worker, row in enumerate(self.rows):
                job = self.at.get(worker, _Shown("idle", note=""))
                self.bars.update(row, completed=job.share, note=f"{job.label}  {job.note}")
        elif time.monotonic() - self.reported >= LINE_SECONDS:
            self.reported = time.monotonic()
            at = "; ".join(self._told(job) for _, job in sorted(self.at.items()))
            self.say(f"{self._ended()}/{self.jobs} done{self._left()}  at: {at}")

    @staticmethod
    def _told(job: _Shown) -> str:
        """Return the share of a job's training, or once that is over, which probe it is at."""
        return f"{job.label} {f'{job.share:.0%}' if job.share < 1 else job.note.partition('  ')[0]}"

    def _ended(self) -> int:
        return self.done + self.failures + self.prunings

    def _left(self) -> str:
        """Estimate from what this command has done so far, parts of trainings included; every job counts the same."""
        part = self.training / self.whole if self.whole else 1.0
        ended = self.done + self.prunings - self.reused - self.resumed
        behind = ended + part * sum(job.own for job in self.at.values())
        to_do = self.jobs - self._ended() - part * sum(job.share for job in self.at.values())
        if behind < 0.2 or to_do <= 0:
            return ""
        passed = time.monotonic() - (self.trains_since or self.started_at)
        return f", about {duration(passed / behind * to_do)} left"
