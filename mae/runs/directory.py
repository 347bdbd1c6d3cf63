"""The run directory: the truth about one stage (a pretraining or a probe), readable without any server.

    runs/<fingerprint>/                  one pretraining
        record.json                      what it is and how it stands: name, status, reason, tags, times
        config.toml                      the whole config; reproduces the run
        environment.json                 versions, machine, command line
        metrics.jsonl                    one object per logged step: {"step": ..., "time": ..., "metrics": {...}}
        checkpoints/step-00001234.pt     the last two, until the stage is finished
        pictures/*.png
        encoder.safetensors              the result, loadable by timm
        pretext.safetensors              the rest of the pretext task: the decoder, what a target was fitted to
        result.json                      {"metrics": {...}, ...}; exists only once the stage is finished
        tracking-*.json                  what each tracking server has received so far
        probes/<kind>-<fingerprint>/     the same files for one probe of this pretraining

Whoever works on a stage holds the lock on its directory; the kernel lets it go when the process dies, so a
directory that says "running" without a held lock belongs to a process that was killed.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from mae.errors import RunError, UserError


class Busy(UserError):
    """Another living process works on the directory."""


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
            if not _try_lock(handle):
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
                if _lock_at_once(handle):
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
        """Return the content of a JSON file, or None where there is none."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None

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

    def append_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Add one point of the curves: finite numbers at an optimiser step."""
        line = json.dumps({"step": step, "time": time.time(), "metrics": metrics}, allow_nan=False)
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the points of the curves in order; a line torn by a crash is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        points = []
        for line in lines:
            try:
                points.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return points

    def forget_metrics_after(self, step: int) -> None:
        """Drop points past `step`: a run resumed from its checkpoint there will measure them again."""
        kept = [point for point in self.read_metrics() if point["step"] <= step]
        self.write_text("metrics.jsonl", "".join(json.dumps(point) + "\n" for point in kept))


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


def _lock_at_once(handle: IO[str]) -> bool:
    """Take the exclusive lock on a file open for writing, unless another process holds a lock on it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock(handle: IO[str]) -> bool:
    """Take a file's exclusive lock; a few attempts, for `is_locked` holds a shared one for an instant."""
    for _ in range(10):
        if _lock_at_once(handle):
            return True
        time.sleep(0.02)
    return False


@contextmanager
def locked_at_once(lock: Path) -> Iterator[bool]:
    """Hold the exclusive lock on a file within the block, or give False if another process holds it."""
    with open(lock, "a+") as handle:
        yield _try_lock(handle)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def status_of(run: RunDirectory) -> tuple[str, str]:
    """Return a stage's status and its reason.

    Beside those of `Status`: `killed` if its process died, `missing` if it was never begun, `unreadable` if another
    version of the program wrote its record.
    """
    record = run.read_record()
    if record is None:
        there = (run.path / "record.json").exists()
        return ("unreadable", "written by another version of mae-cli") if there else ("missing", "")
    if record.status == "running" and not run.is_locked():
        return ("killed", "its process died") if run.result() is None else ("finished", "")
    return record.status, record.reason


def find_runs(runs_dir: Path) -> list[RunDirectory]:
    """Return every pretraining under `runs_dir`, newest first."""
    ours = [(record.started, run) for run, record in _records(runs_dir) if record is not None]
    return [run for _, run in sorted(ours, key=lambda each: -each[0])]


def unreadable_runs(runs_dir: Path) -> list[RunDirectory]:
    """Return the pretrainings under `runs_dir` whose record another version of the program wrote."""
    return [run for run, record in _records(runs_dir) if record is None]


def _records(runs_dir: Path) -> Iterator[tuple[RunDirectory, Record | None]]:
    for path in sorted(runs_dir.glob("*/record.json")):
        run = RunDirectory(path.parent)
        yield run, run.read_record()


def probes_of(run: RunDirectory) -> list[RunDirectory]:
    """Return the probes of a pretraining, by name."""
    return [RunDirectory(path.parent) for path in sorted(run.path.glob("probes/*/record.json"))]


def find_run(runs_dir: Path, prefix: str) -> RunDirectory:
    """Return the one pretraining whose fingerprint starts with `prefix`, or raise `UserError`."""
    if not prefix or not all(character in "0123456789abcdef" for character in prefix):
        raise UserError(f"run {prefix!r}: expected (the start of) a fingerprint such as 3fa9c1; see `mae-cli runs`")
    matches = [run for run in find_runs(runs_dir) if run.path.name.startswith(prefix)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise UserError(f"no run in {runs_dir} starts with {prefix!r}; see `mae-cli runs`")
    raise UserError(f"{prefix!r} fits {len(matches)} runs: {', '.join(run.path.name for run in matches)}; say more")


def list_runs(runs_dir: Path) -> list[dict[str, Any]]:
    """Return one row per pretraining, newest first: see `run_row`."""
    return [run_row(run) for run in find_runs(runs_dir)]


def run_row(run: RunDirectory) -> dict[str, Any]:
    """Return what there is to say about a pretraining: run, name, status, seconds, metrics of it and its probes."""
    record = run.read_record()
    assert record is not None  # find_runs leaves out what has none
    metrics: dict[str, float] = {}
    for stage in [run, *probes_of(run)]:
        metrics |= (stage.result() or {}).get("metrics", {})
    status = status_of(run)[0]
    return {"run": run.path.name, "name": record.name, "status": status, "seconds": record.seconds, "metrics": metrics}
