"""Progress of one piece of long work in this process: a bar on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

LINE_SECONDS = 10.0
"""Least time between plain lines."""


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Say that `amount` more of the total is done; `note` is shown behind the bar."""


class Progress(Protocol):
    """Where work reports how far it is."""

    def say(self, message: str) -> None:
        """Show one line that stays."""

    def warn(self, message: str) -> None:
        """Show one line that stays about something that is not as it should be; a study passes it on too."""

    def task(self, description: str, total: int, done: int = 0, unit: str = "") -> AbstractContextManager[Task]:
        """Open a piece of work of `total` units, named in the plural, `done` of which were done before. Where the block
        ends without an error, all of it is done."""


class ConsoleProgress:
    """Bars where the console is a terminal, lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars: Bars | None = None

    def say(self, message: str) -> None:
        self.console.print(message, highlight=False, markup=False)

    def warn(self, message: str) -> None:
        self.say(message)

    def task(self, description: str, total: int, done: int = 0, unit: str = "") -> AbstractContextManager[Task]:
        show = self._bar if self.console.is_terminal else self._lines
        return show(description, total, done, unit)

    @contextmanager
    def _bar(self, description: str, total: int, done: int, unit: str) -> Iterator[Task]:
        outermost = self.bars is None
        bars = self.bars = self.bars or _bars(self.console)
        if outermost:
            bars.start()
        row = bars.add_task(description, total=total, completed=done, note="", unit=unit)
        try:
            yield _Bar(bars, row)
            bars.update(row, completed=total)
        finally:
            bars.stop_task(row)
            if outermost:
                bars.stop()
                self.bars = None
            else:
                bars.remove_task(row)

    @contextmanager
    def _lines(self, description: str, total: int, done: int, unit: str) -> Iterator[Task]:
        lines = _Lines(self, description, total, done, unit)
        yield lines
        lines.done = total
        lines.report()


def _bars(console: Console) -> Bars:
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    ]
    return Bars(*columns, console=console)


class _Bar:
    def __init__(self, bars: Bars, row: object) -> None:
        self.bars, self.row = bars, row

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.bars.update(self.row, advance=amount, note=note)  # type: ignore[arg-type]


class _Lines:
    def __init__(self, progress: ConsoleProgress, description: str, total: int, done: int, unit: str) -> None:
        self.progress, self.description, self.total, self.unit = progress, description, total, unit
        self.done = self.done_before = done
        self.note = ""
        self.started = self.reported = time.monotonic()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        if time.monotonic() - self.reported >= LINE_SECONDS:
            self.report()

    def report(self) -> None:
        self.reported = time.monotonic()
        worked, fresh = self.reported - self.started, self.done - self.done_before
        left = ""
        if fresh > 0 and self.done < self.total:
            left = f", {duration(worked / fresh * (self.total - self.done))} left"
        note = f"  {self.note}" if self.note else ""
        counted = f"{self.done}/{self.total} {self.unit}".rstrip()
        self.progress.say(f"{self.description}: {counted} in {duration(worked)}{left}{note}")


def duration(seconds: float) -> str:
    """Return seconds as 5s, 3m05s or 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Silent:
    """Reports nothing; for callers that do not watch."""

    def say(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        pass

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "") -> Iterator[Task]:
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        pass
