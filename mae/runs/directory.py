"""The run directory: the truth about one stage (a pretraining or a probe), readable without any server.

    runs/<fingerprint>/                  one pretraining
        record.json                      what it is and how it stands: name, status, reason, tags, times
        config.toml                      the whole config; reproduces the run
        environment.json                 versions, machine, command line
        notes.json                       a name, a note and tags, if people have given any
        metrics.jsonl                    one object per logged step: {"step": ..., "time": ..., "metrics": {...}}
        checkpoints/step-00001234.pt     the last two, until the stage is finished
        pictures/*.png
        encoder.safetensors              the result, loadable by timm
        pretext.safetensors              the rest of the pretext task: the decoder, what a target was fitted to;
                                         not there for an encoder that was imported without
        result.json                      {"metrics": {...}, ...}; exists only once the stage is finished
        tracking-*.json                  what each tracking server has received so far
        probes/<kind>-<fingerprint>/     the same files for one probe of this pretraining, and
            predictions.csv              what it took each test image for, as indexes of the record's `class_names`

A process that works on a stage holds the lock on its directory. The kernel lets it go when the process dies, so a
directory that says "running" without a held lock belongs to a process that was killed.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from mae.errors import RunError, UserError
from mae.runs.locks_and_writes import is_held, lock_at_once, replacing, try_lock


class Busy(UserError):
    """Another living process works on the directory."""


class Damaged(UserError):
    """A file of a directory is not what was written."""


ENCODER, PRETEXT = "encoder.safetensors", "pretext.safetensors"

Status = Literal["running", "finished", "failed", "killed", "pruned"]


class Record(BaseModel):
    """What a stage is and how it stands; the content of `record.json`."""

    stage: Literal["pretrain", "probe"]
    name: str
    fingerprint: str
    status: Status = "running"
    reason: str = Field("", description="why it failed, was killed or pruned")
    parent: str | None = Field(None, description="fingerprint of the pretraining a probe belongs to")
    data: dict[str, Any] = Field(
        default_factory=dict, description="source, digest, image counts; what a model has to know: `DataFacts`"
    )
    imported: str = Field("", description="in words, which model was imported; empty for a pretraining of our own")
    cuts_off: bool = Field(False, description="an imported model's visible patches are counted as in the official code")
    tags: dict[str, str] = Field(default_factory=dict)
    started: float = Field(default_factory=time.time, description="seconds since the epoch")
    ended: float | None = None
    seconds: float = Field(0.0, description="time worked on it, over all resumptions")


class RunDirectory:
    """One stage's directory: writes are atomic, metrics append-only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.pictures = path / "pictures"

    def probe(self, name: str) -> "RunDirectory":
        """Return the directory of a probe of this pretraining."""
        return RunDirectory(self.path / "probes" / name)

    def stages(self, probes: Iterable[str]) -> "list[RunDirectory]":
        """Return this pretraining and, by their names, probes of it."""
        return [self, *map(self.probe, probes)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this directory, making it if needed; `Busy` if another process works on it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = open(self.path / "lock", "a+")  # noqa: SIM115 - held for the whole block, closed below
        except OSError as error:
            raise UserError(f"cannot write to the run folder {self.path}: {error.strerror}") from None
        with handle:
            if not try_lock(handle):
                handle.seek(0)
                holder = handle.read().strip() or "unknown"
                raise Busy(f"{self.path} is being worked on by process {holder}; wait for it")
            handle.truncate(0)
            handle.write(f"{os.getpid()} on {os.uname().nodename}")
            handle.flush()
            yield

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Work on this directory beside others who do the same; `is_locked` is true as long as any of them lives.

        Each takes a lock file that is free: `is_locked` could not see a lock that they shared.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            with open(self.path / f"lock-{number}", "a+") as handle:
                if lock_at_once(handle):
                    yield
                    return

    def is_locked(self) -> bool:
        """Say whether a living process works on this directory; the right to read it is enough to tell."""
        return any(is_held(path) for path in self.path.glob("lock*"))

    def write_text(self, name: str, text: str) -> None:
        """Replace the file `name` in one step: a reader sees the old text or the new, never a part."""
        with replacing(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Any) -> None:
        """Replace the file `name` with `value` as JSON, in one step; `ValueError` on NaN or infinity."""
        self.write_text(name, json.dumps(value, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file, None where there is none; `Damaged` where it is no JSON."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:  # of JSON or of UTF-8
            raise Damaged(
                f"{self.path / name} is damaged ({error}); move the folder {self.path} away, and the same command "
                "makes it again"
            ) from None

    def write_record(self, record: Record) -> None:
        """Replace `record.json`."""
        self.write_text("record.json", record.model_dump_json(indent=2) + "\n")

    def read_record(self) -> Record | None:
        """Return the record, or None where this is no run directory or one of another version."""
        try:
            return Record.model_validate_json((self.path / "record.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None

    def result(self) -> Any:
        """Return what a finished stage found, or None while it is not finished."""
        return self.read_json("result.json")

    def metrics(self) -> dict[str, float]:
        """Return what a finished stage has measured; `RunError` if its result is gone."""
        if (result := self.result()) is None:
            raise RunError(f"{self.path} has lost its result.json, or all of it; the same command makes it again")
        found: dict[str, float] = result["metrics"]
        return found

    def append_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Add one point of the curves, finite numbers at an optimiser step; `RunError` if the folder is gone."""
        line = json.dumps({"step": step, "time": time.time(), "metrics": metrics}, allow_nan=False)
        try:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except FileNotFoundError:
            raise RunError(f"{self.path} is gone: it was removed or moved away from a run at work") from None

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the points of the curves in order; a line torn by a crash is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        points = []
        for line in lines:
            with suppress(json.JSONDecodeError):
                points.append(json.loads(line))
        return points

    def forget_metrics_after(self, step: int) -> None:
        """Drop points past `step`: a run resumed from its checkpoint there will measure them again."""
        kept = [point for point in self.read_metrics() if point["step"] <= step]
        self.write_text("metrics.jsonl", "".join(json.dumps(point) + "\n" for point in kept))


def status_of(run: RunDirectory) -> tuple[str, str]:
    """Return a stage's status and its reason.

    Beside those of `Status`: `killed` if its process died, `missing` if it was never begun, `unreadable` if another
    version of the program wrote its record, or a file of it is damaged.
    """
    try:
        record, result = run.read_record(), run.result()
        if record is None:
            there = run.read_json("record.json") is not None
            return ("unreadable", "written by another version of mae-cli") if there else ("missing", "")
    except Damaged as error:
        return "unreadable", str(error)
    if record.status == "running" and not run.is_locked():
        return ("killed", "its process died") if result is None else ("finished", "")
    return record.status, record.reason


def probes_of(run: RunDirectory) -> list[RunDirectory]:
    """Return the probes of a pretraining, by name."""
    return [RunDirectory(path.parent) for path in sorted(run.path.glob("probes/*/record.json"))]
