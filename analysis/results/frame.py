"""Results of studies as one tidy frame: a row per study, cell, seed and probe, wherever the results came from.

| column | type | meaning |
|---|---|---|
| study, study_id | str | the study's name; its folder's name, which no other cells, settings or images share |
| question, source, axis, log_axis | str, bool | what it asks; where the paper does; key on x; is x logarithmic |
| base, base_probe | str | the config its cells differ from, and how it is probed: what differs from the defaults |
| data, data_digest | str | the images, and the hash of their content |
| order, cell, is_default | int, str, bool | place in the table, name, whether it is the base config itself |
| task | str | the cell's `pretext.kind` |
| cell_probe | str | what the cell changes of the base's probe, where it acts on this row's |
| x | float | value on the study's axis, NaN where it has none or one of its values is no number |
| seed, run | int, str | `train.seed`; fingerprint of the pretraining |
| status, reason | str | finished, failed, killed, running, missing or unreadable; why |
| probe | str | linear, knn, or none for a study that is not probed |
| top1, low, high | float | test top-1 in %, and Wilson's 95 % interval over test images |
| untrained, pixels | float | the same probe's top-1 on the untrained encoder and on raw pixels, % |
| paper_linear, paper_finetune, paper_speedup | float | the paper's figures for the cell |
| gflops, tflop | float | per image and training step; of the whole pretraining, in 10^12 operations |
| seconds, memory_mb, loss | float | of pretraining; its peak; its last |
| chance_loss | float | the loss of a guess, where the task is to choose one of some answers; else NaN |
| output_std | float | spread of a task's outputs at the end: 1 at best, 0 collapsed; NaN where not measured |
| commit, torch, command | str | of the pretraining: code, PyTorch, command line |
| device, processes, threads | str | its device's name, number of processes, CPU threads of each |
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from mae.runs.directory import RunDirectory, status_of
from mae.runs.metrics import CHANCE_LOSS, COST_MEMORY, FINAL_LOSS, FINAL_OUTPUT_STD, GFLOPS, SECONDS, STEPS, top1
from mae.runs.probe_settings import base_probe, cell_probe
from mae.runs.study_record import CellRecord, StudyRecord, TrialRecord

COSTS = {
    "gflops": GFLOPS,
    "seconds": SECONDS,
    "memory_mb": COST_MEMORY,
    "loss": FINAL_LOSS,
    "chance_loss": CHANCE_LOSS,
    "output_std": FINAL_OUTPUT_STD,
}
SURROUNDINGS = {
    "commit": "mae.git_commit",
    "torch": "mae.torch",
    "device": "mae.device_name",
    "processes": "mae.processes",
    "threads": "mae.threads",
    "command": "mae.command",
}
PAPER = ("linear", "finetune", "speedup")
TYPES: dict[str, str] = {
    **dict.fromkeys(("study", "study_id", "question", "source", "axis"), "str"),
    "log_axis": "bool",
    **dict.fromkeys(("base", "base_probe", "data", "data_digest"), "str"),
    "order": "int64",
    **dict.fromkeys(("cell", "task", "cell_probe"), "str"),
    "is_default": "bool",
    "x": "float64",
    "seed": "int64",
    **dict.fromkeys(("run", "status", "reason", "probe"), "str"),
    **dict.fromkeys(("top1", "low", "high", "untrained", "pixels"), "float64"),
    **dict.fromkeys((f"paper_{name}" for name in PAPER), "float64"),
    **dict.fromkeys(("gflops", "tflop", "seconds", "memory_mb", "loss", "chance_loss", "output_std"), "float64"),
    **dict.fromkeys(SURROUNDINGS, "str"),
}
"""The columns in order, with their types."""

PRETRAINING = "pretrain"


@dataclass(frozen=True)
class Outcome:
    """What became of a trial: status and reason per stage (`pretrain` or a probe's kind), metrics and tags of all."""

    stages: Mapping[str, tuple[str, str]]
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


MISSING = Outcome({PRETRAINING: ("missing", "")})


def tidy(record: StudyRecord, study_id: str, outcome_of: Callable[[TrialRecord], Outcome]) -> pd.DataFrame:
    """Return the frame of one study; rows that are not finished have a status, a reason and no accuracy."""
    cells = {cell.name: (order, cell) for order, cell in enumerate(record.cells)}
    values = {cell.name: cell.overrides.get(record.axis) for cell in record.cells}
    places = values if all(_is_number(value) for value in values.values()) else {}
    of_study = {"study_id": study_id, "base_probe": base_probe(record.config)}
    rows = []
    for trial in record.trials:
        outcome, (order, cell) = outcome_of(trial), cells[trial.cell]
        for probe in trial.probes or ("none",):
            row = of_study | {"order": order, "x": places.get(cell.name)}
            rows.append(row | _row(record, cell, trial, probe, outcome))
    return pd.DataFrame(rows, columns=list(TYPES)).astype(TYPES)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def study_frame(record: StudyRecord, runs_dir: Path, study_id: str = "") -> pd.DataFrame:
    """Return the frame of one study from the run directories under `runs_dir`."""

    @cache
    def outcome(fingerprint: str, probes: tuple[tuple[str, str], ...]) -> Outcome:
        return _outcome(RunDirectory(runs_dir / fingerprint), dict(probes))

    return tidy(record, study_id or record.name, lambda trial: outcome(trial.fingerprint, tuple(trial.probes.items())))


def _outcome(run: RunDirectory, probes: Mapping[str, str]) -> Outcome:
    stages: dict[str, tuple[str, str]] = {}
    metrics: dict[str, float] = {}
    for stage, place in {PRETRAINING: run, **{kind: run.probe(name) for kind, name in probes.items()}}.items():
        stages[stage] = status_of(place)
        if stages[stage][0] != "unreadable" and (result := place.result()) is not None:
            stages[stage] = "finished", ""
            metrics |= result["metrics"]
    record = run.read_record()
    return Outcome(stages, metrics, record.tags if record else {})


def _row(record: StudyRecord, cell: CellRecord, trial: TrialRecord, probe: str, outcome: Outcome) -> dict[str, Any]:
    status, reason = outcome.stages[PRETRAINING]
    metrics = outcome.metrics if status == "finished" else {}
    if status == "finished" and trial.probes:
        status, reason = outcome.stages.get(probe, ("missing", ""))
        if status == "finished" and not math.isfinite(metrics.get(top1(probe), math.nan)):
            status, reason = "failed", "its accuracy is not a number"
    found = metrics if status == "finished" else {}
    costs = {name: metrics.get(key) for name, key in COSTS.items()}
    batch = cell.overrides.get("train.batch_size", record.config.get("train.batch_size", math.nan))
    return {
        **{name: getattr(record, name) for name in ("question", "source", "axis", "log_axis", "base")},
        "study": record.name,
        "data": record.data.get("source", ""),
        "data_digest": record.data.get("digest", ""),
        "cell": cell.name,
        "task": cell.overrides.get("pretext.kind", record.config.get("pretext.kind", "")),
        "cell_probe": cell_probe(record.config, cell.overrides, probe),
        "is_default": cell.is_default,
        "seed": trial.seed,
        "run": trial.fingerprint,
        "status": status,
        "reason": reason,
        "probe": probe,
        **{name: found.get(f"{probe}/{name}") for name in ("top1", "low", "high")},
        **{name: found.get(f"{probe}/{name}_top1") for name in ("untrained", "pixels")},
        **{f"paper_{name}": cell.paper.get(name) for name in PAPER},
        **costs,
        "tflop": (costs["gflops"] or math.nan) * metrics.get(STEPS, math.nan) * batch / 1000,
        **{name: outcome.tags.get(tag, "") for name, tag in SURROUNDINGS.items()},
    }


SETTING = ["base", "base_probe", "data", "data_digest"]
"""What results must have in common to be put side by side; cells of one study may differ in all settings."""


def comparable(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the parts whose results may be put side by side: with one base config, its probe and one data set."""
    return [part for _, part in frame.groupby(SETTING, sort=False)]


def setting(frame: pd.DataFrame) -> str:
    """Return in words what the rows of one comparable part have in common: base config, its probe, data.

    Without the base's seed: cells are trained with several.
    """
    first = frame.iloc[0]
    base = re.sub(r" seed=\d+$", "", first["base"])
    on = f"on {first['data']}" if first["data"] else ""
    return " ".join(filter(None, [base, first["base_probe"], on]))
