"""The loop of a sweep in front of a pool that works in this process: what Optuna is asked for and told, and when."""

import io
from collections.abc import Callable, Generator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from rich.console import Console

from ablations.execution.job import Job
from ablations.execution.job_retries import JobQueue
from ablations.execution.jobs_progress import JobsProgress
from ablations.execution.worker_pool import Report, Slot
from ablations.sweeps.ask_and_tell import AskAndTell, Sweep, online_curve, sweep_trials
from ablations.sweeps.goals import OBJECTIVES
from ablations.sweeps.space import Parameter
from mae.config.fingerprint import pretrain_fingerprint, probe_fingerprint
from mae.config.resolve import build
from mae.runs.directory import Record, RunDirectory, status_of
from mae.runs.metrics import ONLINE
from mae.runs.sweep_record import SweepTrial
from mae.runtime.interruption import Interrupted, StopRequest
from tests.conftest import TINY
from tests.helpers import fake_worker

Steps = Generator[Report, str | None, None]
SETTINGS = TINY | {"train.epochs": 3, "run.knn_every": 1}
RATIOS = (0.75, 0.5, 0.6)
Values = Mapping[str, tuple[Any, ...] | FloatDistribution]


class Here:
    """A pool whose workers take a step each, in turn, when the pool is polled."""

    def __init__(self, runs_dir: Path, size: int, steps: Callable[[Job, Slot], Steps]) -> None:
        self.slot, self.size, self.steps = Slot(runs_dir, "cpu", 1), size, steps
        self.begun: list[str] = []
        self.at_work: dict[int, Steps] = {}
        self.answers: dict[int, str | None] = {}
        self.silences = self.most = 0

    def free(self) -> list[int]:
        return [number for number in range(self.size) if number not in self.at_work]

    def start(self, worker: int, job: Job) -> None:
        self.begun.append(job.label)
        self.at_work[worker], self.answers[worker] = self.steps(job, self.slot), None
        self.most = max(self.most, len(self.at_work))

    def poll(self) -> list[tuple[int, Report]]:
        self.silences = 0 if self.at_work else self.silences + 1
        assert self.silences < 100, "nobody works, and the sweep does not end"
        came = [(worker, doing.send(self.answers[worker])) for worker, doing in self.at_work.items()]
        for worker, report in came:
            if report.kind not in ("progress", "evaluated"):
                del self.at_work[worker]
        return came

    def answer(self, worker: int, prune: str) -> None:
        self.answers[worker] = prune

    def stop(self) -> None: ...


