"""Being asked to stop: SIGINT, SIGTERM and Slurm's USR1 let a run save and end; a second signal ends it at once.

Under torchrun one request reaches a process several times, from the scheduler and from torchrun; there the second
changes nothing, and torchrun ends a process that takes too long.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from mae.runtime.progress import Task

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """Work stopped on request, with everything saved. `exit_code` is 130 for Ctrl-C, else 143."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}; the same command continues")
        self.exit_code = 130 if number == signal.SIGINT else 143


class Pruned(Interrupted):
    """A search has stopped the work, with everything saved: others do better. Asked for again, it continues."""

    def __init__(self, reason: str):
        Exception.__init__(self, reason)
        self.exit_code = 143


def nobody_else() -> int:
    """Return 0: no other process was asked to stop."""
    return 0


class StopRequest:
    """Remembers the first signal; long work looks at it between steps.

    `others` asks other processes that share the work for the number of theirs.
    """

    def __init__(self, second_ends: bool = True) -> None:
        self.number, self.second_ends = 0, second_ends
        self.others: Callable[[], int] = nobody_else

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.number and self.second_ends:
            os._exit(130 if number == signal.SIGINT else 143)
        self.number = self.number or number

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come; one to another process is raised at the next check.

        Until then long work sees the number, and saves.
        """
        if self.number:
            raise Interrupted(self.number)
        if found := self.others():
            self.number = found


@contextmanager
def stop_on_signals(second_ends: bool = True) -> Iterator[StopRequest]:
    """Turn signals into a `StopRequest` within the block; main thread only."""
    request = StopRequest(second_ends)
    before = {number: signal.signal(number, request.receive) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class StoppableTask:
    """A piece of work that ends with `Interrupted`, at its next step or `check`, once a stop was asked for."""

    task: Task
    stop: StopRequest

    def check(self) -> None:
        self.stop.check()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.check()
        self.task.advance(amount, note)
