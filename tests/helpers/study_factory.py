"""Studies with given accuracies, in memory or as run directories."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.results.frame import Outcome, tidy
from mae.config.resolve import flatten, to_toml
from mae.config.tree import Config
from mae.runs.directory import Record, RunDirectory
from mae.runs.study_record import CellRecord, StudyRecord, TrialRecord

Accuracies = Mapping[str, Sequence[float | None]]
"""Top-1 in % per cell and seed; None is a run that failed."""

TAGS = {
    "mae.git_commit": "abc123",
    "mae.torch": "2.15.0",
    "mae.device_name": "a processor",
    "mae.processes": "1",
    "mae.threads": "2",
    "mae.command": "mae-cli x",
}
MASK_RATIO: Accuracies = {
    "0.5": [60.0, 61.0, 62.0],
    "0.75": [70.0, 71.0, 72.0],
    "0.9": [66.0, 65.0, 64.0],
}


def study_record(
    accuracies: Accuracies,
    name: str = "mask-ratio",
    axis: str = "mask.ratio",
    default: str = "0.75",
    probes: Sequence[str] = ("linear", "knn"),
    paper: Mapping[str, dict[str, float]] | None = None,
    overrides: Mapping[str, dict[str, Any]] | None = None,
    **more: Any,
) -> StudyRecord:
    """Return the record of a study whose cells are the keys of `accuracies`, numbers on `axis` if there is one."""
    cells = [
        CellRecord(
            name=cell,
            overrides={axis: float(cell)} if axis else (overrides or {}).get(cell, {}),
            paper=(paper or {}).get(cell, {}),
            is_default=cell == default,
        )
        for cell in accuracies
    ]
    trials = [
        TrialRecord(
            cell=cell,
            seed=seed,
            fingerprint=fingerprint(name, cell, seed),
            probes={kind: f"{kind}-1" for kind in probes},
        )
        for cell, values in accuracies.items()
        for seed in range(len(values))
    ]
    values: dict[str, Any] = {
        "question": "How much?", "source": "Fig. 5", "log_axis": False, "base": "digits seed=0",
        "config": flatten(Config().model_dump(mode="json")), "data": {"source": "digits", "digest": "d" * 64},
    }  # fmt: skip
    return StudyRecord(name=name, axis=axis, cells=cells, trials=trials, **{**values, **more})


def fingerprint(name: str, cell: str, seed: int) -> str:
    return f"{name}-{cell}-{seed}".replace(" ", "_")


def metrics_of(value: float, seed: int, probes: Sequence[str], seconds: float = 10.0) -> dict[str, float]:
    """Return what a pretraining and its probes measured; k-NN is 5 points below the linear probe."""
    metrics = {"cost/gflops_per_image": 0.5, "cost/seconds": seconds + seed, "cost/steps": 100, "train/final_loss": 0.3}
    for kind in probes:
        top1 = value - 5 * (kind == "knn" and "linear" in probes)
        metrics |= {f"{kind}/top1": top1, f"{kind}/low": top1 - 1, f"{kind}/high": top1 + 1}
        metrics |= {f"{kind}/untrained_top1": 40.0, f"{kind}/pixels_top1": 30.0}
    return metrics


def study_frame_of(
    accuracies: Accuracies, study_id: str = "", seconds: Mapping[str, float] | None = None, **record: Any
) -> pd.DataFrame:
    """Return a study's frame without any file; `seconds` of pretraining per cell."""
    made = study_record(accuracies, **record)

    def outcome(trial: TrialRecord) -> Outcome:
        value = accuracies[trial.cell][trial.seed]
        if value is None:
            return Outcome({"pretrain": ("failed", "NaN")})
        stages = dict.fromkeys(("pretrain", *trial.probes), ("finished", ""))
        return Outcome(
            stages, metrics_of(value, trial.seed, [*trial.probes], (seconds or {}).get(trial.cell, 10.0)), TAGS
        )

    return tidy(made, study_id or f"{made.name}-0a0a0a0a", outcome)


def write_study(runs_dir: Path, accuracies: Accuracies, study_id: str = "", **record: Any) -> RunDirectory:
    """Write a study and its runs as the program does; return the study's directory."""
    made = study_record(accuracies, **record)
    for trial in made.trials:
        write_run(runs_dir, trial, accuracies[trial.cell][trial.seed])
    directory = RunDirectory(runs_dir / "studies" / (study_id or f"{made.name}-0a0a0a0a"))
    directory.write_text("study.json", made.model_dump_json())
    return directory


def write_run(runs_dir: Path, trial: TrialRecord, value: float | None) -> RunDirectory:
    run = RunDirectory(runs_dir / trial.fingerprint)
    run.path.mkdir(parents=True, exist_ok=True)
    ended: dict[str, Any] = {"status": "failed", "reason": "NaN"} if value is None else {"status": "finished"}
    data = {"source": "digits", "digest": "d" * 64}
    record = Record(stage="pretrain", name="a run", fingerprint=trial.fingerprint, data=data, tags=TAGS, **ended)
    run.write_record(record)
    run.write_text("config.toml", to_toml(Config()))
    if value is None:
        return run
    metrics = metrics_of(value, trial.seed, [*trial.probes])
    for step in (1, 50, 100):
        run.append_metrics(step, {"train/loss": 1 / step})
    run.write_json("result.json", {"metrics": {key: metrics[key] for key in metrics if key[:5] in ("cost/", "train")}})
    for kind, name in trial.probes.items():
        place = RunDirectory(run.path / "probes" / name)
        place.path.mkdir(parents=True, exist_ok=True)
        place.write_record(record.model_copy(update={"stage": "probe", "parent": trial.fingerprint}))
        place.write_text("config.toml", to_toml(Config()))
        place.write_json("result.json", {"metrics": {key: metrics[key] for key in metrics if key.startswith(kind)}})
    return run
