"""Files that several processes share: locks that die with their process, and replacement in one step."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mae.errors import RunError

# Over NFS, flock locks bytes as fcntl does: an exclusive lock needs a file open for writing, a shared one for reading.


def is_held(lock: Path) -> bool:
    """Say whether a process holds the exclusive lock on a file; two that look at once share theirs."""
    try:
        with open(lock) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def lock_at_once(handle: IO[str]) -> bool:
    """Take the exclusive lock on a file open for writing, unless another process holds a lock on it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock(handle: IO[str]) -> bool:
    """Take a file's exclusive lock; a few attempts, for `is_locked` holds a shared one for an instant."""
    for _ in range(10):
        if lock_at_once(handle):
            return True
        time.sleep(0.02)
    return False


@contextmanager
def locked_at_once(lock: Path) -> Iterator[bool]:
    """Hold the exclusive lock on a file within the block, or give False if another process holds it."""
    with open(lock, "a+") as handle:
        yield try_lock(handle)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold what belongs to a folder but is not its content, such as its database or its place on a server."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".store.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, its file takes the place of `path` for good.

    The file and its folder are flushed to disk, so that after a power cut there is the old file or the new one.
    A full or failing disk leaves the old file, removes the temporary one and raises `RunError`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # where there is no folder that could be written to
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
