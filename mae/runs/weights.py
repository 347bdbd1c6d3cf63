"""Weights as files: safetensors, written whole or not at all."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mae.errors import RunError, UserError
from mae.runs.locks_and_writes import replacing


def write_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors by name, from any device; `RunError` on a full disk."""
    with replacing(path) as temporary:
        try:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)
        except SafetensorError as error:  # it hides the OSError of a full disk
            raise RunError(f"cannot write {path}: {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return what `write_weights` wrote, on the CPU; `UserError` if the file is missing or damaged."""
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"it is damaged ({error})"
        raise UserError(f"{path} cannot be read: {reason}; delete {path.parent} and pretrain again") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error


def weights_digest(state: dict[str, Tensor]) -> str:
    """Return a SHA-256 over names and bytes of all weights: equal exactly if every bit is."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
