"""A pool of workers, as the queue of jobs sees it: each does at most one job at a time, in a process of its own.

`LocalPool` has its workers on this machine, `RayPool` on a Ray cluster.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ablations.execution.job import Job

POLL_SECONDS = 0.2
"""Longest wait for a report."""

ONGOING = ("progress", "warned", "evaluated")
"""Kinds of reports after which a job goes on."""


@dataclass(frozen=True)
class Report:
    """How a job stands. Those of `ONGOING` kinds come again and again, one of the others ends the job.

    `failed` is a failure by its own settings: it would fail again. `fault` is any other failure, of the machine, the
    files or the program, and `died` the pool's word for a process that could not report; the queue has such a job done
    again, and says `set aside` when it gives up.

    `text` is the reason or a note, `share` what is behind of the pretraining (0 to 1), `accuracy` the online k-NN
    top-1 after `epoch` epochs, in percent.
    """

    kind: Literal["progress", "warned", "evaluated", "finished", "failed", "busy", "stopped", "pruned", "fault", "died",
                  "set aside"]  # fmt: skip
    text: str = ""
    share: float = 0.0
    epoch: int = 0
    accuracy: float = 0.0


@dataclass(frozen=True)
class Slot:
    """What a worker has: the folder of all runs, a device, and so many CPU threads at most."""

    runs_dir: Path
    device: str
    threads: int


class WorkerPool(Protocol):
    """Starts jobs on idle workers and says what becomes of them; a worker is known by its number."""

    size: int
    """How many workers there are."""

    def free(self) -> list[int]:
        """Return the workers that have no job."""

    def start(self, worker: int, job: Job) -> None:
        """Start a job on an idle worker."""

    def poll(self) -> list[tuple[int, Report]]:
        """Wait a moment; return what came, by worker. One that has sent its last report is idle by then."""

    def answer(self, worker: int, prune: str) -> None:
        """Answer `evaluated`: go on, or, with a reason to `prune`, save and end."""

    def stop(self) -> None:
        """Ask every worker to save and end, and wait for that."""
