"""Checkpoints: written whole or not at all, checked on reading, the two written last kept.

A checkpoint is torch's zip format with a SHA-256 of all its bytes as the archive's comment. It is checked before
anything else reads the file, so that damage anywhere is damage, and a failing disk or a lack of memory is not. Only
tensors and plain Python values go in, and only they come out (`weights_only`).
"""

import hashlib
import os
import pickle
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae.errors import RunError, UserError
from mae.runs.locks_and_writes import replacing

DIGEST_BYTES = 32


class Damaged(UserError):
    """A checkpoint that cannot be used, now or later, and why."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"checkpoint {path} cannot be used: {reason}")
        self.reason = reason


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `state` as the checkpoint of `step`, keep it and the one written before; `RunError` on a full disk."""
    path = checkpoint(folder, step)
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's writer hides the OSError of a full disk
            raise RunError(f"cannot write {path}: {str(error).splitlines()[0]}") from error
        _seal(temporary)
    others = sorted((each for each in _all(folder) if each != path), key=lambda each: each.stat().st_mtime_ns)
    for old in others[:-1]:
        old.unlink()


def load(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state, on the CPU.

    `Damaged` if its bytes are not those written or hold more than plain data; `UserError` if there is no such file;
    `RunError` if it cannot be read now, whatever it holds.
    """
    try:
        if not _is_whole(path):
            raise Damaged(path, "its checksum differs")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} cannot be used: no such file") from None
    except pickle.UnpicklingError as error:
        raise Damaged(path, str(error).splitlines()[0]) from error
    except (OSError, MemoryError, RuntimeError) as error:  # torch raises RuntimeError where memory is short
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise RunError(
            f"checkpoint {path} cannot be read now: {reason or type(error).__name__}; it is left as it is, "
            "the same command tries again"
        ) from error


def latest(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the newest checkpoint that is whole, or None; the caller holds the run, as this tidies up.

    A damaged one is set aside under another name, which is said, as is what is used instead. What a killed process
    was writing is removed. `RunError` if a checkpoint cannot be read now.
    """
    for unfinished in folder.glob(".step-*.tmp"):
        unfinished.unlink()
    damaged = []
    state = None
    for path in sorted(_all(folder), reverse=True):
        try:
            state = load(path)
            break
        except Damaged as error:
            path.rename(path.with_name(f"{path.name}.damaged"))
            damaged.append((path.stem, error.reason))
    instead = "no other checkpoint: starting from step 0" if state is None else f"continuing from step {state['step']}"
    for name, reason in damaged:
        say(f"checkpoint {name} is damaged ({reason}) and set aside; {instead}")
    return state


def remove(folder: Path) -> None:
    """Remove all checkpoints of a run, whose weights are kept elsewhere by now; one that cannot be removed stays."""
    for path in folder.glob("*"):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        folder.rmdir()


def checkpoint(folder: Path, step: int) -> Path:
    """Return where the checkpoint of `step` is kept."""
    return folder / f"step-{step:08d}.pt"


def _all(folder: Path) -> list[Path]:
    return list(folder.glob("step-*.pt"))


def _seal(path: Path) -> None:
    """Append to a zip archive the digest of all before it, as the archive's comment."""
    with open(path, "rb+") as file:
        file.seek(-2, os.SEEK_END)  # the last field is the length of the comment, none so far
        file.write(DIGEST_BYTES.to_bytes(2, "little"))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.write(digest)


def _is_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size - DIGEST_BYTES
        digest = hashlib.sha256()
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
        return file.read() == digest.digest()


def random_state() -> dict[str, Any]:
    """Return the state of every global random generator, and what else decides about bits, as plain values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "threads": torch.get_num_threads(),  # one and two threads sum in another order
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back the generators that `random_state` returned; how many threads there are is the machine's business."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])  # it may come from a machine with more