class Strict(optuna.pruners.BasePruner):
    """Prunes whatever is asked about, from `epoch` on."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return (trial.last_step or 0) >= self.epoch


class Bench:
    """A study of its own, in memory, and what is seen of one driver after the other."""

    def __init__(self, folder: Path) -> None:
        self.runs_dir = folder / "runs"
        self.study = optuna.create_study(
            directions=["maximize"], sampler=optuna.samplers.RandomSampler(seed=0), pruner=optuna.pruners.NopPruner()
        )
        ask = self.study.ask

        def counted() -> optuna.Trial:
            assert len(self.study.trials) < 100, "trials are asked for without end"
            return ask()

        self.study.ask = counted  # type: ignore[method-assign,assignment]
        self.rounds = 0
        self.said = io.StringIO()
        self.stop = StopRequest()

    def sweep(self, values: Values, sampler: str, pruner: str, settings: dict[str, Any]) -> Sweep:
        space = tuple(
            Parameter(key, given if isinstance(given, FloatDistribution) else CategoricalDistribution(given))
            for key, given in values.items()
        )
        objectives = (OBJECTIVES["knn_top1"],)
        base, digests = build(SETTINGS | settings), {"digits": "d"}
        return Sweep("s", space, base, objectives, sampler, pruner, lambda data: digests[data.source], self.runs_dir)

    def drive(
        self,
        trials: int,
        size: int = 1,
        values: Values | None = None,
        sampler: str = "grid",
        pruner: Strict | None = None,
        settings: dict[str, Any] | None = None,
        steps: Callable[[Job, Slot], Steps] = fake_worker.steps,
        seconds: float | None = None,
    ) -> list[SweepTrial]:
        """Have one driver work; return the study's trials after it. `pool` is left to look at."""
        sweep = self.sweep(values or {"mask.ratio": RATIOS}, sampler, "median" if pruner else "none", settings or {})
        self.study.pruner = pruner or optuna.pruners.NopPruner()
        self.pool = Here(self.runs_dir, size, steps)
        view = JobsProgress(Console(file=self.said, width=200), trials, size)

        def told() -> None:
            self.rounds += 1

        queue = JobQueue(self.pool, self.runs_dir, view, self.stop)
        AskAndTell(sweep, self.study, queue).run(trials, seconds, told)
        return sweep_trials(self.study)

    def job(self, settings: dict[str, Any]) -> Job:
        """Return the job of a point of the space."""
        return self.sweep({}, "grid", "none", settings).job(build(SETTINGS | settings), "")

    def asked(self, ratio: float, **noted: Any) -> optuna.Trial:
        """Leave a trial as a driver does that is killed after asking for it."""
        self.study.enqueue_trial({"mask.ratio": ratio})
        trial = self.study.ask()
        trial.suggest_categorical("mask.ratio", RATIOS)
        for name, value in noted.items():
            trial.set_user_attr(name, value)
        return trial

    def key(self, ratio: float) -> list[str]:
        job = self.job({"mask.ratio": ratio})
        return [job.fingerprint, *job.probes]

    def begun(self, ratio: float, accuracies: dict[int, float]) -> RunDirectory:
        """Leave what a killed command leaves of a training, evaluated after these epochs."""
        run = RunDirectory(self.runs_dir / self.job({"mask.ratio": ratio}).fingerprint)
        run.path.mkdir(parents=True)
        run.write_record(Record(stage="pretrain", name="", fingerprint=run.path.name, status="killed"))
        for epoch, accuracy in accuracies.items():
            run.append_metrics(epoch, {"train/epoch": epoch - 1, ONLINE: accuracy})
        return run


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("ablations.execution.job_retries.PAUSE_SECONDS", 0.0)
    return Bench(tmp_path)


def states(trials: list[SweepTrial]) -> list[str]:
    return [trial.state for trial in trials]


def fails(report: Report, job: Job, slot: Slot) -> Steps:
    """Report one thing, whatever the job."""
    yield report


def fails_at_half(report: Report, job: Job, slot: Slot) -> Steps:
    """Report one thing when half of an image is to be hidden, and work otherwise."""
    return fails(report, job, slot) if job.config.mask.ratio == 0.5 else fake_worker.steps(job, slot)


def test_the_default_comes_first_and_then_each_other_point_of_the_grid_once(bench: Bench) -> None:
    trials = bench.drive(50, values={"mask.ratio": (0.5, 0.75, 0.6)})
    assert [trial.params for trial in trials] == [{"mask.ratio": ratio} for ratio in (0.75, 0.5, 0.6)]
    assert [trial.is_default for trial in trials] == [True, False, False]
    assert bench.pool.begun == ["trial 0", "trial 1", "trial 2"]


def test_the_record_of_a_trial_says_what_it_was_and_measured(bench: Bench) -> None:
    run = pretrain_fingerprint(build(SETTINGS), "d")
    probe = f"knn-{probe_fingerprint(build(SETTINGS), 'knn', run)}"
    assert bench.drive(1) == [
        SweepTrial(
            number=0,
            state="complete",
            params={"mask.ratio": 0.75},
            values=[75.0],
            run=run,
            probes={"knn": probe},
            is_default=True,
        )
    ]
    assert "1/1 done: trial 0, knn_top1 75" in bench.said.getvalue()


def test_the_record_has_the_numbers_that_were_trained_and_not_optunas_rounding_errors(bench: Bench) -> None:
    """0.1 + 4 * 0.05 is 0.30000000000000004: a study's cell of 0.3 would be another training."""
    values: Values = {"mask.ratio": FloatDistribution(0.1, 0.8, step=0.05), "model.encoder.heads": (2, 3)}
    for heads in (2, 3):  # 3 heads are impossible
        bench.study.enqueue_trial({"mask.ratio": 0.1 + 4 * 0.05, "model.encoder.heads": heads})
    trials = bench.drive(2, values=values)
    assert states(trials) == ["complete", "failed"]
    assert 0.3 not in [trial.params["mask.ratio"] for trial in bench.study.trials]
    assert [trial.params["mask.ratio"] for trial in trials] == [0.3, 0.3]


