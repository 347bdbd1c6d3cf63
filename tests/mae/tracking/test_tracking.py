import multiprocessing
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mae.config.resolve import to_toml
from mae.config.tree import Config
from mae.errors import without_secrets
from mae.runs.directory import Record, RunDirectory
from mae.tracking import background_delivery
from mae.tracking.background_delivery import deliver_all, tracked
from mae.tracking.mlflow_store import default_uri
from mae.tracking.stage_delivery import deliver_stage


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the module: a fresh MLflow store costs seconds."""
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture
def run(runs_dir: Path, request: pytest.FixtureRequest) -> RunDirectory:
    """A finished pretraining of three points, with a name of its own."""
    return make_run(runs_dir / f"{abs(hash(request.node.name)):012x}"[:40])


def make_run(path: Path, **record: Any) -> RunDirectory:
    directory = RunDirectory(path)
    path.mkdir(parents=True)
    data = {"source": "digits", "digest": "d" * 64, "train_images": 10}
    values = {"stage": "pretrain", "name": "a run", "fingerprint": path.name, "status": "finished", "data": data}
    directory.write_record(Record(**{**values, **record}))
    directory.write_text("config.toml", to_toml(Config()))
    directory.write_json("result.json", {"metrics": {"cost/steps": 3}})
    for step in (1, 2, 3):
        directory.append_metrics(step, {"train/loss": 1 / step})
    return directory


def sent(directory: RunDirectory, uri: str, runs_dir: Path) -> Any:
    return MlflowClient(uri).get_run(deliver_stage(directory, uri, runs_dir))


def history(directory: RunDirectory, uri: str, runs_dir: Path) -> list[tuple[int, float]]:
    points = MlflowClient(uri).get_metric_history(deliver_stage(directory, uri, runs_dir), "train/loss")
    return sorted((point.step, point.value) for point in points)


def test_a_finished_run_arrives_whole(run: RunDirectory, runs_dir: Path) -> None:
    arrived = sent(run, default_uri(runs_dir), runs_dir)
    assert arrived.info.status == "FINISHED"
    assert arrived.info.run_name == "a run"
    assert arrived.data.params["mask.ratio"] == "0.75"
    assert arrived.data.metrics["cost/steps"] == 3
    assert arrived.data.tags["mae.fingerprint"] == run.path.name
    assert arrived.inputs.dataset_inputs[0].dataset.name == "digits"
    names = {file.path for file in MlflowClient(default_uri(runs_dir)).list_artifacts(arrived.info.run_id)}
    assert names == {"config.toml", "result.json"}


def test_delivering_twice_doubles_nothing(run: RunDirectory, runs_dir: Path) -> None:
    uri = default_uri(runs_dir)
    assert history(run, uri, runs_dir) == history(run, uri, runs_dir) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_points_that_came_later_arrive(run: RunDirectory, runs_dir: Path) -> None:
    uri = default_uri(runs_dir)
    deliver_stage(run, uri, runs_dir)
    run.append_metrics(4, {"train/loss": 0.25})
    assert history(run, uri, runs_dir)[-1] == (4, 0.25)


def test_a_lost_receipt_doubles_nothing(run: RunDirectory, runs_dir: Path) -> None:
    uri = default_uri(runs_dir)
    first = deliver_stage(run, uri, runs_dir)
    next(run.path.glob("tracking-*.json")).unlink()
    assert deliver_stage(run, uri, runs_dir) == first
    assert len(history(run, uri, runs_dir)) == 3


def test_a_store_that_was_emptied_is_filled_again(tmp_path: Path, runs_dir: Path) -> None:
    uri = default_uri(runs_dir)
    directory = make_run(tmp_path / "runs" / "refilled")
    first = deliver_stage(directory, uri, tmp_path / "runs")
    receipt = next(directory.path.glob("tracking-*.json"))
    MlflowClient(uri).delete_run(first)
    receipt.write_text(receipt.read_text().replace('"store": [', '"store": [1, '))  # of the store that was there before
    assert deliver_all(tmp_path / "runs", uri) == 1
    assert len(history(directory, uri, tmp_path / "runs")) == 3


def test_news_of_a_run_deleted_in_mlflow_arrive_in_a_new_one(run: RunDirectory, runs_dir: Path) -> None:
    uri = default_uri(runs_dir)
    first = deliver_stage(run, uri, runs_dir)
    MlflowClient(uri).delete_run(first)
    run.append_metrics(4, {"train/loss": 0.25})
    with pytest.raises(MlflowException):
        deliver_stage(run, uri, runs_dir)
    assert deliver_stage(run, uri, runs_dir) != first
    assert len(history(run, uri, runs_dir)) == 4


def test_deliveries_at_once_make_one_run(run: RunDirectory, runs_dir: Path) -> None:
    uri = default_uri(runs_dir)
    deliver_stage(make_run(runs_dir / "first"), uri, runs_dir)  # makes the store
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(deliver_stage, run, uri, runs_dir) for _ in range(4)]
    assert len({future.result() for future in made}) == 1
    assert len(history(run, uri, runs_dir)) == 3


def test_a_run_whose_process_died_is_killed(runs_dir: Path) -> None:
    dead = make_run(runs_dir / "dead", status="running")
    assert sent(dead, default_uri(runs_dir), runs_dir).info.status == "KILLED"


def test_a_run_killed_after_a_delivery_is_killed_in_mlflow_with_the_next_command(tmp_path: Path) -> None:
    uri, run = default_uri(tmp_path), make_run(tmp_path / "killed", status="running")
    with run.locked():
        run_id = deliver_stage(run, uri, tmp_path)
    assert [deliver_all(tmp_path, uri), deliver_all(tmp_path, uri)] == [1, 0]
    assert MlflowClient(uri).get_run(run_id).info.status == "KILLED"


def test_a_run_that_is_worked_on_is_running(runs_dir: Path) -> None:
    alive = make_run(runs_dir / "alive", status="running")
    with alive.locked():
        assert sent(alive, default_uri(runs_dir), runs_dir).info.status == "RUNNING"


def test_a_probe_is_nested_under_its_pretraining(run: RunDirectory, runs_dir: Path) -> None:
    probe = make_run(run.path / "probes" / "knn-1", stage="probe", parent=run.path.name)
    arrived = sent(probe, default_uri(runs_dir), runs_dir)
    assert arrived.data.tags["mlflow.parentRunId"] == deliver_stage(run, default_uri(runs_dir), runs_dir)


def test_what_a_dead_server_missed_goes_out_later(tmp_path: Path, runs_dir: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and never listening: connections are refused
        said: list[str] = []
        owed = make_run(tmp_path / "runs" / "owed")
        uri = f"http://user:secret@127.0.0.1:{held.getsockname()[1]}"
        with tracked(owed, uri, tmp_path / "runs", said.append):
            pass
    assert "goes out with the next command" in said[0]
    assert "secret" not in said[0]
    assert len(history(owed, default_uri(runs_dir), runs_dir)) == 3


def test_a_server_that_raises_does_not_reach_the_work(
    run: RunDirectory, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("500 from the server")

    monkeypatch.setattr(background_delivery, "in_child_process", broken)
    said: list[str] = []
    with tracked(run, "http://x", runs_dir, said.append):
        worked = True
    assert worked
    assert "500 from the server" in said[0]


def test_nothing_is_sent_where_nothing_is_owed(tmp_path: Path) -> None:
    make_run(tmp_path / "only")
    uri = default_uri(tmp_path)
    assert [deliver_all(tmp_path, uri), deliver_all(tmp_path, uri)] == [1, 0]


def test_four_processes_may_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    runs = [make_run(tmp_path / name) for name in "abcd"]
    workers = [context.Process(target=deliver_stage, args=(run, default_uri(tmp_path), tmp_path)) for run in runs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4


def test_secrets_are_left_out_of_messages() -> None:
    assert without_secrets("postgresql://me:pw@host/db") == "postgresql://host/db"
