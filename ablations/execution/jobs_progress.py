"""Progress of many jobs at once: a bar for all of them and one per worker, and plain lines off a terminal.

Progress of one piece of work, in this process, is `mae.runtime.progress`.
"""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from mae.runtime.progress import LINE_SECONDS, duration

NOTE = TextColumn("{task.fields[note]}", markup=False)  # names of cells are in it
COLUMNS = ("{task.description}", BarColumn(bar_width=24), TaskProgressColumn(), NOTE)


class JobsProgress:
    """Shows jobs done, failed and left, time left, and what each worker is at."""

    def __init__(self, console: Console, jobs: int, workers: int) -> None:
        self.console, self.jobs, self.workers = console, jobs, workers
        self.done = self.reused = self.failures = self.prunings = 0
        self.labels: dict[int, str] = {}
        self.shares: dict[int, float] = {}
        self.notes: dict[int, str] = {}
        self.started_at = self.reported = time.monotonic()
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
        self.labels[worker], self.shares[worker], self.notes[worker] = label, 0.0, "starting"

    def progress(self, worker: int, note: str, share: float) -> None:
        """Take in a worker's report: what it is at, and the share of its training that is behind it."""
        self.notes[worker], self.shares[worker] = note, share

    def idle(self, worker: int) -> None:
        for known in (self.labels, self.shares, self.notes):
            known.pop(worker, None)

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
                note = f"{self.labels.get(worker, 'idle')}  {self.notes.get(worker, '')}"
                self.bars.update(row, completed=self.shares.get(worker, 0.0), note=note)
        elif time.monotonic() - self.reported >= LINE_SECONDS:
            self.reported = time.monotonic()
            at = "; ".join(map(self._at, sorted(self.labels)))
            self.say(f"{self._ended()}/{self.jobs} done{self._left()}  at: {at}")

    def _at(self, worker: int) -> str:
        """Return the share of a worker's training, or once that is over, which probe it is at."""
        share, probe = self.shares[worker], self.notes[worker].partition("  ")[0]
        return f"{self.labels[worker]} {f'{share:.0%}' if share < 1 else probe}"

    def _ended(self) -> int:
        return self.done + self.failures + self.prunings

    def _left(self) -> str:
        """Estimate from what was done so far, parts of trainings included; every training counts the same."""
        behind = self.done + self.prunings - self.reused + sum(self.shares.values())
        to_do = self.jobs - self._ended() - sum(self.shares.values())
        if behind < 0.2 or to_do <= 0:
            return ""
        return f", about {duration((time.monotonic() - self.started_at) / behind * to_do)} left"
