"""Results of a sweep as one frame, a row per trial, and as an Optuna study in memory for what Optuna evaluates.

| column | type | meaning |
|---|---|---|
| number, run | int, str | of the trial; fingerprint of its pretraining |
| state, reason | str | complete, pruned, failed or running; why it ended early |
| is_default, reused | bool | the base config itself; answered by an equal trial or an earlier run |
| params.KEY | any | the value of a parameter, NaN or None where it does not exist |
| the objectives' names | float | accuracies in % on held-out training images; GFLOPs per image and step, s, MB |
| PROBE/top1, PROBE/low, PROBE/high | float | test top-1 in %, Wilson's 95 % interval; nothing is selected on it |
| device, processes, threads | str | on what its pretraining was measured |
| steps, seconds | float | spent on the trial's pretraining, 0 for a reused one |
| pruned_steps, pruned_seconds | float | spared by pruning it, as it would have gone on at the same speed |
| reused_steps, reused_seconds | float | spared by reuse |
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from analysis.results.conditions import CONDITIONS
from analysis.results.frame import SURROUNDINGS
from mae.runs.directory import RunDirectory
from mae.runs.metrics import EPOCH
from mae.runs.sweep_record import SweepRecord, SweepTrial

COSTS = ("steps", "seconds", "pruned_steps", "pruned_seconds", "reused_steps", "reused_seconds")
DISTRIBUTIONS = {"float": FloatDistribution, "int": IntDistribution, "categorical": CategoricalDistribution}
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def sweep_frame(record: SweepRecord, runs_dir: Path) -> pd.DataFrame:
    """Return the frame of one sweep."""
    return pd.DataFrame([_row(record, trial, runs_dir) for trial in record.trials])


def total_costs(frame: pd.DataFrame) -> dict[str, float]:
    """Return what all trials together have cost and spared."""
    return {name: float(frame[name].sum()) if len(frame) else 0.0 for name in COSTS}


def as_study(record: SweepRecord) -> optuna.Study:
    """Return the ended trials as an Optuna study in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=[objective.direction for objective in record.objectives])
    distributions = {key: _distribution(table) for key, table in record.space.items()}
    study.add_trials(
        optuna.trial.create_trial(
            state=STATES[trial.state],
            values=trial.values,
            params=trial.params,
            distributions={key: distributions[key] for key in trial.params},
            intermediate_values=trial.curve,
        )
        for trial in record.trials
        if trial.state in STATES
    )
    return study


def under_one(study: optuna.Study, objective: int, trials: Sequence[FrozenTrial] | None = None) -> optuna.Study:
    """Return the complete trials of a study, or those given, as a study under one of its objectives."""
    chosen = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if trials is None else trials
    single = optuna.create_study(direction=study.directions[objective])
    single.add_trials(
        optuna.trial.create_trial(value=trial.values[objective], params=trial.params, distributions=trial.distributions)
        for trial in chosen
    )
    return single


def _row(record: SweepRecord, trial: SweepTrial, runs_dir: Path) -> dict[str, Any]:
    run = RunDirectory(runs_dir / trial.run) if trial.run else None
    tested: dict[str, float] = {}
    for name in trial.probes.values() if run else ():
        found = (run.probe(name).result() or {}).get("metrics", {})  # type: ignore[union-attr]
        tested |= {key: value for key, value in found.items() if key.split("/")[1] in ("top1", "low", "high")}
    values = trial.values or [float("nan")] * len(record.objectives)
    return {
        "number": trial.number,
        "state": trial.state,
        "run": trial.run,
        "reason": trial.reason,
        "is_default": trial.is_default,
        "reused": trial.reused,
        **{f"params.{key}": trial.params.get(key) for key in record.space},
        **{objective.name: value for objective, value in zip(record.objectives, values, strict=True)},
        **tested,
        **_conditions(run),
        **_costs(record, trial, run),
    }


def _conditions(run: RunDirectory | None) -> dict[str, str]:
    record = run.read_record() if run else None
    return {name: record.tags.get(SURROUNDINGS[name], "") if record else "" for name in CONDITIONS}


def _costs(record: SweepRecord, trial: SweepTrial, run: RunDirectory | None) -> dict[str, float]:
    costs = dict.fromkeys(COSTS, 0.0)
    points, stage = (run.read_metrics(), run.read_record()) if run else ([], None)
    if not points or stage is None:
        return costs
    if trial.state == "pruned" and trial.curve:  # the run may have gone on since, for another study
        epochs, epoch = trial.params.get("train.epochs", record.config["train.epochs"]), max(trial.curve)
        steps = points[-1]["step"] / (points[-1]["metrics"][EPOCH] + 1) * epoch
        seconds = stage.seconds * steps / points[-1]["step"]
        saved = {"pruned_steps": steps * (epochs / epoch - 1), "pruned_seconds": seconds * (epochs / epoch - 1)}
    else:
        steps, seconds, saved = points[-1]["step"], stage.seconds, {}
    if trial.reused:
        return costs | {"reused_steps": steps, "reused_seconds": seconds}
    return costs | {"steps": steps, "seconds": seconds} | saved


def _distribution(table: dict[str, Any]) -> BaseDistribution:
    limits = {name: value for name, value in table.items() if name not in ("type", "when")}
    return DISTRIBUTIONS[table["type"]](**limits)
