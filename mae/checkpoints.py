"""Checkpoints: written whole or not at all, checked on reading, the last two kept.

A checkpoint is torch's zip format, whose every record carries a CRC-32; `torch.load` does not look at it, so it is
verified here first. Only tensors and plain Python values go in, and only they come out (`weights_only`).
"""

import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae.errors import RunError, UserError
from mae.run_directory import replacing

KEPT = 2


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `state` as the checkpoint of `step` and drop all but the last two; `RunError` on a full disk."""
    path = folder / f"step-{step:08d}.pt"
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's writer hides the OSError of a full disk
            raise RunError(f"cannot write {path}: {str(error).splitlines()[0]}") from error
    for old in sorted(folder.glob("step-*.pt"))[:-KEPT]:
        old.unlink()


def load(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state, on the CPU; `UserError` if it is damaged or holds more than plain data."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        reason = f"checksum of {damaged} differs"
    except FileNotFoundError:
        reason = "no such file"
    except (zipfile.BadZipFile, EOFError, RuntimeError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"checkpoint {path} cannot be used: {reason}")


def latest(folder: Path) -> dict[str, Any] | None:
    """Return the newest checkpoint that is whole, or None; a damaged one is passed over for the one before."""
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        try:
            return load(path)
        except UserError:
            continue
    return None


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
