"""The ask-and-tell loop of a sweep: one driver asks Optuna for trials, has them trained, and tells what came of them.

Optuna's storage is the truth about trials, the run directories about what they measured. So a driver killed anywhere is
continued by the next: it adopts the trials left running, whose parameters are known and whose runs continue.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from ablations.crew import Report
from ablations.driver import REUSED, Driver, record_end
from ablations.objectives import Objective, measure
from ablations.plan import Digests, Job
from ablations.space import Space, grid, point_of, suggest
from mae.config import Config, ProbeKind
from mae.config_sources import change
from mae.errors import UserError
from mae.fingerprint import pretrain_fingerprint
from mae.interruption import Interrupted, StopRequest
from mae.presets import Overrides
from mae.run_directory import ONLINE, RunDirectory
from mae.sweep_record import SweepTrial

STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Sweep:
    """What is searched: a space around a base config, for objectives, with a sampler and a pruner by name."""

    name: str
    space: Space
    base: Config
    objectives: tuple[Objective, ...]
    sampler: str
    pruner: str
    digest_of: Digests
    runs_dir: Path

    @property
    def kinds(self) -> tuple[ProbeKind, ...]:
        """The probes that the objectives need."""
        return tuple(objective.probe for objective in self.objectives if objective.probe)

    def job(self, overrides: Overrides, label: str) -> Job:
        """Return the job of one point of the space; `UserError` if it is no possible config."""
        config = change(self.base, overrides)
        fingerprint = pretrain_fingerprint(config, self.digest_of(config.data))
        return Job(label, config, fingerprint, self.kinds, watched=self.pruner != "none")


@dataclass(eq=False)
class _Open:
    """A trial that has been asked for and not told.

    `curve` are the evaluations that Optuna has, by epoch; `pruned` is why it was pruned, as soon as that is decided.
    """

    trial: Trial
    job: Job
    adopted: bool
    is_default: bool
    curve: dict[int, float] = field(default_factory=dict)
    pruned: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        return _key(self.job)


@dataclass(frozen=True)
class _Outcome:
    state: TrialState
    values: list[float] | None = None
    curve: dict[int, float] = field(default_factory=dict)
    reason: str = ""


class AskAndTell:
    """One driver's work on one study."""

    def __init__(self, sweep: Sweep, study: optuna.Study, driver: Driver, stop: StopRequest) -> None:
        self.sweep, self.study, self.driver, self.stop = sweep, study, driver, stop
        self.open: list[_Open] = []
        self.equal: list[_Open] = []  # of these, those that wait for an equal one
        self.outcomes: dict[tuple[str, ...], _Outcome] = {}
        trials = study.get_trials(deepcopy=False)
        self.told = sum(trial.state.is_finished() for trial in trials)
        self.waiting = sum(trial.state == TrialState.WAITING for trial in trials)
        for trial in trials:
            if trial.state.is_finished() and (key := trial.user_attrs.get("job")):
                values = trial.values if trial.state == TrialState.COMPLETE else None
                reason = trial.user_attrs.get("reason", "")
                self.outcomes[tuple(key)] = _Outcome(trial.state, values, trial.intermediate_values, reason)
        self.points = iter(_unasked(sweep, trials))

    def run(self, trials: int, seconds: float | None, told: Callable[[], None]) -> None:
        """Ask and tell until the study has `trials` told ones, or no more is asked for after `seconds`.

        `told` is called after each. Raises `Interrupted` on a stop request: what runs is saved, and adopted next time.
        """
        deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._take(Trial(self.study, frozen._trial_id), frozen)
        while True:
            if self.stop.number:
                raise Interrupted(self.stop.number)
            while (
                len(self.open) < self.driver.crew.size
                and self.told + len(self.open) < trials
                and time.monotonic() < deadline
                and self._ask()
            ):
                pass
            if not self.open:
                return
            before = self.told
            for job, report in self.driver.events():
                self._hear(next(each for each in self.open if each.job is job), report)
            if self.told > before:
                told()

    def _ask(self) -> bool:
        """Open one more trial; say whether there was one left."""
        if self.waiting:  # the driver before was killed between enqueuing and asking
            self.waiting -= 1
        elif (point := next(self.points, None)) is not None:
            self.study.enqueue_trial(*point)
        elif self.sweep.sampler == "grid":
            return False
        self._take(self.study.ask())
        return True

    def _take(self, trial: Trial, adopted: FrozenTrial | None = None) -> None:
        """Begin a trial, or answer it without training where its answer is known."""
        overrides, label = suggest(self.sweep.space, trial), f"trial {trial.number}"
        try:
            job = self.sweep.job(overrides, label)
        except UserError as error:  # impossible together, though each value is possible
            trial.set_user_attr("params", overrides)
            trial.set_user_attr("reason", str(error))
            self._tell(trial, _Outcome(TrialState.FAIL, reason=str(error)), label)
            return
        attributes = trial.user_attrs
        taken = _Open(trial, job, "job" in attributes, attributes.get("default", False))
        self.open.append(taken)
        if not taken.adopted:
            trial.set_user_attr("params", overrides)
            trial.set_user_attr("job", list(taken.key))
        elif adopted is not None:
            taken.curve, taken.pruned = dict(adopted.intermediate_values), attributes.get("reason", "")
        if (known := self.outcomes.get(taken.key)) is not None:
            self._end(taken, known, reused=True)
        elif any(each.key == taken.key for each in self.open if each is not taken):
            self.equal.append(taken)
        elif taken.adopted and self._is_pruned(taken):
            record_end(self._run(taken), "pruned", taken.pruned)
            self._end(taken, _Outcome(TrialState.PRUNED, reason=taken.pruned))
        else:
            self.driver.submit(job)

    def _is_pruned(self, taken: _Open) -> bool:
        """Make good what the driver before has not told of an adopted trial; say whether it is a pruned one."""
        run = self._run(taken)
        if taken.job.watched and run.result() is None:
            for point in run.read_metrics():
                if ONLINE in point["metrics"] and not taken.pruned:
                    taken.pruned = self._report(
                        taken, int(point["metrics"]["train/epoch"]) + 1, point["metrics"][ONLINE]
                    )
        return bool(taken.pruned)

    def _run(self, taken: _Open) -> RunDirectory:
        return RunDirectory(self.sweep.runs_dir / taken.job.fingerprint)

    def _hear(self, taken: _Open, report: Report) -> None:
        if report.kind == "evaluated":
            self.driver.answer(taken.job, self._report(taken, report.epoch, report.accuracy))
        elif report.kind == "finished":
            self._end(taken, self._measured(taken), reused=report is REUSED and not taken.adopted)
        elif report.kind == "pruned":
            self._end(taken, _Outcome(TrialState.PRUNED, reason=report.text))
        else:
            self._end(taken, _Outcome(TrialState.FAIL, reason=report.text))

    def _report(self, taken: _Open, epoch: int, accuracy: float) -> str:
        """Tell Optuna of an evaluation; return the reason if the trial is to be pruned now."""
        if epoch not in taken.curve:
            taken.trial.report(accuracy, epoch)
            taken.curve[epoch] = accuracy
        prune = taken.trial.should_prune()  # asked of the default too, which others are measured by
        if prune and not taken.is_default and epoch < taken.job.config.train.epochs:
            taken.pruned = f"pruned after epoch {epoch} as {taken.job.label} of sweep {self.sweep.name}"
            # Before the worker hears of it: the decision holds if this process dies.
            taken.trial.set_user_attr("reason", taken.pruned)
        return taken.pruned

    def _measured(self, taken: _Open) -> _Outcome:
        try:
            return _Outcome(TrialState.COMPLETE, measure(self.sweep.objectives, taken.job, self.sweep.runs_dir))
        except UserError as error:
            return _Outcome(TrialState.FAIL, reason=str(error))

    def _end(self, taken: _Open, outcome: _Outcome, reused: bool = False) -> None:
        """Tell a trial, and all that wait for it because they are equal."""
        self.open.remove(taken)
        if reused:
            taken.trial.set_user_attr("reused", True)
        for epoch in sorted(outcome.curve.keys() - taken.curve.keys()):
            taken.trial.report(outcome.curve[epoch], epoch)
        if outcome.reason and outcome.reason != taken.pruned:
            taken.trial.set_user_attr("reason", outcome.reason)
        self._tell(taken.trial, outcome, taken.job.label, reused)
        known = replace(outcome, curve=outcome.curve | taken.curve)
        self.outcomes[taken.key] = known
        twins = [each for each in self.equal if each.key == taken.key]
        self.equal = [each for each in self.equal if each.key != taken.key]
        for twin in twins:
            self._end(twin, known, reused=True)

    def _tell(self, trial: Trial, outcome: _Outcome, label: str, reused: bool = False) -> None:
        view = self.driver.view
        self.study.tell(trial, outcome.values, outcome.state)
        self.told += 1
        if outcome.state == TrialState.COMPLETE:
            assert outcome.values is not None
            named = zip(self.sweep.objectives, outcome.values, strict=True)
            shown = ", ".join(f"{objective.name} {value:.4g}" for objective, value in named)
            view.finished(f"{label}, {shown}", reused)
        elif outcome.state == TrialState.PRUNED:
            view.pruned(label)
        else:
            view.failed(label, outcome.reason)


