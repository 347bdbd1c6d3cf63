"""A stage while it is worked on: its directory is held, and its record stays true however the work ends."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from mae.config.resolve import to_toml
from mae.config.tree import Config
from mae.runs.directory import Busy, Record, RunDirectory
from mae.runtime.interruption import Interrupted, Pruned
from mae.runtime.machine import CONDITIONS, limits_explained


@contextmanager
def worked_on(
    run: RunDirectory,
    record: Record,
    config: Config,
    surroundings: dict[str, Any],
    tracking: AbstractContextManager[object],
) -> Iterator[None]:
    """Hold a stage's directory and say in it what it is and how it stands, while the block works on it.

    `surroundings` is what `mae.runtime.machine.environment` returns. `tracking` is entered once the directory says what
    it is, and left last, so that MLflow hears of the end.
    """
    tags = {f"mae.{name}": str(surroundings[name]) for name in ("git_commit", "torch", "host", "command", *CONDITIONS)}
    with run.locked():
        if run.result() is not None:
            raise Busy(f"another process has just finished {run.path}; the same command takes its result")
        record = record.model_copy(update={"tags": _with_earlier_conditions(tags, run)})
        run.write_text("config.toml", to_toml(config))
        run.write_json("environment.json", surroundings)
        with tracking, _recorded(run, record):
            yield


def _with_earlier_conditions(tags: dict[str, str], run: RunDirectory) -> dict[str, str]:
    """Return tags that name the conditions of earlier work too, if this continues it: `1, 4` threads.

    The time and memory of a run are those of all the work on it.
    """
    before = run.read_record()
    if before is None or not any(run.checkpoints.glob("step-*.pt")):
        return tags
    earlier = {name: before.tags.get(name, "") for name in (f"mae.{condition}" for condition in CONDITIONS)}
    kept = {name: known.split(", ") for name, known in earlier.items() if known}
    return tags | {name: ", ".join(dict.fromkeys([*known, tags[name]])) for name, known in kept.items()}


@contextmanager
def _recorded(run: RunDirectory, record: Record) -> Iterator[None]:
    """Keep the record of a stage true, however the work ends."""
    before = run.read_record()
    seconds, started = (before.seconds, before.started) if before else (0.0, record.started)
    clock = time.monotonic()

    def write(status: str, reason: str = "") -> None:
        ended = None if status == "running" else time.time()
        now = {"status": status, "reason": reason, "started": started, "ended": ended}
        run.write_record(record.model_copy(update=now | {"seconds": seconds + time.monotonic() - clock}))

    write("running")
    try:
        with limits_explained():
            yield
    except Interrupted as stop:
        write("pruned" if isinstance(stop, Pruned) else "killed", str(stop))
        raise
    except BaseException as error:
        write("failed", f"{type(error).__name__}: {error}")
        raise
    write("finished")
