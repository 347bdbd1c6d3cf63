"""A real PostgreSQL server holds the Optuna study and the MLflow store."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import psycopg
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from ablations.sweeps.storage import opened
from cli import app
from mae.errors import UserError


def binary(name: str) -> str:
    """Where Debian's package has a program of the server, which it keeps off the PATH."""
    known = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(known[-1]) if known else None)
    if found is None:
        pytest.skip(f"there is no {name} of PostgreSQL here; apt-get install postgresql")
    return found


@pytest.fixture
def server() -> Iterator[str]:
    """A temporary server on loopback; gives the start of its databases' URLs."""
    initdb, postgres = binary("initdb"), binary("postgres")
    user = pwd.getpwnam("postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name)  # it refuses root
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="mae-postgresql-"))  # pytest's own is closed to other users
    os.chown(folder, user.pw_uid, user.pw_gid)
    own = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    data = folder / "data"
    subprocess.run([initdb, "-D", data, "-U", "mae", "-A", "trust", "--no-sync"], check=True, **quiet, **own)
    settings = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off"]
    options = [part for setting in settings for part in ("-c", setting)]
    process = subprocess.Popen([postgres, "-D", data, *options], **quiet, **own)
    try:
        url = f"postgresql://mae@127.0.0.1:{port}"
        for database in ("optuna", "mlflow"):
            _make(database, f"{url}/postgres", process)
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # its fast shutdown
        process.wait()
        shutil.rmtree(folder)


def _make(database: str, url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {database}")
            return
        except psycopg.OperationalError:  # it is still starting
            time.sleep(0.1)
    raise RuntimeError("the server has ended")


def test_a_sweep_with_two_workers_lives_on_a_server(server: str, tmp_path: Path, tiny_settings: list[str]) -> None:
    storage, store = f"{server}/optuna", f"{server}/mlflow"
    command = ["sweep", *tiny_settings, "--trials", "12", "--workers", "2", "--study", "s", "--objective", "knn_top1"]
    command += ["--storage", storage, "--tracking-uri", store, "--runs-dir", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout.splitlines()[-1])
    assert len(shown["trials"]) == 12

    trials = optuna.load_study(study_name="s", storage=storage).trials
    assert len(trials) == 12
    assert all(trial.state.is_finished() for trial in trials)

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("mae/s")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert sorted(int(run.data.tags["trial"]) for run in runs if run is not parent) == list(range(12))
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"sweep.json", "best.toml", "trials.csv", "best-so-far.png"} <= artifacts

    with opened(storage, "s", tmp_path), pytest.raises(UserError, match="driven from another"):
        opened(storage, "s", tmp_path).__enter__()