def test_a_default_outside_the_space_is_not_asked_for(bench: Bench) -> None:
    trials = bench.drive(50, values={"mask.ratio": (0.5, 0.6)})
    assert [(trial.params["mask.ratio"], trial.is_default) for trial in trials] == [(0.5, False), (0.6, False)]


def test_a_sampler_goes_on_after_the_default_until_there_are_as_many_trials_as_asked_for(bench: Bench) -> None:
    trials = bench.drive(8, sampler="random")
    assert states(trials) == ["complete"] * 8
    assert [trial.is_default for trial in trials] == [True] + [False] * 7
    assert len(bench.pool.begun) == len({trial.run for trial in trials}) == 8 - [t.reused for t in trials].count(True)


def test_another_driver_asks_for_what_is_missing_only(bench: Bench) -> None:
    bench.drive(2)
    trials = bench.drive(3)
    assert [trial.params["mask.ratio"] for trial in trials] == list(RATIOS)
    assert bench.pool.begun == ["trial 2"]


def test_no_more_trials_are_open_than_there_are_workers_and_as_many_when_there_are_points(bench: Bench) -> None:
    bench.drive(50, size=2, pruner=Strict(9))
    assert bench.pool.most == 2


def test_the_caller_hears_of_every_round_in_which_a_trial_was_told_and_of_no_other(bench: Bench) -> None:
    bench.drive(3, pruner=Strict(9))  # three evaluations each
    assert bench.rounds == 3


def test_nothing_is_asked_for_after_the_time_is_up_but_what_is_open_is_finished(bench: Bench) -> None:
    bench.asked(0.5)
    trials = bench.drive(50, seconds=0)
    assert [(trial.params["mask.ratio"], trial.state) for trial in trials] == [(0.5, "complete")]


def test_trials_are_asked_for_while_there_is_time(bench: Bench) -> None:
    assert len(bench.drive(50, seconds=1e6)) == 3


def test_a_stop_request_ends_the_loop_by_its_signal(bench: Bench) -> None:
    bench.stop.number = 15
    with pytest.raises(Interrupted, match="SIGTERM"):
        bench.drive(3)
    assert sweep_trials(bench.study) == []


def test_a_point_that_a_killed_driver_enqueued_and_did_not_ask_for_is_asked_for_once(bench: Bench) -> None:
    bench.study.enqueue_trial({"mask.ratio": 0.75}, {"default": True})
    trials = bench.drive(50)
    assert [trial.params["mask.ratio"] for trial in trials] == list(RATIOS)
    assert [trial.is_default for trial in trials] == [True, False, False]
    assert states(trials) == ["complete"] * 3


@pytest.mark.parametrize("noted", [False, True])
def test_a_trial_that_a_killed_driver_asked_for_is_adopted(noted: bool, bench: Bench) -> None:
    """`noted`: it was killed after the trial's job was on record."""
    bench.asked(0.5, **({"job": bench.key(0.5), "params": {"mask.ratio": 0.5}} if noted else {}))
    trials = bench.drive(1)
    assert (states(trials), trials[0].params, trials[0].values) == (["complete"], {"mask.ratio": 0.5}, [50.0])
    assert [trials[0].run, trials[0].probes["knn"]] == bench.key(0.5)
    assert bench.pool.begun == ["trial 0"]


def test_a_trial_that_finished_while_its_driver_was_dead_is_its_own_and_not_reused(bench: Bench) -> None:
    bench.asked(0.5, job=bench.key(0.5))
    list(fake_worker.steps(bench.job({"mask.ratio": 0.5}), Slot(bench.runs_dir, "cpu", 1)))
    trial = bench.drive(1)[0]
    assert (trial.state, trial.reused, bench.pool.begun) == ("complete", False, [])


