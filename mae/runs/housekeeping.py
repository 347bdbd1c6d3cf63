"""What takes disk and is of no more use, in the runs folder and in the cache folder.

Listed are checkpoints of finished runs, what killed processes were writing, and image caches that no command has used
for long. Kept, whatever they take: weights, results, curves and pictures; baselines, which are results; checkpoints of
runs that are not finished, for those continue; downloaded data sets; all of a run that a process works on.
"""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from mae.errors import UserError
from mae.runs.directory import PRETEXT, RunDirectory
from mae.runs.locks_and_writes import is_held, locked_at_once

ORPHAN_SECONDS = 3600.0
"""How long a temporary file has not been written to, at least, if its writer is dead: writers take minutes at most."""

TEMPORARY = re.compile(r"\..+\.\d+\.tmp|\.arrived")
"""Names of what is written beside its place (`locks_and_writes.replacing`) or has come from another machine in part."""

BUILDING, DAY = ".building", 86400.0


@dataclass(frozen=True)
class Removable:
    """A file or folder that may go: what it is, its size in bytes, and what has to be held while it is removed."""

    kind: str
    path: Path
    size: int
    lock: Path | None = None


def find_removable(runs_dir: Path, cache_dir: Path, unused_days: float) -> list[Removable]:
    """Return what may go; caches, if no command has used them for `unused_days`. Nothing is written."""
    found: dict[Path, Removable] = {}
    for each in chain(
        _checkpoints(runs_dir),
        _caches(cache_dir, unused_days * DAY),
        _unfinished_files(runs_dir),
        _unfinished_files(cache_dir / "digests"),
    ):
        if not found.keys() & set(each.path.parents):  # what is in a folder goes with it
            found[each.path] = each
    return list(found.values())


def remove(found: Removable) -> bool:
    """Remove a file or folder and return True, or False if a process has begun to use it; `UserError` if that fails."""
    try:
        with ExitStack() as stack:
            if found.lock is not None and not stack.enter_context(locked_at_once(found.lock)):
                return False
            gone = found.path
            if found.kind == "unused cache":  # a cache is whole or is none, also if this process is killed here
                gone = found.path.with_suffix(BUILDING)
                shutil.rmtree(gone, ignore_errors=True)
                found.path.rename(gone)
            if gone.is_dir():
                shutil.rmtree(gone)
            else:
                gone.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {found.path}: {error.strerror or error}") from error
    return True


def bytes_in(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def _checkpoints(runs_dir: Path) -> Iterator[Removable]:
    """A run of an earlier version of the program has its decoder nowhere else: its checkpoints stay."""
    for pattern, results in (
        ("*/checkpoints", ("result.json", PRETEXT)),
        ("*/probes/*/checkpoints", ("result.json",)),
        ("baselines/*/checkpoints", ("result.json",)),
    ):
        for folder in sorted(runs_dir.glob(pattern)):
            run = RunDirectory(folder.parent)
            kept = all((run.path / name).exists() for name in results)
            if kept and not run.is_locked():
                yield Removable("checkpoints of a finished run", folder, bytes_in(folder), run.path / "lock")


def _unfinished_files(root: Path) -> Iterator[Removable]:
    oldest = time.time() - ORPHAN_SECONDS
    for path in sorted(root.rglob(".*")):
        if TEMPORARY.fullmatch(path.name) and path.lstat().st_mtime < oldest and not _is_worked_on(path, root):
            yield Removable("unfinished file", path, bytes_in(path))


def _is_worked_on(path: Path, root: Path) -> bool:
    folders = [folder for folder in path.parents if folder.is_relative_to(root)]
    return any(RunDirectory(folder).is_locked() for folder in folders)


def _caches(cache_dir: Path, unused: float) -> Iterator[Removable]:
    for folder in sorted([*cache_dir.glob("pixels-*/"), *cache_dir.glob("survey-*/")]):
        lock, meta = folder.with_suffix(".lock"), folder / "meta.json"
        if is_held(lock):
            continue
        if folder.suffix == BUILDING:
            yield Removable("half-built cache", folder, bytes_in(folder), lock)
        elif meta.exists() and time.time() - meta.stat().st_mtime >= unused:
            yield Removable("unused cache", folder, bytes_in(folder), lock)
