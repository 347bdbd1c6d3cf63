"""A sweep from a command: what is asked for, checked; then trials, the comparison of the best, and its record."""

import hashlib
import json
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from rich.console import Console

from ablations.execution.executor import Executor
from ablations.studies.plan import Plan, make_plan
from ablations.studies.run_studies import digests, put_on_record, run_plans
from ablations.studies.study import Cell, Study
from ablations.sweeps.ask_and_tell import AskAndTell, Sweep, sweep_trials
from ablations.sweeps.goals import choose_objectives, measure
from ablations.sweeps.pareto import pareto_front
from ablations.sweeps.samplers import PRUNERS, SAMPLERS, choose_pruner, evaluated, make_sampler
from ablations.sweeps.space import check_space, default_space, grid, read_space
from ablations.sweeps.storage import open_study, opened
from mae.config.resolve import change, flatten, name_run, to_toml
from mae.config.tree import Config
from mae.data.labels import check_labels
from mae.data.sources import identify
from mae.errors import UserError
from mae.runs.directory import RunDirectory
from mae.runs.initial_run import initial_run
from mae.runs.sweep_record import ObjectiveRecord, SweepRecord, SweepTrial, sweep_directory
from mae.runs.tokenizer_run import tokenizer_run
from mae.runtime.progress import ConsoleProgress, Progress
from mae.tracking.background_delivery import tracked_studies

RECORD_SECONDS = 2.0
"""Least time between two writings of the record while trials run."""


@dataclass(frozen=True)
class SweepRequest:
    """What the command line asks of a sweep."""

    trials: int
    seconds: float | None = None
    space: Path | None = None
    fixed: Sequence[str] = ()
    sampler: str = "tpe"
    pruner: str | None = None
    objective: str = "linear_top1"
    name: str | None = None
    storage: str | None = None
    seeds_top: int = 0
    seeds: int = 3


def make_sweep(request: SweepRequest, base: Config, runs_dir: Path, progress: Progress) -> Sweep:
    """Return the sweep that is asked for; `UserError` if any of it is impossible. Nothing is written or trained."""
    if request.sampler not in SAMPLERS:
        raise UserError(f"--sampler {request.sampler}: expected one of {', '.join(SAMPLERS)}")
    if request.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", request.name):
        raise UserError(f"--study {request.name!r}: expected letters, digits and . _ -, at most 100 of them")
    for named in (tokenizer_run, initial_run):
        named(base, runs_dir)  # refuses one that is not finished, or does not fit
    objectives = choose_objectives(request.objective, base)
    if request.seeds_top and len(objectives) > 1:
        raise UserError("--seeds-top: with several objectives there is a front and no best; give a single one")
    by_probe = any(objective.probe for objective in objectives)
    if by_probe:
        check_labels(base, progress, f"--objective {request.objective} is measured by a probe")
    labelled = identify(base.data, progress).labelled
    pruner = choose_pruner(request.pruner, len(objectives) == 1 and by_probe, labelled, base)
    base = evaluated(base, pruner, request.fixed)
    space = read_space(request.space) if request.space else default_space(base, request.fixed)
    check_space(space, base, request.fixed)
    if request.sampler == "grid":
        grid(space)
    unnamed = Sweep("", space, base, objectives, request.sampler, pruner, digests(progress), runs_dir)
    text = json.dumps(identity(unnamed), sort_keys=True)
    name = f"{request.sampler}-{pruner}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return replace(unnamed, name=request.name or name)


def identity(sweep: Sweep) -> dict[str, Any]:
    """Return what a study may not change: space, objectives, and whatever of the base config changes a number."""
    config = flatten(sweep.base.model_dump(mode="json", exclude={"run"}))
    probed = {"probed": sweep.digest_of(sweep.base.probed_data)} if config["probe.source"] else {}
    del config["data.source"], config["probe.kinds"], config["probe.source"]
    return probed | {
        "space": {parameter.key: parameter.describe() for parameter in sweep.space},
        "objective": ",".join(objective.name for objective in sweep.objectives),
        "base": config,
        "data": sweep.digest_of(sweep.base.data),
    }


@contextmanager
def sweep_underway(sweep: Sweep, uri: str, console: Console) -> Iterator[RunDirectory]:
    """Hold a sweep's directory within the block and keep MLflow up to date with it; `UserError` if another does."""
    directory = sweep_directory(sweep.runs_dir, sweep.name)
    with tracked_studies([directory], uri, sweep.runs_dir, ConsoleProgress(console).say), directory.locked():
        yield directory


def run_sweep(
    sweep: Sweep, request: SweepRequest, directory: RunDirectory, executor: Executor, console: Console
) -> tuple[SweepRecord, Plan]:
    """Ask and tell until all trials are told or set aside, then train what the comparison with the default misses.

    `RunError` where the machine fails one trial after the other; then nothing is compared. Returns the record and the
    plan of the comparison, whose failed jobs are left out of the choice of the winner.
    """
    url = request.storage or f"sqlite:///{sweep.runs_dir.resolve()}/optuna.db"
    with opened(url, sweep.name, sweep.runs_dir) as storage:
        study = prepare_study(sweep, storage)
        record = KeptRecord(sweep, study, directory)
        record.write()
        _ask_and_tell(sweep, request, executor, record, console)
        plan = plan_comparison(sweep, sweep_trials(study), request)
        put_on_record([plan])
        run_plans([plan], executor, False, console)
        values = compared_values(sweep, plan)
        choose = max if sweep.objectives[0].direction == "maximize" else min
        best = choose(values, key=lambda cell: fmean(values[cell]), default="")
        if best:
            cell = next(cell for cell in plan.record.cells if cell.name == best)
            directory.write_text("best.toml", to_toml(change(sweep.base, cell.overrides)))
        record.write(comparison=plan.directory.path.name, compared=values, winner=best)
    return record.last, plan


