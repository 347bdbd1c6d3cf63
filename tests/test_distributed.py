"""Several processes, over gloo: the same numbers, one voice, and whatever happens to one of them."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from mae import checkpoints
from mae.run_directory import RunDirectory, find_runs, status_of
from tests.conftest import TINY

SMALL = TINY | {"train.batch_size": 252, "train.epochs": 4}
"""20 steps of a batch that 2 and 3 processes can share."""


def command(runs_dir: Path, settings: dict[str, Any], name: str = "pretrain") -> list[str]:
    fixed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [name, *fixed, "--runs-dir", str(runs_dir), "--tracking-uri", "none", "--device", "cpu"]


class Group:
    """Processes as torchrun starts them, forked from a server; what they say lands in files."""

    def __init__(self, count: int, arguments: Sequence[Sequence[str]], folder: Path):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ablations.worker"])
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.said = [folder / f"process-{rank}.txt" for rank in range(count)]
        self.processes: list[ForkServerProcess] = []
        for rank in range(count):
            environment = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment |= {"MAE_CACHE_DIR": os.environ["MAE_CACHE_DIR"]}
            given = (list(arguments[rank % len(arguments)]), environment, str(self.said[rank]))
            self.processes.append(context.Process(target=one_of_them, args=given))
            self.processes[-1].start()

    def wait(self) -> list[int | None]:
        """Return the exit codes."""
        for process in self.processes:
            process.join(100)
            assert process.exitcode is not None, [said.read_text() for said in self.said]
        return [process.exitcode for process in self.processes]

    def texts(self) -> list[str]:
        return [said.read_text() for said in self.said]


def one_of_them(arguments: list[str], environment: dict[str, object], said: str) -> None:
    from cli import app

    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    with open(said, "w") as sys.stdout:
        sys.stderr = sys.stdout
        app(arguments)


def run_together(count: int, runs_dir: Path, settings: dict[str, Any]) -> Group:
    runs_dir.mkdir(exist_ok=True, parents=True)
    return Group(count, [command(runs_dir, settings)], runs_dir)


def the_run(runs_dir: Path) -> RunDirectory:
    (found,) = find_runs(runs_dir)
    return found


def weights(runs_dir: Path) -> dict[str, torch.Tensor]:
    state = checkpoints.latest(the_run(runs_dir).checkpoints)
    assert state is not None
    return dict(state["model"])
