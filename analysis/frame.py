"""Results of studies as one tidy frame: a row per cell, seed and probe.

| column | type | meaning |
|---|---|---|
| study, base | str | the study's name; the config its cells differ from |
| order, cell, is_default | int, str, bool | place in the table, name, whether it is the base config itself |
| x | float | value on the study's axis, NaN where it has none |
| seed, run | int, str | `train.seed`; fingerprint of the pretraining |
| status, reason | str | finished, failed, killed, running or missing; why it failed |
| probe | str | linear, knn, or none for a study that is not probed |
| top1, low, high | float | test top-1 in %, and its 95 % bootstrap interval over test images |
| untrained, pixels | float | the same probe's top-1 on the untrained encoder and on raw pixels, % |
| paper_linear, paper_finetune, paper_speedup | float | the paper's figures for the cell |
| gflops, seconds, memory_mb, loss | float | per image and training step; of pretraining; its peak; its last |
"""

from pathlib import Path
from typing import Any

import pandas as pd

from mae.run_directory import RunDirectory, status_of
from mae.study_record import CellRecord, StudyRecord, TrialRecord

COSTS = {
    "gflops": "cost/gflops_per_image",
    "seconds": "cost/seconds",
    "memory_mb": "cost/peak_memory_mb",
    "loss": "train/final_loss",
}
NUMBERS = ("x", "top1", "low", "high", "untrained", "pixels", *COSTS)
PAPER = ("linear", "finetune", "speedup")
TEXTS = ("study", "base", "cell", "run", "status", "reason", "probe")


def study_frame(record: StudyRecord, runs_dir: Path) -> pd.DataFrame:
    """Return the frame of one study; trials that are not finished have their status, reason and no numbers."""
    cells = {cell.name: (order, cell) for order, cell in enumerate(record.cells)}
    rows = []
    for trial in record.trials:
        order, cell = cells[trial.cell]
        for probe in trial.probes or {"none": ""}:
            rows.append(_row(record, order, cell, trial, probe, runs_dir))
    frame = pd.DataFrame(rows)
    numbers = [*NUMBERS, *(f"paper_{name}" for name in PAPER)]
    return frame.astype({**dict.fromkeys(numbers, "float64"), **dict.fromkeys(TEXTS, "str")})


def _row(
    record: StudyRecord, order: int, cell: CellRecord, trial: TrialRecord, probe: str, runs_dir: Path
) -> dict[str, Any]:
    run = RunDirectory(runs_dir / trial.fingerprint)
    results = (run.result() or {}).get("metrics", {})
    status, reason = status_of(run)
    found: dict[str, float] = {}
    if trial.probes:
        place = RunDirectory(run.path / "probes" / trial.probes[probe])
        found = (place.result() or {}).get("metrics", {})
        if status == "finished" and not found:
            status, reason = status_of(place)
    return {
        "study": record.name,
        "base": record.base,
        "order": order,
        "cell": cell.name,
        "is_default": cell.is_default,
        "x": cell.overrides.get(record.axis) if record.axis else None,
        "seed": trial.seed,
        "run": trial.fingerprint,
        "status": status,
        "reason": reason,
        "probe": probe,
        **{name: found.get(f"{probe}/{name}") for name in ("top1", "low", "high")},
        **{name: found.get(f"{probe}/{name}_top1") for name in ("untrained", "pixels")},
        **{f"paper_{name}": cell.paper.get(name) for name in PAPER},
        **{name: results.get(key) for name, key in COSTS.items()},
    }
