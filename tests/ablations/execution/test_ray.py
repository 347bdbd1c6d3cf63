"""A Ray cluster of two nodes, for real: work is shared out, results come back, a lost node costs nothing finished."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from ablations.execution.job import Job
from ablations.execution.ray_address import reach
from ablations.execution.ray_pool import NODE_RUNS_DIR, Demand, RayWorker, demand, needed_runs
from ablations.execution.run_parcel import pack, unpack
from ablations.execution.worker_pool import Slot
from cli import app
from mae.config.resolve import build
from mae.errors import UserError
from mae.runs.catalogue import find_runs
from mae.runs.directory import Busy, RunDirectory, status_of
from mae.runs.sweep_record import read_sweep

MORE = {"train.epochs": 10, "run.knn_every": 1}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield started
    started.shutdown()


def runs(folder: Path) -> dict[str, str]:
    return {run.path.name: status_of(run)[0] for run in find_runs(folder)}


def ended(folder: Path) -> set[str]:
    return {name for name, status in runs(folder).items() if status in ("finished", "pruned")}


def test_a_sweep_survives_the_loss_of_a_node_with_a_folder_of_its_own(
    cluster: Cluster, streamed: dict[str, Any], tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    node = cluster.add_node(num_cpus=1, env_vars={NODE_RUNS_DIR: str(there)})
    cluster.wait_for_nodes()
    settings = [part for key, value in (streamed | MORE).items() for part in ("--set", f"{key}={value}")]
    command = [
        "sweep",
        "--trials",
        "6",
        "--objective",
        "knn_top1",
        "--pruner",
        "median",
        "--sampler",
        "random",
        *settings,
    ]
    command += ["--executor", "ray", "--address", cluster.address, "--workers", "2"]
    command += ["--runs-dir", str(here), "--tracking-uri", "none", "--json"]
    driver = subprocess.Popen([sys.executable, "-m", "cli", *command], stdout=PIPE, stderr=PIPE, text=True)
    while not (done := ended(there)) or len(runs(there)) == len(done):  # it has done one trial and is at another
        assert driver.poll() is None, driver.communicate()[1]
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    output, messages = driver.communicate()
    assert driver.returncode == 0, messages
    assert "is gone; continuing from its last checkpoint" in " ".join(messages.split())
    assert done <= ended(here) == set(runs(here))
    directory = RunDirectory(Path(json.loads(output.splitlines()[-1])["directory"]))
    assert {trial.state for trial in read_sweep(directory).trials} <= {"complete", "pruned"}
    assert not list(here.glob(".driver-*"))


def test_workers_take_a_gpu_each_or_a_part_of_one() -> None:
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 64.0}]
    assert demand(nodes, "auto", None, 1) == Demand(3, 8, 1.0)
    assert demand(nodes, "cuda", 5, 2) == Demand(5, 4, 0.5)


def test_workers_on_cpus_take_what_fits_on_the_nodes() -> None:
    nodes = [{"CPU": 4.0}, {"CPU": 6.0}]
    assert demand(nodes, "auto", None, 1) == Demand(2, 4)
    assert demand(nodes, "cpu", 5, 1) == Demand(5, 2)


@pytest.mark.parametrize(
    ("device", "workers", "reason"),
    [("cuda", None, "no node of the Ray cluster has a GPU"), ("cuda:1", None, "Ray shares out"), ("cpu", 9, "8 CPU")],
)
def test_what_a_cluster_has_not_got_is_refused(device: str, workers: int | None, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        demand([{"CPU": 8.0}], device, workers, 1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--address", "auto"], "only --executor ray"),
        (["--executor", "ray", "--dry-run"], "leave --executor out"),
        (["--executor", "ray", "--address", "foo"], "--address foo: expected HOST:PORT"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], reason: str, runs_dir: Path) -> None:
    result = CliRunner().invoke(app, ["ablate", "mask-ratio", *arguments, "--runs-dir", str(runs_dir)])
    assert result.exit_code == 2
    assert reason in result.stderr
    assert not runs_dir.exists()


def test_what_other_addresses_mean_ray_knows() -> None:
    for address in ("local", "auto", "ray://head", "anyscale://cluster"):
        reach(address)


NOWHERE = ["--executor", "ray", "--address", "127.0.0.1:1"]


@pytest.mark.parametrize("work", [["ablate", "mask-ratio"], ["sweep"]])
def test_a_cluster_that_is_not_there_is_a_users_mistake(work: list[str], runs_dir: Path) -> None:
    command = [*work, *NOWHERE, "--tracking-uri", "none", "--runs-dir", str(runs_dir)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "no Ray cluster at 127.0.0.1:1" in result.stderr
    assert not runs_dir.exists()


def test_a_finished_study_needs_no_cluster(tiny_settings: list[str], runs_dir: Path) -> None:
    command = ["ablate", "--axis", "mask.ratio=0.75", *tiny_settings, "--probe", "knn", "--tracking-uri", "none"]
    command += ["--runs-dir", str(runs_dir)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert CliRunner().invoke(app, [*command, *NOWHERE]).exit_code == 0


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "sender" / "abc")
    for name in ("record.json", "result.json", "probes/knn-1/result.json", "checkpoints/step-1.pt"):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text(f'"{name}"')
    return run


def test_a_parcel_holds_a_run_and_its_probes_without_checkpoints(run: RunDirectory, tmp_path: Path) -> None:
    arrived = RunDirectory(tmp_path / "receiver" / "abc")
    unpack(pack(run), arrived)
    assert arrived.result() == "result.json"
    assert arrived.probe("knn-1").result() == "probes/knn-1/result.json"
    assert not arrived.checkpoints.exists()


def test_a_parcel_leaves_receipts_of_what_its_sender_has_tracked_behind(run: RunDirectory, tmp_path: Path) -> None:
    run.write_json("tracking-0a1b.json", {"run_id": "of the sender's store"})
    arrived = RunDirectory(tmp_path / "receiver" / "abc")
    arrived.write_json("tracking-0a1b.json", {"run_id": "of the receiver's store"})
    unpack(pack(run), arrived)
    assert arrived.read_json("tracking-0a1b.json") == {"run_id": "of the receiver's store"}


def test_a_parcel_waits_for_whoever_works_on_the_run(run: RunDirectory) -> None:
    with run.locked(), pytest.raises(Busy):
        unpack(pack(run), run)


def test_a_tokenizer_travels_to_a_node_with_a_folder_of_its_own_before_the_job_starts(
    run: RunDirectory, tmp_path: Path
) -> None:
    job = Job("x", build({"target.kind": "tokens", "target.tokenizer": "abc"}), "f" * 12, ())
    found: list[Any] = []
    worker = object.__new__(RayWorker)
    worker.slot = Slot(tmp_path / "node", "cpu", 1)
    there = RunDirectory(tmp_path / "node" / "abc")
    worker.pool = SimpleNamespace(start=lambda number, job: found.append(there.result()))  # type: ignore[assignment]
    worker.start(job, needed_runs(job, run.path.parent))
    assert found == ["result.json"]


def test_a_finished_pretraining_travels_without_its_tokenizer(run: RunDirectory) -> None:
    own = RunDirectory(run.path.parent / ("f" * 12))
    own.write_json("result.json", {})
    job = Job("x", build({"target.kind": "tokens", "target.tokenizer": "abc"}), "f" * 12, ())
    assert list(needed_runs(job, run.path.parent)) == ["f" * 12]
