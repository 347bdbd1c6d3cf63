"""Objects for worker processes whose NumPy arrays lie in one file that all workers map, not once in each of them."""

import mmap
import pickle
import tempfile
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

ALIGNMENT = 64
"""Bytes; NumPy is slower on arrays that lie askew."""


class Shared:
    """A `content` to pass to processes that are spawned: there it arrives as itself, its arrays read-only.

    The file has no name, so that it goes with the last process that has it open, however that ends.
    """

    def __init__(self, content: object, folder: Path) -> None:
        arrays: list[pickle.PickleBuffer] = []
        self._pickled = pickle.dumps(content, protocol=5, buffer_callback=arrays.append)
        self._spans: list[tuple[int, int]] = []
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, lives as long as this
        for array in arrays:
            self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
            start = self._file.tell()
            self._file.write(array.raw())
            self._spans.append((start, self._file.tell()))
        self._file.flush()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (DupFd(self._file.fileno()), self._pickled, self._spans)


def _arrived(descriptor: Any, pickled: bytes, spans: list[tuple[int, int]]) -> object:
    with open(descriptor.detach(), "rb") as file:
        empty = not spans or spans[-1][1] == 0
        mapped = memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return pickle.loads(pickled, buffers=[mapped[start:end] for start, end in spans])
