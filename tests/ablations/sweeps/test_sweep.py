"""Sweeps: asking, telling, pruning, and drivers and workers that are killed."""

import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console
from typer.testing import CliRunner

from ablations.execution.executor import Executor
from ablations.execution.job import Job
from ablations.sweeps.goals import OBJECTIVES, measure
from ablations.sweeps.run_sweep import SweepRequest, make_sweep, run_sweep, sweep_underway
from ablations.sweeps.samplers import PRUNERS, SAMPLERS, evaluated
from cli import app
from mae.config.fingerprint import pretrain_fingerprint
from mae.config.resolve import build
from mae.config.tree import Config
from mae.data.sources import open_source
from mae.errors import RunError, SettingsError, UserError
from mae.pipeline import Workplace, run_pretraining, run_probes
from mae.runs.catalogue import find_runs
from mae.runs.directory import Record, RunDirectory, status_of
from mae.runs.metrics import ONLINE
from mae.runs.sweep_record import SweepRecord, read_sweep, sweep_directory
from mae.runtime.interruption import StopRequest
from mae.runtime.machine import choose_device
from mae.runtime.progress import Silent
from tests.conftest import TINY
from tests.helpers import fake_worker
from tests.helpers.commands import Forked

SPACE = """
[mask.ratio]
type = "float"
low = 0.5
high = 0.9
step = 0.05

[loss.region]
type = "categorical"
choices = ["masked", "all", "weighted"]

[loss.visible_weight]
type = "float"
low = 0.25
high = 0.75
when = {"loss.region" = "weighted"}
"""
WORSE = {"mask.ratio": 0.55, "loss.region": "all"}
RATIOS = '[mask.ratio]\ntype = "categorical"\nchoices = [0.75, 0.5, 0.6]'
WATCHED = TINY | {"train.epochs": 3, "run.knn_every": 1}

WORK = "ablations.execution.local_pool.work"


def drive(
    runs_dir: Path,
    trials: int,
    workers: int = 1,
    text: str = SPACE,
    settings: dict[str, Any] = WATCHED,
    uri: str = "none",
    **more: Any,
) -> SweepRecord:
    file = runs_dir.parent / f"{runs_dir.name}-space.toml"
    file.write_text(text)
    request = SweepRequest(
        **{"trials": trials, "space": file, "objective": "knn_top1", "name": "s", "pruner": "none"} | more
    )
    sweep = make_sweep(request, build(settings), runs_dir, Silent())
    with sweep_underway(sweep, uri, Console(quiet=True)) as directory:
        return run_sweep(sweep, request, directory, Executor("cpu", workers), Console(quiet=True))[0]


def states(record: SweepRecord) -> list[str]:
    return [trial.state for trial in record.trials]


def begun(runs_dir: Path, config: Config, accuracies: dict[int, float]) -> RunDirectory:
    """Leave what a killed command leaves of a training, evaluated after these epochs."""
    run = RunDirectory(runs_dir / pretrain_fingerprint(config, open_source(config.data, Silent()).digest))
    run.path.mkdir(parents=True)
    run.write_record(Record(stage="pretrain", name="", fingerprint=run.path.name, status="killed"))
    for epoch, accuracy in accuracies.items():
        run.append_metrics(epoch, {"train/epoch": epoch - 1, ONLINE: accuracy})
    return run


def trainings(runs_dir: Path) -> list[int]:
    """How often each run was trained by a pretended worker."""
    return [len((run.path / "trained").read_text().splitlines()) for run in find_runs(runs_dir)]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no pause after a fault."""
    monkeypatch.setattr("ablations.execution.job_retries.PAUSE_SECONDS", 0.0)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WORK, fake_worker.work)


class Strict(optuna.pruners.BasePruner):
    """Prunes whatever is asked about."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return True


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRUNERS, "median", lambda base: Strict())


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_tells_as_many_trials_as_were_asked_for(sampler: str, tmp_path: Path) -> None:
    text = SPACE.replace("high = 0.75", "high = 0.75\nstep = 0.25") if sampler == "grid" else SPACE
    record = drive(tmp_path / "runs", 13, text=text, sampler=sampler)
    assert states(record) == ["complete"] * 13
    assert record.trials[0].is_default
    assert record.trials[0].params == {"mask.ratio": 0.75, "loss.region": "masked"}
    for trial in record.trials:
        assert ("loss.visible_weight" in trial.params) == (trial.params["loss.region"] == "weighted")
        assert trial.values == [pytest.approx(100 * trial.params["mask.ratio"])]