def test_a_run_that_another_command_finished_answers_a_trial(bench: Bench) -> None:
    list(fake_worker.steps(bench.job({"mask.ratio": 0.75}), Slot(bench.runs_dir, "cpu", 1)))
    trial = bench.drive(1)[0]
    assert (trial.state, trial.values, trial.reused, bench.pool.begun) == ("complete", [75.0], True, [])
    assert "reused: trial 0, knn_top1 75" in bench.said.getvalue()


@pytest.mark.parametrize("size", [1, 3])
def test_equal_trials_are_trained_once_whether_at_once_or_later(size: int, bench: Bench) -> None:
    trials = bench.drive(3, size, values={"mask.ratio": (0.75,)}, sampler="random", pruner=Strict(9))
    assert bench.pool.begun == ["trial 0"]
    assert [trial.reused for trial in trials] == [False, True, True]
    assert [trial.values for trial in trials] == [[75.0]] * 3
    assert [trial.curve for trial in trials] == [{1: 75.0, 2: 75.0, 3: 75.0}] * 3


def test_the_answer_to_a_trial_outlives_its_driver(bench: Bench) -> None:
    bench.drive(1, values={"mask.ratio": (0.75,)}, sampler="random", pruner=Strict(9))
    trial = bench.drive(2, values={"mask.ratio": (0.75,)}, sampler="random", pruner=Strict(9))[1]
    assert (trial.state, trial.values, trial.reused, trial.reason) == ("complete", [75.0], True, "")
    assert trial.curve == {1: 75.0, 2: 75.0, 3: 75.0}
    assert bench.pool.begun == []


def test_a_failure_by_the_settings_is_told_with_its_reason_and_answers_no_equal_trial(bench: Bench) -> None:
    steps = partial(fails, Report("failed", "not finite"))
    trials = bench.drive(3, 3, values={"mask.ratio": (0.75,)}, sampler="random", steps=steps)
    assert states(trials) == ["failed"] * 3
    assert [trial.reason for trial in trials] == ["not finite"] * 3
    assert [trial.values for trial in trials] == [None] * 3
    assert bench.pool.begun == ["trial 0", "trial 1", "trial 2"]
    assert "FAILED: trial 0: not finite" in bench.said.getvalue()
    assert states(bench.drive(4, values={"mask.ratio": (0.75,)}, sampler="random"))[3] == "complete"


def test_a_trial_that_the_machine_fails_stays_open_and_is_done_by_the_next_driver(bench: Bench) -> None:
    trials = bench.drive(3, steps=partial(fails_at_half, Report("fault", "a full disk")))
    assert states(trials) == ["complete", "running", "complete"]
    assert trials[1].reason == "a full disk, 3 times"
    assert trials[1].values is None
    assert "FAILED: trial 1: a full disk, 3 times; it stays open" in bench.said.getvalue()
    again = bench.drive(3)
    assert (states(again), again[1].reason, bench.pool.begun) == (["complete"] * 3, "", ["trial 1"])


@pytest.mark.parametrize("size", [1, 3])
def test_trials_equal_to_one_set_aside_are_set_aside_too_and_count(size: int, bench: Bench) -> None:
    steps = partial(fails, Report("fault", "no images"))
    trials = bench.drive(3, size, values={"mask.ratio": (0.75,)}, sampler="random", steps=steps)
    assert states(trials) == ["running"] * 3
    assert [trial.reason for trial in trials] == ["no images, 3 times"] * 3
    assert bench.pool.begun == ["trial 0"] * 3
    assert bench.rounds == 0


def test_trials_that_wait_for_another_than_the_one_set_aside_go_on_waiting(bench: Bench) -> None:
    for ratio in (0.5, 0.5, 0.75, 0.75):
        bench.study.enqueue_trial({"mask.ratio": ratio})
    trials = bench.drive(4, 4, pruner=Strict(9), steps=partial(fails_at_half, Report("fault", "a full disk")))
    assert states(trials) == ["running", "running", "complete", "complete"]
    assert [trial.reused for trial in trials] == [False, False, False, True]


