"""Studies for real: processes, crashes, two commands at once."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from ablations.execution.executor import Executor
from ablations.execution.job import Job
from ablations.execution.job_retries import JobQueue, run_jobs
from ablations.execution.jobs_progress import JobsProgress
from ablations.execution.local_pool import LocalPool, local_slots
from ablations.execution.worker_pool import Slot
from ablations.studies.paper import STUDIES
from cli import app
from mae.config.fingerprint import pretrain_fingerprint
from mae.config.resolve import build
from mae.data.sources import open_source
from mae.errors import UserError
from mae.pipeline import Workplace, run_pretraining
from mae.runs.catalogue import find_runs
from mae.runs.directory import Busy, RunDirectory, status_of
from mae.runtime.interruption import StopRequest
from mae.runtime.machine import environment
from mae.runtime.progress import Silent
from tests.conftest import TINY
from tests.helpers.commands import Forked, mae_cli
from tests.mae.data.test_streaming import workers_of

runner = CliRunner()
LONG = TINY | {
    "train.epochs": 60,  # a checkpoint, which a thread writes beside training, is there before its end
    "run.checkpoint_seconds": 0.05,
    "run.knn_every": 0,
    "run.picture_every": 0,
    "probe.kinds": ["knn"],
}


def ablate(*arguments: str, runs_dir: Path, settings: dict[str, Any] = TINY) -> list[str]:
    fixed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["ablate", *arguments, *fixed, "--probe", "knn", "--runs-dir", str(runs_dir), "--tracking-uri", "none"]


def job(**more: Any) -> Job:
    return job_of(LONG | more)


def job_of(settings: dict[str, Any]) -> Job:
    config = build(settings)
    return Job("a job", config, pretrain_fingerprint(config, open_source(config.data, Silent()).digest), ("knn",))


def do(jobs: list[Job], runs_dir: Path, threads: int = 1) -> dict[str, str]:
    with JobsProgress(Console(quiet=True), len(jobs), 1) as view:
        queue = JobQueue(LocalPool([Slot(runs_dir, "cpu", threads)]), runs_dir, view, StopRequest())
        return run_jobs(jobs, queue)


def holder(run: RunDirectory) -> int:
    """Wait until a process works on a run and has saved; return its id."""
    while not (run.is_locked() and list(run.checkpoints.glob("step-*.pt"))):
        assert run.result() is None, "it is over"
        time.sleep(0.02)
    return int((run.path / "lock").read_text().split()[0])


def start(runs_dir: Path, settings: dict[str, Any] = LONG) -> Forked:
    """Start a command with the same job."""
    arguments = ablate("--axis", "mask.ratio=0.75", runs_dir=runs_dir, settings=settings)
    return Forked(mae_cli, runs_dir / "said.txt", arguments)


def weights(runs_dir: Path, job: Job) -> str:
    return str(RunDirectory(runs_dir / job.fingerprint).result()["weights_sha256"])


def results(runs_dir: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in runs_dir.rglob("result.json")}


def test_all_studies_run_and_a_second_time_train_nothing(tmp_path: Path) -> None:
    settings = TINY | {"model.decoder.dim": 16, "run.picture_every": 0}  # a quarter of the width is one
    command = ablate("paper", "--workers", "2", "--json", runs_dir=tmp_path, settings=settings)
    first = runner.invoke(app, command)
    assert first.exit_code == 0, first.output
    studies = json.loads(first.stdout.splitlines()[-1])["studies"]
    assert {study["study"] for study in studies} == set(STUDIES)
    assert all(row["runs"] == 1 for study in studies for row in study["rows"])
    trained = results(tmp_path)
    assert runner.invoke(app, command).exit_code == 0
    assert results(tmp_path) == trained


def test_a_cell_that_fails_is_shown_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    result = runner.invoke(app, ablate("--axis", "train.base_lr=1e30,1e-3", "--json", runs_dir=tmp_path))
    assert result.exit_code == 1
    bad, good = json.loads(result.stdout.splitlines()[-1])["studies"][0]["rows"]
    assert (bad["runs"], bad["failed"], good["runs"]) == (0, 1, 1)
    assert "not finite" in bad["reason"]


def test_cells_that_differ_in_their_probe_only_are_each_probed_once(tmp_path: Path) -> None:
    command = ablate("--axis", "probe.knn.k=1,200", "--json", runs_dir=tmp_path)
    first = runner.invoke(app, command)
    assert first.exit_code == 0, first.output
    rows = json.loads(first.stdout.splitlines()[-1])["studies"][0]["rows"]
    assert [row["runs"] for row in rows] == [1, 1]
    assert rows[0]["mean"] != rows[1]["mean"]
    made = results(tmp_path)
    assert runner.invoke(app, command).exit_code == 0
    assert results(tmp_path) == made
    lost = next(path for path in made if "probes" in path.parts)
    lost.unlink()
    assert runner.invoke(app, command).exit_code == 0
    assert {path for path, written in results(tmp_path).items() if written != made[path]} == {lost}


@pytest.mark.parametrize(("asked", "told"), [(["--pairs"], True), ([], False)])
def test_all_pairs_of_a_study_are_told_if_asked_for(
    asked: list[str], told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablations.studies.run_studies.run_plans", lambda *arguments: {})  # nothing is trained
    result = runner.invoke(app, ablate("--axis", "mask.ratio=0.5,0.75", *asked, "--json", runs_dir=tmp_path))
    study = json.loads(result.stdout.splitlines()[-1])["studies"][0]
    assert ("pairs" in study, (Path(study["directory"]) / "pairs.csv").exists()) == (told, told)


@pytest.mark.parametrize("work", [["ablate", "mask-token"], ["sweep"]])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    work: list[str], runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    result = runner.invoke(app, [*work, "--device", "cuda", "--tracking-uri", "none", "--runs-dir", str(runs_dir)])
    assert result.exit_code == 2
    assert "--device cuda: this machine has 0 CUDA device(s)" in result.stderr
    assert not runs_dir.exists()


def test_no_job_is_begun_on_a_device_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match="--device cuda"), Executor("cuda").pool(tmp_path):
        pass


def test_a_killed_worker_is_replaced_and_nothing_changes(tmp_path: Path) -> None:
    killed, peaceful = tmp_path / "killed", tmp_path / "peaceful"
    work = job()
    with ThreadPoolExecutor() as beside:
        killing = beside.submit(lambda: os.kill(holder(RunDirectory(killed / work.fingerprint)), signal.SIGKILL))
        assert do([work], killed) == {}
        killing.result()
    assert do([work], peaceful) == {}
    assert weights(killed, work) == weights(peaceful, work)


def test_a_worker_takes_no_more_threads_than_the_user_allows(tmp_path: Path) -> None:
    work = job(**{"train.epochs": 1})
    do([work], tmp_path, threads=2)
    assert RunDirectory(tmp_path / work.fingerprint).read_json("environment.json")["threads"] == 1  # OMP_NUM_THREADS


def test_a_job_whose_process_dies_every_time_fails_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablations.execution.local_pool.work", die)
    monkeypatch.setattr("ablations.execution.job_retries.PAUSE_SECONDS", 0.0)
    reason = do([job()], tmp_path)[job().fingerprint]
    assert reason == "its process ended with signal 9, 3 times"


def die(*arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_stop_request_saves_and_leaves_nothing_running(tmp_path: Path) -> None:
    settings = LONG | {"train.epochs": 500}
    work = job_of(settings)
    command = [sys.executable, "-m", "cli", *ablate("--axis", "mask.ratio=0.75", runs_dir=tmp_path, settings=settings)]
    driver = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    holder(RunDirectory(tmp_path / work.fingerprint))
    os.killpg(driver.pid, signal.SIGINT)  # as Ctrl-C does: the workers get it too
    assert driver.communicate()[1].strip().endswith("the same command continues")
    assert driver.returncode == 130
    assert status_of(RunDirectory(tmp_path / work.fingerprint))[0] == "killed"


@pytest.mark.parametrize("also_the_worker", [False, True])
def test_a_killed_driver_takes_its_workers_along_and_is_continued(also_the_worker: bool, tmp_path: Path) -> None:
    work = job()
    run = RunDirectory(tmp_path / work.fingerprint)
    driver = start(tmp_path)
    worker = holder(run)
    driver.send(signal.SIGKILL)
    driver.code()
    if also_the_worker:
        os.kill(worker, signal.SIGKILL)
    while run.is_locked():
        time.sleep(0.05)
    assert status_of(run)[0] == "killed"
    assert do([work], tmp_path) == {}
    steps = [point["step"] for point in run.read_metrics()]
    assert steps == sorted(set(steps))
    assert [status_of(found)[0] for found in find_runs(tmp_path)] == ["finished"]


@pytest.mark.parametrize("number", [0, signal.SIGTERM, signal.SIGKILL])
def test_neither_workers_nor_those_that_decode_for_them_outlive_their_driver(
    number: int, streamed: dict[str, Any], tmp_path: Path
) -> None:
    settings = LONG | streamed | {"train.epochs": 500 if number else 10}
    driver = start(tmp_path, settings)
    worker = holder(RunDirectory(tmp_path / job_of(settings).fingerprint))
    processes = [psutil.Process(worker), *workers_of(worker)]
    assert len(processes) == 2
    driver.send(number)
    assert driver.code() == {0: 0, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[number]
    assert not psutil.wait_procs(processes, timeout=60)[1]


def test_two_commands_on_one_folder_never_train_the_same_cell_twice(tmp_path: Path) -> None:
    work = job()
    other = start(tmp_path)
    run = RunDirectory(tmp_path / work.fingerprint)
    holder(run)
    begun = (run.path / "environment.json").stat().st_mtime_ns
    assert do([work], tmp_path) == {}
    assert other.code() == 0
    assert (run.path / "environment.json").stat().st_mtime_ns == begun
    assert [status_of(found)[0] for found in find_runs(tmp_path)] == ["finished"]


def test_a_run_that_another_has_just_finished_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = job()
    run = RunDirectory(tmp_path / work.fingerprint)

    def slow(*arguments: Any) -> dict[str, Any]:
        run.write_json("result.json", {})  # of the other
        return environment(*arguments)

    monkeypatch.setattr("mae.pipeline.environment", slow)
    with pytest.raises(Busy, match="just finished"):
        run_pretraining(work.config, Workplace(tmp_path, "none", torch.device("cpu"), Silent(), StopRequest()))
    assert run.read_record() is None


def test_gpus_are_shared_out_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [slot.device for slot in local_slots("auto", None, 2, tmp_path)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    with pytest.raises(UserError, match="--per-gpu"):
        local_slots("auto", 5, 2, tmp_path)


def test_more_workers_than_the_cores_bear_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    assert len(local_slots("cpu", 8, 1, tmp_path)) == 8
    with pytest.raises(UserError, match="--workers 500: expected at most 8"):
        local_slots("cpu", 500, 1, tmp_path)


def test_a_dry_run_tells_cost_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.studies.forecast.SECONDS", 0.1)
    command = ablate("mask-token", "--dry-run", "--workers", "2", "--json", runs_dir=tmp_path / "runs")
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    forecast = json.loads(result.stdout.splitlines()[-1])
    rows = forecast["trainings"]
    assert forecast["seconds"] == max(row["seconds"] for row in rows)  # one on each
    assert rows[0]["gflops"] > 1.5 * rows[1]["gflops"]
    assert all(row["seconds"] > 0 and row["disk"] > 0 for row in rows)
    assert not (tmp_path / "runs").exists()


def test_seeds_are_added_until_the_differences_are_precise_and_a_dry_run_foresees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablations.studies.forecast.SECONDS", 0.1)
    axis = ("--axis", "mask.ratio=0.5,0.75,0.9", "--workers", "2", "--json")
    result = runner.invoke(app, ablate(*axis, "--precision", "1000", "--max-seeds", "5", runs_dir=tmp_path))
    assert result.exit_code == 0, result.output
    assert "asked for ± 1000 points: reached with 3 seeds" in result.stderr
    (study,) = json.loads(result.stdout.splitlines()[-1])["studies"]
    assert [row["runs"] for row in study["rows"]] == [3, 3, 3]
    half = max(row["difference_high"] - row["difference"] for row in study["rows"] if not row["is_default"])
    dry = runner.invoke(app, ablate(*axis, "--seeds", "3", "--dry-run", runs_dir=tmp_path))
    (prospect,) = json.loads(dry.stdout.splitlines()[-1])["prospects"]
    assert prospect["half_width"] == pytest.approx(half)
    more = runner.invoke(app, ablate(*axis, "--dry-run", "--precision", "1000", runs_dir=tmp_path))
    assert json.loads(more.stdout.splitlines()[-1])["trainings"] == []


def test_a_dry_run_on_a_device_that_is_not_there_is_a_users_mistake(tmp_path: Path) -> None:
    result = runner.invoke(app, ablate("mask-token", "--dry-run", "--device", "cuda:99", runs_dir=tmp_path / "runs"))
    assert result.exit_code == 2
    assert "--device cuda:99" in result.stderr


def test_the_list_tells_what_is_missing(tmp_path: Path) -> None:
    result = runner.invoke(app, ["ablate", "list", "--json", "--runs-dir", str(tmp_path)])
    rows = {row["study"]: row for row in json.loads(result.stdout.splitlines()[-1])["studies"]}
    assert rows["mask-ratio"]["missing"] == 10


def test_the_list_names_what_a_base_leaves_out_below_the_table_and_a_study_says_why(tmp_path: Path) -> None:
    on_digits = ["--preset", "digits", "--runs-dir", str(tmp_path)]
    listed = runner.invoke(app, ["ablate", "list", *on_digits]).stdout.splitlines()
    left_out = [line for line in listed if "left out" in line]
    assert [line.split(": ")[1] for line in left_out] == ["target", "pretext", "pretext-compute"]
    assert left_out[1].endswith(": beit, colorize, cvrl, video_mae (`mae-cli ablate list pretext` says why)")
    assert listed.index(left_out[0]) > max(number for number, line in enumerate(listed) if "mask-ratio" in line)
    shown = runner.invoke(app, ["ablate", "list", "pretext", *on_digits]).stdout
    assert "pretext: cvrl is left out on this base config: pretext.kind=cvrl: cvrl is for clips" in shown


def test_a_study_as_a_file_has_no_notes_in_it(tmp_path: Path) -> None:
    printed = runner.invoke(app, ["ablate", "list", "pretext", "--toml", "--runs-dir", str(tmp_path)]).stdout
    assert tomllib.loads(printed)["name"] == "my-pretext"