def test_trials_train_on_streamed_images(streamed: dict[str, Any], tmp_path: Path) -> None:
    record = drive(tmp_path / "runs", 2, settings=streamed | {"run.knn_every": 1})
    assert states(record) == ["complete"] * 2


def test_trials_get_the_probe_of_their_objective_whatever_the_base_asks_for(tmp_path: Path) -> None:
    trial = drive(tmp_path / "runs", 1, settings=WATCHED | {"probe.kinds": ["linear"]}).trials[0]
    made = (tmp_path / "runs").glob(f"{trial.run}/probes/*/result.json")
    assert [file.parent.name for file in made] == [trial.probes["knn"]]


@pytest.mark.usefixtures("pretended")
def test_a_grid_ends_when_every_point_was_tried(tmp_path: Path) -> None:
    text = '[mask.ratio]\ntype = "float"\nlow = 0.5\nhigh = 0.75\nstep = 0.05'
    record = drive(tmp_path / "runs", 50, workers=2, text=text, sampler="grid")
    assert sorted(trial.params["mask.ratio"] for trial in record.trials) == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]


@pytest.mark.usefixtures("pretended")
def test_an_equal_trial_is_answered_without_training(tmp_path: Path) -> None:
    text = '[mask.ratio]\ntype = "categorical"\nchoices = [0.5, 0.75]'
    record = drive(tmp_path / "runs", 12, workers=3, text=text, sampler="random")
    assert states(record) == ["complete"] * 12
    assert trainings(tmp_path / "runs") == [1, 1]
    assert [trial.reused for trial in record.trials].count(False) == 2
    assert all(trial.values == [100 * trial.params["mask.ratio"]] for trial in record.trials)


@pytest.mark.usefixtures("pretended")
def test_the_same_sweep_goes_on_to_more_trials_with_new_draws(tmp_path: Path) -> None:
    first = drive(tmp_path / "runs", 6, sampler="random")
    assert drive(tmp_path / "runs", 6, sampler="random").trials == first.trials
    more = drive(tmp_path / "runs", 12, sampler="random")
    assert more.trials[:6] == first.trials
    assert [trial.params for trial in more.trials[6:]] != [trial.params for trial in first.trials]
    assert len(more.trials) == 12


@pytest.mark.usefixtures("pretended")
def test_another_space_under_the_same_name_is_refused_with_the_difference(tmp_path: Path) -> None:
    drive(tmp_path / "runs", 1)
    with pytest.raises(UserError, match=r"space\.mask\.ratio\.high: 0\.9 there, 0\.8 asked for"):
        drive(tmp_path / "runs", 2, text=SPACE.replace("0.9", "0.8"))
    with pytest.raises(UserError, match=r"base\.train\.epochs: 3 there, 2 asked for"):
        drive(tmp_path / "runs", 2, settings=TINY)


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    with sweep_directory(tmp_path / "runs", "s").locked(), pytest.raises(UserError, match="being worked on"):
        drive(tmp_path / "runs", 1)


@pytest.mark.usefixtures("pretended")
def test_values_that_are_impossible_together_fail_with_the_reason(tmp_path: Path) -> None:
    text = (
        '[model.encoder.heads]\ntype = "categorical"\nchoices = [2, 3]\n'
        '[model.encoder.dim]\ntype = "categorical"\nchoices = [16, 24]'
    )
    record = drive(tmp_path / "runs", 4, text=text, sampler="grid")
    failed = [trial for trial in record.trials if trial.state == "failed"]
    assert [trial.params for trial in failed] == [{"model.encoder.heads": 3, "model.encoder.dim": 16}]
    assert "expected a divisor of dim=16" in failed[0].reason
    assert states(record).count("complete") == 3


@pytest.mark.usefixtures("pretended")
def test_no_trial_is_begun_after_the_time_is_up(tmp_path: Path) -> None:
    assert drive(tmp_path / "runs", 50, seconds=1e-9).trials == []


