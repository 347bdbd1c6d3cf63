"""A run directory as bytes, to travel between machines that share no disk. Checkpoints stay where they are."""

import io
import shutil
import tarfile
from fnmatch import fnmatch
from pathlib import Path

from mae.runs.directory import RunDirectory

Parcel = bytes

STAYS = ("checkpoints", "tracking-*.json", "lock", ".*")
"""Names of what is of use on its own machine only; among it the receipts of MLflow stores and unfinished files."""


def pack(run: RunDirectory) -> Parcel:
    """Return everything that a run and its probes have found so far."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(run.path.rglob("*")):
            name = path.relative_to(run.path)
            if path.is_file() and not any(fnmatch(part, kept) for part in name.parts for kept in STAYS):
                archive.add(path, str(name))
    return buffer.getvalue()


def unpack(parcel: Parcel, run: RunDirectory) -> None:
    """Put a parcel into a run's directory, results last: a reader never sees a result without what it stands on.

    `Busy` if someone works on the run there.
    """
    with run.locked():
        arrived = run.path / ".arrived"
        shutil.rmtree(arrived, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(parcel)) as archive:
            archive.extractall(arrived, filter="data")
        for path in sorted((path for path in arrived.rglob("*") if path.is_file()), key=_turn):
            target = run.path / path.relative_to(arrived)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        shutil.rmtree(arrived)


def _turn(path: Path) -> int:
    return {"record.json": 1, "result.json": 2}.get(path.name, 0)
