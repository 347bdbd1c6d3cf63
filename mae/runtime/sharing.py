"""Work of process 0 that all processes share: something large made in parts, part i by process i modulo their count.

The others wait for what process 0 asks for in one place only, so that it can tell them to leave from wherever it is,
with everything saved. What befalls one of them comes with its part, and process 0 tells it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from mae.errors import RunError, UserError
from mae.runtime.distributed import ALONE, Processes
from mae.runtime.interruption import Interrupted, StopRequest, nobody_else
from mae.runtime.machine import limits_explained

LOOK_SECONDS = 1.0
"""Time between two looks at whether another process was asked to stop, or is gone, while it has nothing to do."""


class Part(NamedTuple):
    """Process 0 asks each process for its next part of something, the whole of which begins at number 0."""

    of: Any
    number: int


class Look(NamedTuple):
    """Process 0 asks whether a process was asked to stop."""


class Leave(NamedTuple):
    """Process 0 has ended: well, by a failure of this type, which it tells, or by a signal of this number."""

    failed: type[UserError | RunError] | None = None
    stopped: int = 0


@dataclass(frozen=True)
class Sharing:
    """The processes that share the work, and the request to stop that this one has received."""

    processes: Processes = ALONE
    stop: StopRequest = field(default_factory=StopRequest)

    def parts(self, of: Any, mine: Iterator[Tensor], sizes: Sequence[int]) -> Iterator[Tensor]:
        """Yield all parts of what `of` names, in order, float32 (n, D) of so many rows each; within `led` only.

        Process 0 makes `mine`, the others what `serve` makes. Raises what befalls any of them, or `Interrupted`.
        """
        count = self.processes.count
        if count == 1:
            yield from mine
            return
        for first in range(0, len(sizes), count):
            self.processes.from_first(Part(of, first))
            own, stopped = self._next(mine)
            if stopped:
                self.stop.number = stopped
                self.stop.check()
            # All of them before the first is used: what goes wrong there finds the others waiting for a request.
            theirs = [torch.empty(size, *own.shape[1:]) for size in sizes[first + 1 : first + count]]
            for rank, part in enumerate(theirs, 1):
                distributed.recv(part, rank)
            yield own
            yield from theirs

    def serve(self, make: Callable[[Any], Iterator[Tensor]]) -> None:
        """Make this process's parts of whatever process 0 asks for, until it leaves; then raise as it does."""
        parts: Iterator[Tensor] = iter(())
        while True:
            asked: Any = self.processes.from_first(None)
            if isinstance(asked, Leave):
                return _leave(asked)
            if isinstance(asked, Look):
                self.processes.greatest(self.stop.number)
                continue
            parts = make(asked.of) if asked.number == 0 else parts
            with suppress(UserError, RunError):  # process 0 raises it too, and says how to leave
                part, stopped = self._next(parts)
                if len(part) and not stopped:
                    distributed.send(part.cpu().contiguous(), 0)

    def _next(self, parts: Iterator[Tensor]) -> tuple[Tensor, int]:
        """Return the next part, or none of a row, and the number of a signal to any process.

        Raises what any process does while it makes its part.
        """
        with self.processes.together(), limits_explained():
            part = next(parts, torch.empty(0))
        return part, self.processes.greatest(self.stop.number)

    @contextmanager
    def led(self) -> Iterator[None]:
        """Within the block process 0 leads, and hears of requests to stop; at its end the others leave, as it does."""
        if self.processes.count == 1:
            yield
            return
        self.stop.others = _Looks(self)
        end: Leave | None = Leave()
        try:
            yield
        except (UserError, RunError) as error:
            end = Leave(type(error))
            raise
        except Interrupted:
            end = Leave(stopped=self.stop.number)
            raise
        except BaseException:  # a fault of the program may lie between request and answer: its end tells the others
            end = None
            raise
        finally:
            self.stop.others = nobody_else
            if end is not None:
                with suppress(RunError), self.processes.failures_told():  # one that is gone need not be told
                    self.processes.from_first(end)


class _Looks:
    """Ask the others now and then for the number of a signal, 0 if there was none."""

    def __init__(self, sharing: Sharing) -> None:
        self.sharing, self.last = sharing, time.monotonic()

    def __call__(self) -> int:
        if time.monotonic() - self.last < LOOK_SECONDS:
            return 0
        self.sharing.processes.from_first(Look())
        found = self.sharing.processes.greatest(self.sharing.stop.number)
        self.last = time.monotonic()
        return found


def _leave(asked: Leave) -> None:
    if asked.stopped:
        raise Interrupted(asked.stopped)
    if asked.failed is not None:
        raise asked.failed("")