@pytest.mark.usefixtures("pretended")
def test_several_objectives_give_the_front_and_no_pruning(tmp_path: Path) -> None:
    text = SPACE + '[model.decoder.depth]\ntype = "int"\nlow = 1\nhigh = 4\n'
    record = drive(tmp_path / "runs", 10, text=text, objective="knn_top1,gflops", pruner=None)
    assert record.pruner == "none"
    assert all(trial.values is not None and len(trial.values) == 2 for trial in record.trials)
    with pytest.raises(UserError, match="only under one objective"):
        drive(tmp_path / "runs", 10, objective="knn_top1,gflops", pruner="median")


def test_linear_accuracy_is_never_that_on_test_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must not choose on test images"):
        drive(tmp_path / "runs", 1, settings=TINY | {"probe.linear.solver": "lars"}, objective="linear_top1")


def test_knn_accuracy_is_that_under_the_probe_settings_of_the_trial_without_online_evaluations(tmp_path: Path) -> None:
    work = Workplace(tmp_path, "none", choose_device("cpu"), Silent(), StopRequest())
    measured = set()
    for neighbours in (1, 20, 400):
        config = build(TINY | {"run.knn_every": 0, "probe.kinds": ["knn"], "probe.knn.k": neighbours})
        run = run_pretraining(config, work)
        run_probes(run, config, work)
        measured |= {*measure((OBJECTIVES["knn_top1"],), Job("", config, run.path.name, ("knn",)), tmp_path)}
    assert len(find_runs(tmp_path)) == 1
    assert len(measured) == 3


@pytest.mark.usefixtures("pretended", "strict")
def test_a_pruned_trial_keeps_its_evaluations_and_the_default_is_never_pruned(tmp_path: Path) -> None:
    record = drive(tmp_path / "runs", 3, pruner="median")
    assert states(record) == ["complete", "pruned", "pruned"]
    assert list(record.trials[0].curve) == [1, 2, 3]
    assert list(record.trials[1].curve) == [1]
    assert record.trials[1].reason == "pruned after epoch 1 as trial 1 of sweep s"


@pytest.mark.usefixtures("strict")
def test_a_pruned_training_stops_at_once_and_continues_in_full_when_asked_for(tmp_path: Path) -> None:
    record = drive(tmp_path / "runs", 2, 2, pruner="median")
    run = RunDirectory(tmp_path / "runs" / record.trials[1].run)
    assert status_of(run) == ("pruned", record.trials[1].reason)
    assert [point["step"] for point in run.read_metrics() if ONLINE in point["metrics"]] == [5]  # of 15
    config = build(WATCHED | record.trials[1].params)
    weights = []
    for runs_dir in (tmp_path / "runs", tmp_path / "peaceful"):
        work = Workplace(runs_dir, "none", choose_device("cpu"), Silent(), StopRequest())
        weights.append(run_pretraining(config, work).result()["weights_sha256"])
    assert weights[0] == weights[1]


@pytest.mark.usefixtures("at_once")
def test_a_trial_that_always_dies_stays_open_while_the_others_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WORK, fake_worker.die_at_half)
    record = drive(tmp_path / "runs", 3, text=RATIOS, sampler="grid")
    assert (states(record), record.open) == (["complete", "running", "complete"], 1)
    assert record.trials[1].reason == "its process ended with signal 9, 3 times"
    monkeypatch.setattr(WORK, fake_worker.work)
    record = drive(tmp_path / "runs", 3, text=RATIOS, sampler="grid")
    assert (states(record), record.open) == (["complete"] * 3, 0)
    assert record.trials[1].reason == ""


@pytest.mark.usefixtures("at_once")
def test_a_command_that_leaves_a_trial_open_says_so_and_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_settings: list[str]
) -> None:
    monkeypatch.setattr(WORK, fake_worker.die_at_half)
    (tmp_path / "space.toml").write_text(RATIOS)
    wanted = ["--trials", "3", "--space", str(tmp_path / "space.toml"), "--sampler", "grid", "--objective", "knn_top1"]
    where = ["--runs-dir", str(tmp_path / "runs"), "--tracking-uri", "none", "--study", "s"]
    result = CliRunner().invoke(app, ["sweep", *wanted, *tiny_settings, *where])
    assert result.exit_code == 1
    assert "sweep s, so far: 1 of 3 trials open" in result.output
    assert "OPEN: trial 1: its process ended with signal 9, 3 times; the same command continues" in result.output


