"""Tracking servers that hang, fail and die under a real pretraining: the same weights, and later every point once."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import torch
from mlflow import MlflowClient

from mae.config.tree import Config
from mae.pipeline import Workplace, run_pretraining
from mae.runs.directory import RunDirectory
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Silent
from mae.tracking import background_delivery as tracking
from mae.tracking.mlflow_store import default_uri

App = Callable[[dict[str, Any], Callable[..., Any]], Any]


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None: ...


def serve(app: App) -> Iterator[str]:
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def hanging() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel accepts; nobody answers
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def failing() -> Iterator[str]:
    def app(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        start("500 Internal Server Error", [])
        return [b"no"]

    yield from serve(app)


class Mortal:
    """A real MLflow server that dies, once, right after it stored its `deaths`-th batch: the answer is lost."""

    def __init__(self, app: App):
        self.app, self.batches, self.dead = app, 0, False

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        answer = [] if self.dead else self.app(environ, start)
        if environ["PATH_INFO"].endswith("log-batch"):
            self.batches += 1
            self.dead = self.dead or self.batches == 3
        if self.dead:
            raise ConnectionResetError
        return answer


@pytest.fixture
def mortal(store: Path) -> Iterator[tuple[Mortal, str]]:
    from mlflow.server import app, handlers

    handlers.initialize_backend_stores(default_uri(store), default_artifact_root=str(store / "artifacts"))
    server = Mortal(app)
    for uri in serve(server):
        yield server, uri


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a good store: a fresh one costs seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(tracking, "EVERY", 0.05)


def pretrain(config: Config, runs_dir: Path, uri: str) -> RunDirectory:
    work = Workplace(runs_dir, uri, torch.device("cpu"), Silent(), StopRequest())
    return run_pretraining(config, work)


def assert_unharmed(run: RunDirectory, tiny: Config, tmp_path: Path) -> None:
    untracked = pretrain(tiny, tmp_path / "untracked", "none")
    assert run.result()["weights_sha256"] == untracked.result()["weights_sha256"]


def assert_delivered_once(run: RunDirectory, uri: str) -> None:
    """Every point and every result is in the store, once."""
    client = MlflowClient(uri)
    (found,) = client.search_runs(
        [client.get_experiment_by_name("mae").experiment_id], f"tags.`mae.directory` = '{run.path.resolve()}'"
    )
    points = run.read_metrics()
    for name in points[0]["metrics"]:
        history = client.get_metric_history(found.info.run_id, name)
        expected = [(point["step"], point["metrics"][name]) for point in points]
        assert sorted((point.step, point.value) for point in history) == expected, name
    for name in run.result()["metrics"]:
        assert len(client.get_metric_history(found.info.run_id, name)) == 1, name
    assert found.info.status == "FINISHED"


@pytest.mark.parametrize("fault", ["hanging", "failing"])
def test_a_server_that_never_works_harms_nothing(
    fault: str, tiny: Config, tmp_path: Path, store: Path, request: pytest.FixtureRequest
) -> None:
    run = pretrain(tiny, tmp_path / "runs", request.getfixturevalue(fault))
    assert_unharmed(run, tiny, tmp_path)
    tracking.deliver_all(tmp_path / "runs", default_uri(store))
    assert_delivered_once(run, default_uri(store))


def test_a_server_that_dies_after_storing_a_batch_gets_nothing_twice(
    mortal: tuple[Mortal, str], tiny: Config, tmp_path: Path
) -> None:
    server, uri = mortal
    run = pretrain(tiny, tmp_path / "runs", uri)
    assert server.dead
    assert_unharmed(run, tiny, tmp_path)
    server.dead = False
    tracking.deliver_all(tmp_path / "runs", uri)
    assert_delivered_once(run, uri)


def test_a_call_that_hangs_does_not_keep_the_process(hanging: str, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from mae.tracking import background_delivery as tracking
from mae.runs.directory import RunDirectory
tracking.LAST_WAIT = 1
with tracking.tracked(RunDirectory(Path({str(tmp_path)!r})), {hanging!r}, Path({str(tmp_path)!r}), print):
    pass
"""
    environment = os.environ | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3600"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=600, check=True
    )
    assert "no answer" in done.stdout
