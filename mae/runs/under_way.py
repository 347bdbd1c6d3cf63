"""Runs that living processes work on, in this terminal, in others or on other machines: how far, and how long still."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from mae.config.resolve import flatten, read_toml
from mae.errors import UserError
from mae.runs.catalogue import find_runs, shown_name
from mae.runs.directory import Record, RunDirectory, probes_of
from mae.runs.metrics import EPOCH, LOSS, ONLINE

RECENT = 20
"""Points of the curves that tell how fast a run is now."""


@dataclass(frozen=True)
class UnderWay:
    """A stage at work: the run's fingerprint and name, what is done or the kind of probe, the share that is done (0 to
    1) and the seconds left, None where nobody knows, the machine, and the newest loss and k-NN accuracy.
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