@pytest.mark.usefixtures("at_once")
def test_trials_equal_to_one_that_always_dies_stay_open_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WORK, fake_worker.die_at_half)
    record = drive(tmp_path / "runs", 9, 2, text=RATIOS, sampler="random")
    assert len(record.trials) == 9
    assert {trial.state for trial in record.trials if trial.params["mask.ratio"] == 0.5} == {"running"}
    assert {trial.state for trial in record.trials if trial.params["mask.ratio"] != 0.5} == {"complete"}


@pytest.mark.usefixtures("at_once")
def test_images_that_are_away_stop_the_sweep_and_the_same_command_does_every_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_dir, away = tmp_path / "runs", RunError("the images are away")
    monkeypatch.setattr(WORK, partial(fake_worker.hindered, error=away, unless="images"))
    with pytest.raises(RunError, match=r"5 failures in a row.*the images are away; the same command continues"):
        drive(runs_dir, 30, 2, sampler="random")
    stopped = read_sweep(sweep_directory(runs_dir, "s"))
    assert set(states(stopped)) == {"running"}
    assert (stopped.open, stopped.winner) == (len(stopped.trials), "")
    (runs_dir / "images").touch()
    assert states(drive(runs_dir, 30, 2, sampler="random")) == ["complete"] * 30


@pytest.mark.usefixtures("at_once")
def test_an_unforeseen_error_is_no_failure_of_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ZeroDivisionError("a bug")
    monkeypatch.setattr(WORK, partial(fake_worker.hindered, error=error, unless="never"))
    with pytest.raises(RunError, match="ZeroDivisionError: a bug"):
        drive(tmp_path / "runs", 2)


def test_what_lies_in_the_settings_fails_the_trial_for_good(tmp_path: Path) -> None:
    text = (
        '[train.base_lr]\ntype = "categorical"\nchoices = [1e-3, 1e30]\n'
        '[train.batch_size]\ntype = "categorical"\nchoices = [256, 8192]'
    )
    record = drive(tmp_path / "runs", 4, 2, text=text, settings=TINY, sampler="grid")
    reasons = {tuple(trial.params.values()): trial.reason for trial in record.trials if trial.state == "failed"}
    assert states(record).count("complete") == 1
    assert "not finite" in reasons[1e30, 256]
    assert "expected at most" in reasons[1e-3, 8192]
    assert drive(tmp_path / "runs", 4, 2, text=text, settings=TINY, sampler="grid").trials == record.trials


def test_a_failure_answers_no_equal_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_dir, error = tmp_path / "runs", SettingsError("out of memory")
    monkeypatch.setattr(WORK, partial(fake_worker.hindered, error=error, unless="memory"))
    first = drive(runs_dir, 6, 3, text=RATIOS, sampler="random")
    assert states(first) == ["failed"] * 6
    assert not any(trial.reused for trial in first.trials)
    (runs_dir / "memory").touch()
    assert states(drive(runs_dir, 12, text=RATIOS, sampler="random"))[6:] == ["complete"] * 6


def test_a_driver_killed_at_random_moments_ends_with_every_trial_told_and_none_trained_twice(tmp_path: Path) -> None:
    runs_dir, trials, draws = tmp_path / "runs", 12, random.Random(0)
    for _ in range(3):
        driver = Forked(drive, runs_dir, trials, 2, pruner="hyperband")
        time.sleep(draws.uniform(0.5, 2.5))
        driver.send(signal.SIGKILL)
        driver.code()
    before = {path: path.stat().st_mtime_ns for path in runs_dir.rglob("result.json")}
    record = drive(runs_dir, trials, 2, pruner="hyperband")
    assert len(record.trials) == trials
    assert set(states(record)) <= {"complete", "pruned"}
    assert {run.path.name for run in find_runs(runs_dir)} == {trial.run for trial in record.trials}
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())


def test_a_trial_whose_worker_died_once_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WORK, fake_worker.die_once)
    record = drive(tmp_path / "runs", 1)
    assert states(record) == ["complete"]
    assert trainings(tmp_path / "runs") == [1]


