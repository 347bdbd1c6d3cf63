"""Being asked to stop: SIGINT, SIGTERM and Slurm's USR1 let a run save and end; a second signal ends it at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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


class StopRequest:
    """Remembers the first signal; whoever works looks at it between steps."""

    def __init__(self) -> None:
        self.number = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(130 if number == signal.SIGINT else 143)
        self.number = number

    def evaluated(self, epoch: int, accuracy: float) -> None:
        """Hear of an online evaluation after `epoch` epochs, k-NN top-1 in percent; a search may now ask for a stop."""

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.number:
            raise Interrupted(self.number)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn signals into a `StopRequest` within the block; main thread only."""
    request = StopRequest()
    before = {number: signal.signal(number, request.receive) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