def plan_comparison(sweep: Sweep, trials: Sequence[SweepTrial], request: SweepRequest) -> Plan:
    """Return a study of the default and the best trials: one of them, the front, or as many as `--seeds-top` says."""
    cells = [Cell({}, name="default")]
    for trial in best_trials(trials, [objective.direction for objective in sweep.objectives]):
        if change(sweep.base, trial.params) != sweep.base:
            cells.append(Cell(trial.params, name=f"trial {trial.number}"))
    if len(sweep.objectives) == 1:
        cells = cells[: 1 + max(1, request.seeds_top)]
    study = Study(f"{sweep.name}-best", "Are the best trials of the sweep better than the default?", tuple(cells),
                  probed=bool(sweep.kinds))  # fmt: skip
    base = change(sweep.base, {"probe.kinds": list(sweep.kinds)}) if sweep.kinds else sweep.base
    return make_plan(study, base, request.seeds if request.seeds_top else 1, sweep.digest_of, sweep.runs_dir)


def best_trials(trials: Sequence[SweepTrial], directions: Sequence[str]) -> list[SweepTrial]:
    """Return complete trials, equal ones once: best first under one objective, the Pareto front under several."""
    distinct: dict[tuple[str, ...], SweepTrial] = {}
    for trial in trials:
        if trial.values is not None:
            distinct.setdefault((trial.run, *trial.probes.values()), trial)
    signs = [1 if direction == "maximize" else -1 for direction in directions]
    scores = [[sign * value for sign, value in zip(signs, trial.values or [], strict=True)]
              for trial in distinct.values()]  # fmt: skip
    kept = pareto_front(scores) if len(directions) > 1 else [True] * len(scores)
    ranked = sorted(zip(scores, kept, distinct.values(), strict=True), key=lambda each: each[0], reverse=True)
    return [trial for _, on_front, trial in ranked if on_front]


def compared_values(sweep: Sweep, plan: Plan) -> dict[str, list[float]]:
    """Return the single objective's values over seeds by cell, without cells of which a seed failed."""
    values: dict[str, list[float]] = {}
    for cell in plan.record.cells if len(sweep.objectives) == 1 else ():
        jobs = [job for trial, job in zip(plan.record.trials, plan.jobs, strict=True) if trial.cell == cell.name]
        with suppress(UserError):
            values[cell.name] = [measure(sweep.objectives, job, sweep.runs_dir)[0] for job in jobs]
    return values


def prepare_study(sweep: Sweep, storage: optuna.storages.RDBStorage) -> optuna.Study:
    """Return the sweep's study, continued or new; `UserError` if one of its name searches something else."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    directions = [objective.direction for objective in sweep.objectives]
    study = open_study(storage, sweep.name, directions, identity(sweep))
    trials = len(study.get_trials(deepcopy=False))
    study.sampler = make_sampler(sweep.sampler, sweep.space, sweep.name, trials)
    study.pruner = PRUNERS[sweep.pruner](sweep.base)
    return study


def _ask_and_tell(
    sweep: Sweep, request: SweepRequest, executor: Executor, record: "KeptRecord", console: Console
) -> None:
    study = record.study
    trials = study.get_trials(deepcopy=False)
    unfinished = [trial for trial in trials if not trial.state.is_finished()]
    told = len(trials) - len(unfinished)
    console.print(f"sweep {sweep.name}: {told} of {request.trials} trials done already", highlight=False)
    if told >= request.trials and not unfinished:
        return
    try:
        with executor.queue(sweep.runs_dir, request.trials - told, console) as queue:
            AskAndTell(sweep, study, queue).run(request.trials, request.seconds, record.write_now_and_then)
    finally:
        record.write()


class KeptRecord:
    """Keeps `sweep.json` in step with Optuna's storage."""

    def __init__(self, sweep: Sweep, study: optuna.Study, directory: RunDirectory) -> None:
        self.study, self.directory = study, directory
        self.written = 0.0
        self.last = SweepRecord(
            name=sweep.name,
            sampler=sweep.sampler,
            pruner=sweep.pruner,
            objectives=[ObjectiveRecord.model_validate(each, from_attributes=True) for each in sweep.objectives],
            space={parameter.key: parameter.describe() for parameter in sweep.space},
            base=name_run(sweep.base),
            config=flatten(sweep.base.model_dump(mode="json")),
            data={"source": sweep.base.data.source, "digest": sweep.digest_of(sweep.base.data)},
        )

    def write_now_and_then(self) -> None:
        if time.monotonic() - self.written >= RECORD_SECONDS:
            self.write()

    def write(self, **more: Any) -> None:
        self.written = time.monotonic()
        self.last = self.last.model_copy(update={"trials": sweep_trials(self.study), **more})
        self.directory.write_text("sweep.json", self.last.model_dump_json(indent=2) + "\n")