def sweep_trials(study: optuna.Study) -> list[SweepTrial]:
    """Return the study's trials as they are kept in its record."""
    return [_record(trial) for trial in study.get_trials(deepcopy=False)]


def _record(trial: FrozenTrial) -> SweepTrial:
    run, *probes = trial.user_attrs.get("job", [""])
    return SweepTrial(
        number=trial.number,
        state=STATES[trial.state],
        params=trial.user_attrs.get("params", trial.params),
        values=trial.values if trial.state == TrialState.COMPLETE else None,
        curve=trial.intermediate_values,
        run=run,
        probes={name.split("-")[0]: name for name in probes},
        reused=trial.user_attrs.get("reused", False),
        is_default=trial.user_attrs.get("default", False),
        reason=trial.user_attrs.get("reason", ""),
    )


def _key(job: Job) -> tuple[str, ...]:
    """What makes two trials the same work: the pretraining and its probes."""
    return (job.fingerprint, *(job.probe_name(kind) for kind in job.kinds))


def _unasked(sweep: Sweep, trials: list[FrozenTrial]) -> list[tuple[Overrides, dict[str, Any]]]:
    """Return the points to ask for in turn, with their attributes: the default, and with `grid` every other one."""
    default = point_of(sweep.space, sweep.base)
    points = [(default, {"default": True})] if default is not None else []
    if sweep.sampler == "grid":
        points += [(point, {}) for point in grid(sweep.space) if point != default]
    known = [trial.system_attrs.get("fixed_params") for trial in trials]
    return list(itertools.filterfalse(lambda point: point[0] in known, points))
