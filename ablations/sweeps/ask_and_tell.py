"""The ask-and-tell loop of a sweep: one driver asks Optuna for trials, has them trained, and tells what came of them.

Optuna's storage is the truth about trials, the run directories about what they measured. So a driver killed anywhere is
continued by the next: it adopts the trials left running, whose parameters are known and whose runs continue. A trial
fails only by its own settings; one that the machine fails stays open, and is done again.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from ablations.execution.job import Job
from ablations.execution.job_retries import REUSED, JobQueue, record_end
from ablations.execution.worker_pool import Report
from ablations.studies.study import Digests, fingerprints
from ablations.sweeps.goals import Objective, measure
from ablations.sweeps.space import Space, grid, point_of, suggest
from mae.config.kinds import ProbeKind
from mae.config.presets import Overrides
from mae.config.resolve import change
from mae.config.tree import Config
from mae.errors import UserError
from mae.runs.directory import RunDirectory
from mae.runs.metrics import EPOCH, ONLINE
from mae.runs.sweep_record import SweepTrial

STATES = {
    TrialState.RUNNING: "running",
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

    def job(self, config: Config, label: str) -> Job:
        """Return the job of one point of the space."""
        fingerprint, subject = fingerprints(config, self.digest_of)
        return Job(label, config, fingerprint, self.kinds, watched=self.pruner != "none", probed_as=subject)


@dataclass(eq=False)
class _Open:
    """A trial that has been asked for and not told.

    `curve` are the evaluations that Optuna has, by epoch; `pruned` is why it was pruned, as soon as that is decided;
    `fault` is why it was set aside, which is no doing of its own.
    """

    trial: Trial
    job: Job
    adopted: bool
    is_default: bool
    curve: dict[int, float] = field(default_factory=dict)
    pruned: str = ""
    fault: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two trials the same work: the pretraining and its probes."""
        return self.job.fingerprint, *self.job.probes


@dataclass(frozen=True)
class _Outcome:
    state: TrialState
    values: list[float] | None = None
    curve: dict[int, float] = field(default_factory=dict)
    reason: str = ""


