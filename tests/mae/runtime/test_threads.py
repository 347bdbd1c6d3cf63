"""How many threads a process has, and how they wait, where it counts: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mae.runtime.threads import limited, wait_passively

FULL, FREE = 1000.0, 0.0
"""Loads of the machine: above any number of cores, and none."""


@pytest.mark.parametrize(("limit", "threads"), [("3", 3), ("8", 4), ("2,1", 2), ("", 4), ("0", 4), ("many", 4)])
def test_the_users_limit_holds(limit: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert limited(4) == threads


@pytest.mark.parametrize(
    ("load", "workers", "policy", "after"),
    [
        (FULL, 1, None, "passive"),
        (FREE, 2, None, "passive"),
        (FREE, 1, None, None),
        (FULL, 2, "active", "active"),
    ],
)
def test_threads_wait_passively_on_shared_cores_unless_the_user_has_chosen(
    load: float, workers: int, policy: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", policy or "")
    if policy is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    said: list[str] = []
    wait_passively(said.append, workers)
    assert os.environ.get("OMP_WAIT_POLICY") == after
    assert said == (["cores are shared: threads wait passively"] if after == "passive" else [])


def python(code: str, path: Path, *arguments: str) -> str:
    """Return what a fresh Python prints that finds modules in `path` first and has a busy machine."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    busy = f"import os; os.getloadavg = lambda: ({FULL}, {FULL}, {FULL})\n"
    paths = os.pathsep.join([str(path), str(Path(__file__).parents[3])])
    command = [sys.executable, "-c", busy + code, *arguments]
    done = subprocess.run(command, env=environment | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    return done.stdout


@pytest.mark.parametrize("command", ["pretrain", "run"])
def test_a_run_on_busy_cores_chooses_before_it_imports_torch(command: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os; print('torch:', os.environ['OMP_WAIT_POLICY']); os._exit(0)")
    said = python("import sys, cli; cli.app(sys.argv[1:])", tmp_path, command, "--runs-dir", str(tmp_path / "runs"))
    assert said.splitlines() == ["cores are shared: threads wait passively", "torch: passive"]


def test_workers_on_busy_cores_have_it_in_their_environment(tmp_path: Path) -> None:
    for name in ("torch", "matplotlib", "sklearn"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")  # which the server takes, and is up at once
    code = (
        "from ablations.execution.executor import Executor; from ablations.execution.forkserver import fork_context\n"
        "Executor().prepare(lambda line: None)\n"
        "worker = fork_context().Process(target=os.system, args=('echo worker: $OMP_WAIT_POLICY',))\n"
        "worker.start(); worker.join()"
    )
    assert python(code, tmp_path) == "worker: passive\n"
