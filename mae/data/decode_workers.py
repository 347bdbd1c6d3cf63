"""Decoding many images, in chunks and in order: by threads, or by processes of their own.

Imports no torch, so that a worker process starts in about a second.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mae.data.image_files import Pixels, UnusableImage
from mae.data.shared_arrays import Shared
from mae.errors import RunError, UserError
from mae.runtime.interruption import SIGNALS

CHUNK = 16
"""Images decoded per task: handing over a task costs a fraction of a millisecond, as much as a small image."""

Decoder = Callable[[int], Pixels]
"""Image at an index as uint8 (C, H, W), or clip (C, T, H, W); `UserError` if it cannot be read. Can be pickled."""

Piece = TypeVar("Piece")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Examined:
    """A chunk of `count` images looked at for the first time.

    `pixels` is uint8 (n, C, H, W) of the images that could be read, `bad` why by the indexes of those that could not,
    `sums` int64 (2, C): per channel the sums of pixels and of squared pixels.
    """

    count: int
    pixels: np.ndarray
    bad: dict[int, str]
    sums: np.ndarray


def decode_chunk(decode: Decoder, indexes: Sequence[int]) -> np.ndarray:
    """Return uint8 (n, C, H, W)."""
    return np.array([decode(index) for index in indexes])


def examine_chunk(decode: Decoder, skip_bad: bool, indexes: Sequence[int]) -> Examined:
    """Decode a chunk; `UserError` at the first image that cannot be read, unless those are skipped."""
    images, bad = [], {}
    for index in indexes:
        try:
            images.append(decode(index))
        except UserError as error:
            if not skip_bad:
                raise UserError(f"{error}; mend it, or leave such files out with data.skip_bad_images=true") from None
            bad[index] = error.reason if isinstance(error, UnusableImage) else str(error)
    if not images:
        return Examined(len(bad), np.empty(0, np.uint8), bad, np.zeros((2, 1), np.int64))
    pixels = np.array(images)
    squares = np.multiply(pixels, pixels, dtype=np.uint16)
    all_but_channels = (0, *range(2, pixels.ndim))
    sums = [each.sum(axis=all_but_channels, dtype=np.int64) for each in (pixels, squares)]
    return Examined(len(indexes), pixels, bad, np.stack(sums))


def chunks(indexes: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut indexes into pieces of `CHUNK`."""
    return (indexes[start : start + CHUNK] for start in range(0, len(indexes), CHUNK))


def examine_in_threads(decode: Decoder, count: int, skip_bad: bool, threads: int) -> Iterator[Examined]:
    """Examine the images 0 .. count - 1, in order."""
    # Two threads were as fast as two processes: 2,800 to 3,400 small JPEGs/s and 190 of 500 x 375, on 2 shared cores.
    with ThreadPoolExecutor(threads) as pool:
        yield from _in_order(
            lambda piece: pool.submit(examine_chunk, decode, skip_bad, piece), chunks(range(count)), 2 * threads
        )


class Workers:
    """Processes that decode. They start when there is work, ignore signals, and end with this object or process.

    They share the arrays of their decoders through a file in `folder`; `OSError` if it cannot be written.
    """

    def __init__(self, decoders: dict[str, Decoder], count: int, folder: Path):
        self.count = count
        context = _Context()
        shared: Any = Shared(decoders, folder)  # arrives as the decoders themselves
        # Nothing is ever sent: workers see the other end close, even when this process is killed.
        listening, self._lifeline = context.Pipe(duplex=False)
        with _signals_blocked():
            self._pool = ProcessPoolExecutor(count, context, _start_worker, (shared, listening))

    def examine(self, name: str, count: int, skip_bad: bool) -> Iterator[Examined]:
        """Examine the images 0 .. count - 1 of decoder `name`, in order; their pixels stay behind."""
        return self._run(_examine, chunks(range(count)), 2 * self.count, name, skip_bad)

    def decode(self, name: str, pieces: Iterable[Sequence[int]], ahead: int) -> Iterator[np.ndarray]:
        """Yield uint8 (n, C, H, W) of each piece, `ahead` pieces being worked on; `RunError` if a worker dies."""
        return self._run(_decode, pieces, ahead, name)

    def _run(self, work: Callable[..., Result], pieces: Iterable[Any], ahead: int, *arguments: Any) -> Iterator[Result]:
        def submit(piece: Any) -> "Future[Result]":
            with _signals_blocked():
                return self._pool.submit(work, *arguments, piece)

        try:
            yield from _in_order(submit, pieces, ahead)
        except BrokenProcessPool:
            raise RunError(
                "a process that decodes images died (killed, perhaps for memory; fewer run.loader_workers take less); "
                "the same command continues"
            ) from None


def _in_order(submit: Callable[[Piece], "Future[Result]"], pieces: Iterable[Piece], ahead: int) -> Iterator[Result]:
    """Yield the results of all pieces in order, with `ahead` further ones under way."""
    remaining = iter(pieces)
    waiting = deque(submit(piece) for piece in islice(remaining, ahead))
    try:
        for piece in remaining:
            waiting.append(submit(piece))
            yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class _Process(SpawnProcess):
    def terminate(self) -> None:
        self.kill()  # SIGTERM is blocked, and the pool waits for the other workers after one has died


class _Context(SpawnContext):
    """Spawns: to fork a process that has threads can deadlock."""

    Process = _Process


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started here inherits the mask: Ctrl-C and the like, sent to all, are for the main process alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_decoders: dict[str, Decoder] = {}
"""Of a worker process."""


def _start_worker(decoders: dict[str, Decoder], lifeline: "Connection[Any, Any]") -> None:
    _decoders.update(decoders)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()


def _end_with_parent(lifeline: "Connection[Any, Any]") -> None:
    lifeline.poll(None)
    os._exit(0)


def _decode(name: str, indexes: Sequence[int]) -> np.ndarray:
    return decode_chunk(_decoders[name], indexes)


def _examine(name: str, skip_bad: bool, indexes: Sequence[int]) -> Examined:
    examined = examine_chunk(_decoders[name], skip_bad, indexes)
    return replace(examined, pixels=examined.pixels[:0])