def test_another_trial_is_begun_while_one_waits_after_a_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count(0, 0.1)
    monkeypatch.setattr("ablations.execution.job_retries.PAUSE_SECONDS", 1.0)
    monkeypatch.setattr("ablations.execution.job_retries.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    faults = iter([Report("fault", "once")])

    def once(job: Job, slot: Slot) -> Steps:
        report = next(faults, None)
        return fake_worker.steps(job, slot) if report is None else fails(report, job, slot)

    assert states(bench.drive(3, steps=once)) == ["complete"] * 3
    assert bench.pool.begun == ["trial 0", "trial 1", "trial 2", "trial 0"]


def test_a_finished_run_without_its_result_leaves_the_trial_open(bench: Bench) -> None:
    trial = bench.drive(1, steps=partial(fails, Report("finished")))[0]
    assert trial.state == "running"
    assert trial.reason == f"knn_top1: {bench.key(0.75)[0]} has no knn/holdout_top1"


def test_values_that_are_impossible_together_fail_the_trial_with_the_reason(bench: Bench) -> None:
    values = {"model.encoder.heads": (2, 3), "model.encoder.dim": (16, 24)}
    trials = bench.drive(50, values=values)
    failed = next(trial for trial in trials if trial.state == "failed")
    assert states(trials).count("complete") == 3
    assert failed.params == {"model.encoder.heads": 3, "model.encoder.dim": 16}
    assert "expected a divisor of dim=16" in failed.reason
    assert f"FAILED: trial {failed.number}: {failed.reason}" in bench.said.getvalue().replace("\n", " ")


def test_pruned_trials_end_at_once_with_the_reason_and_the_default_goes_on(bench: Bench) -> None:
    trials = bench.drive(3, pruner=Strict(2))
    assert states(trials) == ["complete", "pruned", "pruned"]
    assert [trial.curve for trial in trials] == [{1: 75, 2: 75, 3: 75}, {1: 50, 2: 50}, {1: 60, 2: 60}]
    assert [trial.reason for trial in trials] == [
        "",
        *(f"pruned after epoch 2 as trial {n} of sweep s" for n in (1, 2)),
    ]
    assert [trial.values for trial in trials[1:]] == [None, None]
    assert [trial.reused for trial in trials] == [False] * 3
    assert "pruned: trial 1" in bench.said.getvalue()


def test_no_trial_is_pruned_after_its_last_epoch(bench: Bench) -> None:
    assert states(bench.drive(3, pruner=Strict(3))) == ["complete"] * 3


@pytest.mark.parametrize("size", [1, 2])
def test_a_trial_equal_to_a_pruned_one_is_pruned_without_training(size: int, bench: Bench) -> None:
    trials = bench.drive(4, size, values={"mask.ratio": (0.5,)}, sampler="random", pruner=Strict(1))
    assert states(trials) == ["pruned"] * 4
    assert [trial.curve for trial in trials] == [{1: 50.0}] * 4
    assert {trial.reason for trial in trials} == {"pruned after epoch 1 as trial 0 of sweep s"}
    assert [trial.reused for trial in trials] == [False, True, True, True]
    assert bench.pool.begun == ["trial 0"]


def test_a_pruning_is_an_answer_for_the_next_driver_too(bench: Bench) -> None:
    for wanted in (1, 2):
        trials = bench.drive(wanted, values={"mask.ratio": (0.5,)}, sampler="random", pruner=Strict(1))
    assert (states(trials), bench.pool.begun) == (["pruned"] * 2, [])
    assert (trials[1].reason, trials[1].curve) == (trials[0].reason, {1: 50.0})


@pytest.mark.parametrize("decided", [False, True])
def test_a_trial_whose_driver_was_killed_before_its_pruning_was_told_is_pruned(decided: bool, bench: Bench) -> None:
    run = bench.begun(0.5, {1: 10.0, 2: 10.0})
    trial = bench.asked(0.5, job=bench.key(0.5))
    if decided:
        trial.report(10.0, 1)
        trial.set_user_attr("reason", "worse")
    adopted = bench.drive(1, pruner=Strict(1))[0]
    expected = "worse" if decided else "pruned after epoch 1 as trial 0 of sweep s"
    assert (adopted.state, adopted.curve, adopted.reason) == ("pruned", {1: 10.0}, expected)
    assert (adopted.reused, bench.pool.begun) == (False, [])
    assert status_of(run) == ("pruned", expected)


def test_an_adopted_trial_is_told_no_evaluation_twice(bench: Bench, recwarn: pytest.WarningsRecorder) -> None:
    bench.begun(0.5, {1: 50.0, 2: 50.0})
    bench.asked(0.5, job=bench.key(0.5)).report(50.0, 1)
    trial = bench.drive(1, pruner=Strict(9))[0]
    assert (trial.state, trial.curve) == ("complete", {1: 50.0, 2: 50.0, 3: 50.0})
    assert [str(each.message) for each in recwarn if "already reported" in str(each.message)] == []


def test_a_run_that_others_have_begun_is_pruned_where_it_would_have_been(bench: Bench) -> None:
    run = bench.begun(0.5, {1: 10.0, 2: 20.0})
    trial = bench.drive(2, pruner=Strict(1))[1]
    assert (trial.state, trial.curve, trial.reused, trial.run) == ("pruned", {1: 10.0}, True, run.path.name)
    assert bench.pool.begun == ["trial 0"]
    assert status_of(run)[0] == "killed"  # it is another command's


def test_trials_equal_to_one_pruned_before_its_turn_have_its_reason(bench: Bench) -> None:
    bench.begun(0.5, {1: 10.0})
    trials = bench.drive(3, values={"mask.ratio": (0.5,)}, sampler="random", pruner=Strict(1))
    assert states(trials) == ["pruned"] * 3
    assert {trial.reason for trial in trials} == {"pruned after epoch 1 as trial 0 of sweep s"}


def test_a_finished_run_that_was_evaluated_before_is_told_in_full_and_never_pruned(bench: Bench) -> None:
    list(fake_worker.steps(bench.job({"mask.ratio": 0.5}), Slot(bench.runs_dir, "cpu", 1)))
    trial = bench.drive(2, pruner=Strict(1))[1]
    assert (trial.state, trial.curve, trial.reused) == ("complete", {1: 50.0, 2: 50.0, 3: 50.0}, True)


def test_without_a_pruner_no_evaluation_is_told(bench: Bench) -> None:
    bench.begun(0.5, {1: 50.0})
    assert [trial.curve for trial in bench.drive(3)] == [{}] * 3


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        ({2: 10.0, 4: 20.0, 5: 30.0}, {2: 10.0, 4: 20.0, 5: 30.0}),  # every second epoch and the last
        ({4: 20.0, 5: 30.0}, {}),  # without the first
        ({2: 10.0, 5: 30.0}, {2: 10.0}),  # without the one before the last
        ({1: 5.0, 2: 10.0}, {1: 5.0, 2: 10.0}),  # nothing is due before the first
        ({2: 10.0, 3: 15.0, 4: 20.0}, {2: 10.0, 3: 15.0, 4: 20.0}),
    ],
)
def test_an_evaluation_is_kept_back_where_the_one_due_before_it_is_missing(
    measured: dict[int, float], told: dict[int, float], bench: Bench
) -> None:
    def evaluated(job: Job, slot: Slot) -> Steps:
        for epoch, accuracy in measured.items():
            assert not (yield Report("evaluated", epoch=epoch, accuracy=accuracy))
        yield Report("failed", "that is all")

    settings = {"train.epochs": 5, "run.knn_every": 2}
    assert bench.drive(1, pruner=Strict(9), settings=settings, steps=evaluated)[0].curve == told


def test_evaluations_are_known_by_the_epochs_behind_them(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.append_metrics(5, {"train/epoch": 0.0, ONLINE: 40.0})
    run.append_metrics(10, {"train/epoch": 1.0, "train/loss": 1.0})
    run.append_metrics(15, {"train/epoch": 2.0, ONLINE: 60.0})
    assert online_curve(run) == {1: 40.0, 3: 60.0}


def test_trials_that_have_not_been_asked_for_are_in_no_record(bench: Bench) -> None:
    bench.study.enqueue_trial({"mask.ratio": 0.5})
    assert bench.study.get_trials()[0].state == TrialState.WAITING
    assert sweep_trials(bench.study) == []


def test_a_trial_killed_before_its_job_was_noted_has_no_run_on_record(bench: Bench) -> None:
    bench.asked(0.5)
    assert sweep_trials(bench.study) == [SweepTrial(number=0, state="running", params={"mask.ratio": 0.5})]
