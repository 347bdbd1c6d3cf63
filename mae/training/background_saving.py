"""Checkpoints beside training: training waits for a copy of its state, a thread writes the copy.

Why a file has the state of one step, whole: `begin` returns when the copy is complete, and only then does training
change a weight again. The thread reads nothing but the copy. The next copy, which goes into the same memory, waits
until the thread has ended. A process that is killed while the thread writes leaves the checkpoints before, as
`mae.training.checkpoints` writes whole files or none.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from mae.runtime.nested import each_tensor
from mae.training import checkpoints

MOST_LOST = 0.01
"""Share of its time that training may lose by checkpoints."""


def seconds_apart(at_least: float, lost: float) -> float:
    """Return the time from one checkpoint to the next, in seconds, if training `lost` so many by the first.

    0 if `at_least` is 0: every step is saved, whatever it costs.
    """
    return max(at_least, lost / MOST_LOST) if at_least else 0.0


class Saver:
    """Saves a training's state in a folder, beside it; as a block, it waits at the end for the thread.

    From the first `begin` on, it holds as much of the host's memory as a checkpoint has bytes: 12 per parameter.
    For a GPU the memory is pinned, which PyTorch rounds up to a power of two per tensor: up to twice as much.
    """

    def __init__(self, folder: Path, device: torch.device):
        self.folder, self.device = folder, device
        self.thread = ThreadPoolExecutor(1, "checkpoints")  # begins with the first copy
        self.writing: Future[float] | None = None
        self.memory: list[Tensor] = []
        self.began, self.lost = time.monotonic(), 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.wait()  # also after an error: nothing is written into a folder that this process no longer holds
        finally:
            self.thread.shutdown()

    def due(self, at_least: float) -> bool:
        """Say whether to begin a checkpoint: none is being written, and the last one was begun `seconds_apart` ago.

        Raises what the writing of the last one has failed with.
        """
        if self.writing is not None and self.writing.done():
            self.wait()
        free = self.writing is None or at_least == 0
        return free and time.monotonic() - self.began >= seconds_apart(at_least, self.lost)

    def begin(self, step: int, state: dict[str, Any]) -> None:
        """Copy `state` and have the copy written as the checkpoint of `step`, once the one before is."""
        self.wait()
        self.began = time.monotonic()
        copy = self._copy(state)
        self.lost = time.monotonic() - self.began
        self.writing = self.thread.submit(self._write, step, copy)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write `state` as the checkpoint of `step`, once the one before is written; it needs no copy."""
        self.wait()
        checkpoints.save(self.folder, step, state)

    def wait(self) -> None:
        """Wait for the thread; raise what it has failed with: `RunError` on a full disk."""
        if self.writing is not None:
            writing, self.writing = self.writing, None
            seconds = writing.result()
            if self.device.type == "cpu":  # training computes on the cores that the thread took
                self.lost += seconds

    def _copy(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a complete copy in the host's memory: that of the last copy, as new memory would take longer."""
        before, self.memory = iter(self.memory), []

        def copy(tensor: Tensor) -> Tensor:
            place = next(before, None)
            if place is None or (place.shape, place.dtype) != (tensor.shape, tensor.dtype):
                place = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self.memory.append(place)
            # Into pinned memory, at the full speed of the bus; from another device it would return before it is there.
            return place.copy_(tensor, non_blocking=tensor.is_cuda)

        copied: dict[str, Any] = each_tensor(state, copy)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # only now is the copy complete
        return copied

    def _write(self, step: int, copy: dict[str, Any]) -> float:
        """Write a copy; return the seconds of a core that this took."""
        before = time.thread_time()
        checkpoints.save(self.folder, step, copy)
        return time.thread_time() - before
