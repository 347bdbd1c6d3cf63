"""Runs that living processes work on, in this terminal, in others or on other machines: how far, and how long still."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from mae.errors import UserError
from mae.runs.catalogue import find_runs, settings_of, shown_name
from mae.runs.directory import Record, RunDirectory, probes_of
from mae.runs.metrics import EPOCH, LOSS, ONLINE
from mae.runtime.progress import duration

RECENT = 20
"""Points of the curves that tell how fast a run is now."""


@dataclass(frozen=True)
class UnderWay:
    """A stage at work: the run's fingerprint and name, what is done or the kind of probe, the share that is done (0 to
    1) and the seconds left, None where nobody knows, the machine, and the newest loss and k-NN accuracy.
    """

    run: str
    name: str
    work: str
    share: float | None
    seconds_left: float | None
    host: str
    metrics: dict[str, float]

    def told(self) -> str:
        """Return how it stands in a few words: running 43 %, 2m05s left."""
        share = self.work if self.share is None else f"{self.share:.0%}"
        return f"running {share}" + ("" if self.seconds_left is None else f", {duration(self.seconds_left)} left")


def runs_under_way(runs_dir: Path) -> Iterator[UnderWay]:
    """Yield every pretraining and probe in a folder that a process works on, the newest run first."""
    for run in find_runs(runs_dir):
        for stage in (run, *probes_of(run)):
            record = stage.read_record()
            if record is not None and record.status == "running" and stage.is_locked():
                yield _at_work(run, stage, record)


def _at_work(run: RunDirectory, stage: RunDirectory, record: Record) -> UnderWay:
    name, host = shown_name(run), record.tags.get("mae.host", "")
    if record.stage == "probe":
        return UnderWay(run.path.name, name, stage.path.name.partition("-")[0], None, None, host, {})
    points = stage.read_metrics()
    total = _steps(stage, record)
    share = points[-1]["step"] / total if points and total else 0.0
    left = _seconds_left(points, total) if total else None
    return UnderWay(run.path.name, name, _epochs(points), share, left, host, _newest(points))


def _steps(run: RunDirectory, record: Record) -> int:
    """Return the optimiser steps of a pretraining, 0 where its folder does not tell."""
    try:
        settings = settings_of(run)
        images = int(record.data["train_images"])
        return int(settings["train.epochs"]) * (images // int(settings["train.batch_size"]))
    except (UserError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0


def _seconds_left(points: list[dict[str, Any]], total: int) -> float | None:
    """Return the time that the steps left take at the pace of the last points, less what has passed since the last.

    The median pace: while a run was interrupted, no steps were taken.
    """
    recent = points[-RECENT:]
    paces = [
        (after["time"] - before["time"]) / (after["step"] - before["step"])
        for before, after in pairwise(recent)
        if after["step"] > before["step"]
    ]
    if not paces:
        return None
    since = time.time() - recent[-1]["time"]
    return max(0.0, median(paces) * (total - recent[-1]["step"]) - since)


def _epochs(points: list[dict[str, Any]]) -> str:
    epoch = points[-1]["metrics"].get(EPOCH) if points else None
    return "pretraining" if epoch is None else f"pretraining, epoch {int(epoch) + 1}"


def _newest(points: list[dict[str, Any]]) -> dict[str, float]:
    """Return the newest loss and k-NN accuracy."""
    found: dict[str, float] = {}
    for point in points:
        found |= {key: value for key, value in point["metrics"].items() if key in (LOSS, ONLINE)}
    return found
