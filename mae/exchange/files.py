"""Checkpoints of others as tensors by name. Files are told by their first bytes, and no code that is in them is run."""

import json
import pickle
import re
import warnings
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mae.config.presets import Overrides
from mae.errors import UserError, first_line
from mae.exchange.naming import official_settings, settings_of_hugging_face

EXPECTED = "expected a checkpoint that torch.save or safetensors wrote, a Hugging Face folder or a run's folder"

SETTINGS = "mae_cli"
"""Where `export` keeps the settings that a format has no place for, as JSON: a file's metadata, or an entry beside the
weights."""

CONTAINERS = ("model", "state_dict")
"""What holds the weights in a file that has more: the official release's and timm's."""

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
HEADER_LIMIT = 100_000_000
"""The largest header of a safetensors file, bytes; safetensors' own limit."""


@dataclass(frozen=True)
class Content:
    """Tensors by name, the entry of the file that they were in, if any, and the settings that the file tells.

    `ours` says that mae-cli exported it.
    """

    tensors: Mapping[str, Tensor]
    container: str = ""
    settings: Overrides = field(default_factory=dict)
    ours: bool = False


def read_checkpoint(path: Path) -> Content:
    """Return what a file or a Hugging Face folder holds; `UserError` if it is neither, or damaged, or holds code."""
    try:
        return _read_folder(path) if path.is_dir() else _read_file(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {EXPECTED}") from None


def _read_folder(folder: Path) -> Content:
    weights = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).exists()]
    if not weights or not (folder / "config.json").exists():
        names = sorted(path.name for path in folder.iterdir())
        raise UserError(
            f"{folder}: {EXPECTED}; this folder lacks config.json beside model.safetensors or pytorch_model.bin, and "
            f"has {told(names) or 'nothing'}"
        )
    content = _read_file(weights[0])
    told_by = settings_of_hugging_face(_json(folder / "config.json"), _json(folder / "preprocessor_config.json"))
    return replace(content, settings=told_by | content.settings)


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no JSON object: {error}") from None


def _read_file(path: Path) -> Content:
    with open(path, "rb") as file:
        start = file.read(9)
    if start.startswith((ZIP, PICKLE)):
        return _unpickled(path, zipped=start.startswith(ZIP))
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= HEADER_LIMIT:
        return _safetensors(path)
    size = path.stat().st_size
    raise UserError(
        f"{path}: {EXPECTED}; found {size:,} bytes that begin with {start!r}" if size else f"{path} is empty"
    )


def _safetensors(path: Path) -> Content:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or cut off ({error}); get it again") from None
    return Content(tensors, settings=_settings(path, metadata), ours=SETTINGS in metadata)


def _unpickled(path: Path, zipped: bool) -> Content:
    """Only tensors, plain containers and numbers, and the official release's Namespace of options are let in."""
    try:
        with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings(action="ignore"):
            found = torch.load(path, "cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} holds Python code or objects ({named[1]}), which are not run; expected tensors by name: save "
                "model.state_dict() instead"
            ) from None
        raise UserError(f"{path}: {EXPECTED}; found a pickle of something else ({first_line(error)})") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} is damaged, cut off or no checkpoint ({first_line(error)}); get it again") from None
    return _content(path, found)


def _content(path: Path, found: Any) -> Content:
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: expected tensors by name; found a {type(found).__name__}")
    container = next((name for name in CONTAINERS if isinstance(found.get(name), Mapping)), "")
    tensors = found[container] if container else found
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path}: expected tensors by name, alone or under `model`; found {told(map(str, found))}")
    args = found.get("args")
    settings = official_settings(args) if isinstance(args, Namespace) else {}
    return Content(tensors, container, settings | _settings(path, found), ours=SETTINGS in found)


def _settings(path: Path, beside: Mapping[str, Any]) -> Overrides:
    try:
        return dict(json.loads(beside.get(SETTINGS, "{}")))
    except (ValueError, TypeError):
        raise UserError(f"{path}: its entry {SETTINGS} holds no settings as `mae-cli export` writes them") from None


def told(names: Any, most: int = 3) -> str:
    """Return the first of some names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