class AskAndTell:
    """One driver's work on one study."""

    def __init__(self, sweep: Sweep, study: optuna.Study, queue: JobQueue) -> None:
        self.sweep, self.study, self.queue = sweep, study, queue
        self.open: list[_Open] = []
        self.equal: list[_Open] = []  # of these, those that wait for an equal one
        self.aside: list[_Open] = []  # asked for and not told, and left to the next driver
        self.outcomes: dict[tuple[str, ...], _Outcome] = {}
        trials = study.get_trials(deepcopy=False)
        self.told = sum(trial.state.is_finished() for trial in trials)
        self.waiting = sum(trial.state == TrialState.WAITING for trial in trials)
        for trial in trials:
            # What has failed is tried again: earlier versions told faults of the machine as failures too.
            answered = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            if answered and (key := trial.user_attrs.get("job")):
                values = trial.values if trial.state == TrialState.COMPLETE else None
                reason = trial.user_attrs.get("reason", "")
                self.outcomes[tuple(key)] = _Outcome(trial.state, values, trial.intermediate_values, reason)
        self.points = iter(_unasked(sweep, trials))

    def run(self, trials: int, seconds: float | None, told: Callable[[], None]) -> None:
        """Ask and tell until the study has `trials`, told ones and those set aside, or no more is asked for after
        `seconds`.

        `told` is called after each. Raises `Interrupted` on a stop request and `RunError` after many faults of the
        machine in a row: what runs is saved, and adopted next time.
        """
        deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._take(Trial(self.study, frozen._trial_id), frozen)
        while True:
            self.queue.stop.check()
            while (
                len(self.open) - self.queue.retries < self.queue.pool.size
                and self.told + len(self.open) + len(self.aside) < trials
                and time.monotonic() < deadline
                and self._ask()
            ):
                pass
            if not self.open:
                return
            before = self.told
            for job, report in self.queue.events():
                self._take_in(next(each for each in self.open if each.job is job), report)
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
            config = change(self.sweep.base, overrides)
        except UserError as error:  # impossible together, though each value is possible
            trial.set_user_attr("params", overrides)
            trial.set_user_attr("reason", str(error))
            self._tell(trial, _Outcome(TrialState.FAIL, reason=str(error)), label)
            return
        attributes = trial.user_attrs
        taken = _Open(trial, self.sweep.job(config, label), "job" in attributes, attributes.get("default", False))
        self.open.append(taken)
        if not taken.adopted:
            trial.set_user_attr("params", overrides)
            trial.set_user_attr("job", list(taken.key))
        elif adopted is not None:
            taken.curve, taken.pruned = dict(adopted.intermediate_values), attributes.get("reason", "")
        self._begin(taken)

    def _begin(self, taken: _Open) -> None:
        """Have an open trial trained, unless what becomes of it is known or comes from an equal one."""
        if (known := self.outcomes.get(taken.key)) is not None:
            self._end(taken, known, reused=True)
        elif (hindered := next((each for each in self.aside if each.key == taken.key), None)) is not None:
            self._set_aside(taken, hindered.fault)
        elif any(each.key == taken.key for each in self.open if each is not taken and each not in self.equal):
            self.equal.append(taken)
        elif self._is_pruned(taken):
            if taken.adopted:
                record_end(self._run(taken), "pruned", taken.pruned)
            self._end(taken, _Outcome(TrialState.PRUNED, reason=taken.pruned), reused=not taken.adopted)
        else:
            self.queue.submit(taken.job)

    def _is_pruned(self, taken: _Open) -> bool:
        """Tell Optuna what an unfinished run has measured before its turn, under this sweep or another command; say
        whether that prunes the trial, as it would have on the way."""
        run = self._run(taken)
        if taken.job.watched and not taken.pruned and run.result() is None:
            self._report_all(taken, online_curve(run))
        return bool(taken.pruned)

    def _run(self, taken: _Open) -> RunDirectory:
        return RunDirectory(self.sweep.runs_dir / taken.job.fingerprint)

    def _take_in(self, taken: _Open, report: Report) -> None:
        if report.kind == "evaluated":
            self.queue.answer(taken.job, self._report(taken, report.epoch, report.accuracy))
        elif report.kind == "finished":
            self._finish(taken, reused=report is REUSED and not taken.adopted)
        elif report.kind == "pruned":
            self._end(taken, _Outcome(TrialState.PRUNED, reason=report.text))
        elif report.kind == "failed":
            self._end(taken, _Outcome(TrialState.FAIL, reason=report.text))
        else:
            self._set_aside(taken, report.text)

    def _report_all(self, taken: _Open, curve: Mapping[int, float], final: bool = False) -> None:
        """Tell Optuna of past evaluations, in order of epochs, up to one at which the trial is pruned."""
        for epoch in sorted(curve):
            if self._report(taken, epoch, curve[epoch], final):
                return

    def _report(self, taken: _Open, epoch: int, accuracy: float, final: bool = False) -> str:
        """Tell Optuna of an evaluation; return the reason if the trial is to be pruned now, which a `final` one is not.

        Without the evaluation due before it, it is kept back: Hyperband would take it for that of an earlier epoch.
        """
        every = taken.job.config.run.knn_every
        before = (epoch - 1) // every * every
        if before and before not in taken.curve:
            return ""
        if epoch not in taken.curve:
            taken.trial.report(accuracy, epoch)
            taken.curve[epoch] = accuracy
        prune = taken.trial.should_prune()  # asked of the default too, which others are measured by
        if prune and not final and not taken.is_default and epoch < taken.job.config.train.epochs:
            taken.pruned = f"pruned after epoch {epoch} as {taken.job.label} of sweep {self.sweep.name}"
            # Before the worker is told: the decision holds if this process dies.
            taken.trial.set_user_attr("reason", taken.pruned)
        return taken.pruned

    def _finish(self, taken: _Open, reused: bool) -> None:
        """Tell what a finished run has measured."""
        curve = online_curve(self._run(taken)) if taken.job.watched else {}
        try:
            values = measure(self.sweep.objectives, taken.job, self.sweep.runs_dir)
        except UserError as error:
            self._set_aside(taken, str(error))
        else:
            self._end(taken, _Outcome(TrialState.COMPLETE, values, curve), reused)

    def _set_aside(self, taken: _Open, fault: str) -> None:
        """Leave a trial, and all that wait for it because they are equal, open for the next driver."""
        for each in [taken, *(twin for twin in self.equal if twin.key == taken.key)]:
            self.open.remove(each)
            self.aside.append(each)
            each.fault = fault
            each.trial.set_user_attr("fault", fault)
            self.queue.view.failed(each.job.label, f"{fault}{self.queue.logged(each.job)}; it stays open")
        self.equal = [each for each in self.equal if each in self.open]

    def _end(self, taken: _Open, outcome: _Outcome, reused: bool = False) -> None:
        """Tell a trial, and all that wait for it because they are equal."""
        self.open.remove(taken)
        if reused:
            taken.trial.set_user_attr("reused", True)
        if taken.job.watched:
            self._report_all(taken, outcome.curve, final=True)
        if outcome.reason and outcome.reason != taken.pruned:
            taken.trial.set_user_attr("reason", outcome.reason)
        self._tell(taken.trial, outcome, taken.job.label, reused)
        twins = [each for each in self.equal if each.key == taken.key]
        if outcome.state == TrialState.FAIL:  # of the settings at this moment, such as the memory left: no answer
            if twins:
                self.equal.remove(twins[0])
                self._begin(twins[0])
            return
        known = replace(outcome, curve=outcome.curve | taken.curve)
        self.outcomes[taken.key] = known
        self.equal = [each for each in self.equal if each not in twins]
        for twin in twins:
            self._end(twin, known, reused=True)

    def _tell(self, trial: Trial, outcome: _Outcome, label: str, reused: bool = False) -> None:
        view = self.queue.view
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


def online_curve(run: RunDirectory) -> dict[int, float]:
    """Return the online evaluations of a run so far, k-NN top-1 in percent by epoch."""
    points = [point["metrics"] for point in run.read_metrics() if ONLINE in point["metrics"]]
    return {int(point[EPOCH]) + 1: point[ONLINE] for point in points}


def sweep_trials(study: optuna.Study) -> list[SweepTrial]:
    """Return the study's trials as they are kept in its record: those that have been asked for."""
    return [_record(trial) for trial in study.get_trials(deepcopy=False) if trial.state in STATES]


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
        reason=trial.user_attrs.get("reason" if trial.state.is_finished() else "fault", ""),
    )


def _unasked(sweep: Sweep, trials: list[FrozenTrial]) -> list[tuple[Overrides, dict[str, Any]]]:
    """Return the points to ask for in turn, with their attributes: the default, and with `grid` every other one."""
    default = point_of(sweep.space, sweep.base)
    points = [(default, {"default": True})] if default is not None else []
    if sweep.sampler == "grid":
        points += [(point, {}) for point in grid(sweep.space) if point != default]
    known = [trial.system_attrs.get("fixed_params") for trial in trials]
    return list(itertools.filterfalse(lambda point: point[0] in known, points))
