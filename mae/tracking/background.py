"""MLflow: how people look at runs. The run directory is the truth; a store is brought up to date beside the work.

`Tracker` has that done by another process (`mae.tracking.process`) while a stage works, so training never waits; for
studies, whose driver has time, it does it itself. What a store missed goes out with the next command.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType

from mae.runs.directory import RunDirectory
from mae.tracking import process
from mae.tracking.store import NONE, first_line, without_secrets
from mae.tracking.studies import deliver_study, deliver_sweep

EVERY = 5.0
"""Seconds between deliveries while a stage works."""

LAST_WAIT = 10.0
"""Most seconds that the last delivery may hold up the end of a stage."""

STUDY_WAIT = 60.0
"""Most seconds that the last delivery may hold up the end of a study: tables and figures have just been made."""


class Tracker:
    """Calls `send` every few seconds, and once more at the end; never raises, never blocks for long.

    `kept_in` is the directory that `send` delivers: where everything still is if the server at `uri` fails.
    """

    def __init__(
        self,
        send: Callable[[], object],
        uri: str,
        kept_in: Path,
        say: Callable[[str], None],
        last_wait: float | None = None,
    ):
        self.send, self.uri, self.kept_in, self.say = send, uri, kept_in, say
        self.last_wait = LAST_WAIT if last_wait is None else last_wait
        self.error = ""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def __enter__(self) -> "Tracker":
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join(self.last_wait)
        if self.thread.is_alive() or self.error:
            reason = self.error or "no answer"
            self.say(
                f"tracking at {without_secrets(self.uri)}: {reason}; all is kept in {self.kept_in} "
                "and goes out with the next command"
            )

    def _work(self) -> None:
        over = False
        while not over:
            over = self.ended.wait(EVERY)
            try:
                self.send()
                self.error = ""
            except Exception as error:  # whatever a server does, the run goes on
                self.error = first_line(error)


def tracked(run: RunDirectory, uri: str, runs_dir: Path, say: Callable[[str], None]) -> AbstractContextManager[object]:
    """Return a `Tracker`, or a block that does nothing where tracking is switched off."""
    if uri == NONE:
        return nullcontext()
    return Tracker(lambda: process.ask("deliver", str(run.path), uri, str(runs_dir)), uri, run.path, say)


def tracked_studies(
    directories: Sequence[RunDirectory], uri: str, runs_dir: Path, say: Callable[[str], None]
) -> AbstractContextManager[object]:
    """Deliver studies every few seconds while the block works on them, and once more at its end; never raises."""
    return _tracked([(deliver_study, directory) for directory in directories], uri, runs_dir, say)


def tracked_sweep(
    directory: RunDirectory, uri: str, runs_dir: Path, say: Callable[[str], None]
) -> AbstractContextManager[object]:
    """Do the same for a sweep."""
    return _tracked([(deliver_sweep, directory)], uri, runs_dir, say)


def _tracked(
    undelivered: Sequence[tuple[Callable[[RunDirectory, str, Path], bool], RunDirectory]],
    uri: str,
    runs_dir: Path,
    say: Callable[[str], None],
) -> AbstractContextManager[object]:
    if uri == NONE:
        return nullcontext()

    def send() -> None:
        for deliver, directory in undelivered:
            deliver(directory, uri, runs_dir)

    return Tracker(send, uri, runs_dir, say, last_wait=STUDY_WAIT)


@contextmanager
def delivering_undelivered(runs_dir: Path, uri: str) -> Iterator[None]:
    """Send what earlier commands could not, beside the block; a server that is still away is no error here."""

    def send() -> None:
        with suppress(Exception):  # it is sent with the next command, and the stage at hand reports the server
            process.ask("deliver_all", str(runs_dir), uri)

    thread = threading.Thread(target=send, name="undelivered", daemon=True)
    if uri != NONE:
        thread.start()
    try:
        yield
    finally:
        if uri != NONE:
            thread.join(LAST_WAIT)