@pytest.mark.usefixtures("pretended", "strict")
@pytest.mark.parametrize("decided", [False, True])
def test_a_pruning_outlives_the_driver_that_was_killed_before_telling_it(decided: bool, tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    first = drive(runs_dir, 2, pruner="median")
    # What a killed driver leaves of trial 2: asked, and its worker, stopped with it, has evaluated twice.
    study, params = optuna.load_study(study_name="s", storage=f"sqlite:///{runs_dir}/optuna.db"), WORSE
    study.enqueue_trial(params)
    trial = study.ask()
    trial.suggest_float("mask.ratio", 0.5, 0.9, step=0.05)
    run = begun(runs_dir, build(WATCHED | params), {1: 10.0, 2: 10.0})
    assert run.path.name not in (other.run for other in first.trials)
    trial.set_user_attr("job", [run.path.name, "knn-1"])
    if decided:
        trial.report(10.0, 1)
        trial.set_user_attr("reason", "worse")
    adopted = drive(runs_dir, 3, pruner="median").trials[2]
    assert (adopted.state, adopted.run, adopted.curve) == ("pruned", run.path.name, {1: 10.0})
    assert adopted.params == params
    assert adopted.reason == ("worse" if decided else "pruned after epoch 1 as trial 2 of sweep s")
    assert status_of(run) == ("pruned", adopted.reason)
    assert not (run.path / "trained").exists()


@pytest.mark.usefixtures("pretended", "strict")
def test_a_run_that_others_have_begun_is_pruned_where_it_would_have_been(tmp_path: Path) -> None:
    run = begun(tmp_path / "runs", build(WATCHED | {"mask.ratio": 0.5}), {1: 10.0, 2: 20.0})
    trial = drive(tmp_path / "runs", 2, text=RATIOS, sampler="grid", pruner="median").trials[1]
    assert (trial.state, trial.run, trial.curve, trial.reused) == ("pruned", run.path.name, {1: 10.0}, True)
    assert not (run.path / "trained").exists()


def test_a_run_that_others_have_begun_does_not_have_better_trials_pruned_by_hyperband(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WORK, partial(fake_worker.work, growing=True))
    settings = WATCHED | {"train.epochs": 2, "mask.ratio": 0.5}
    text = '[mask.ratio]\ntype = "categorical"\nchoices = [0.5, 0.6, 0.9]'
    # After epoch 1 it is at 30 %, of 60 % in the end; the next trial at 45 %, of 90 %.
    begun(tmp_path / "runs", build(settings | {"mask.ratio": 0.6}), {1: 30.0})
    record = drive(tmp_path / "runs", 3, text=text, settings=settings, sampler="grid", pruner="hyperband")
    assert [trial.params["mask.ratio"] for trial in record.trials] == [0.5, 0.6, 0.9]
    assert states(record) == ["complete"] * 3
    assert record.trials[1].curve == {1: 30.0, 2: 60.0}


@pytest.mark.usefixtures("pretended")
def test_a_run_that_was_not_evaluated_early_is_not_compared_with_early_evaluations(tmp_path: Path) -> None:
    begun(tmp_path / "runs", build(WATCHED | {"mask.ratio": 0.5}), {2: 50.0})
    trial = drive(tmp_path / "runs", 2, text=RATIOS, sampler="grid", pruner="hyperband").trials[1]
    assert (trial.state, trial.curve) == ("complete", {})


@pytest.mark.usefixtures("pretended")
def test_a_finished_run_that_is_reused_reports_its_whole_curve(tmp_path: Path) -> None:
    drive(tmp_path / "runs", 2, text=RATIOS, sampler="grid")
    trial = drive(tmp_path / "runs", 2, text=RATIOS, sampler="grid", pruner="median", name="another").trials[1]
    assert (trial.reused, trial.curve) == (True, {1: 50.0, 2: 50.0, 3: 50.0})


@pytest.mark.parametrize(
    ("settings", "pruner", "fixed", "expected"),
    [
        ({"train.epochs": 40}, "hyperband", (), 2),
        ({"train.epochs": 5}, "median", (), 1),
        ({"train.epochs": 40}, "none", (), 10),
        ({"train.epochs": 40, "run.knn_every": 5}, "hyperband", (), 5),
        ({"train.epochs": 40}, "hyperband", ("run.knn_every",), 10),
    ],
)
def test_a_training_that_may_be_pruned_is_evaluated_twenty_times_unless_told_how_often(
    settings: dict[str, Any], pruner: str, fixed: tuple[str, ...], expected: int
) -> None:
    assert evaluated(build(settings), pruner, fixed).run.knn_every == expected


@pytest.mark.parametrize("name", ["../evil", "", "a/b", "a b"])
def test_a_name_that_is_no_folder_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--study"):
        drive(tmp_path / "runs", 1, name=name)
