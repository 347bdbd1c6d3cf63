"""Commands in processes of their own, forked from a server that has imported everything: real ones, started at once."""

import multiprocessing.forkserver
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ablations.execution.forkserver import fork_context
from cli import app


class Forked:
    """A process whose life is a call of `life`; it has this one's cache folder."""

    def __init__(self, life: Callable[..., Any], *arguments: Any, **more: Any) -> None:
        if "MUTANT_UNDER_TEST" in os.environ:
            pytest.skip("a process for each mutant would take hours (tests/mutants.py)")
        whole = (os.environ["MAE_CACHE_DIR"], life, arguments, more)
        self.process = fork_context().Process(target=_live, args=whole)
        self.process.start()
        self.pid = self.process.pid or 0

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def lives(self) -> bool:
        return self.process.is_alive()

    def code(self) -> int | None:
        """Wait for its end; return its exit code, or minus the signal that killed it."""
        self.process.join(300)
        return self.process.exitcode


def _live(cache_dir: str, life: Callable[..., Any], arguments: tuple[Any, ...], more: dict[str, Any]) -> None:
    os.environ["MAE_CACHE_DIR"] = cache_dir
    torch.set_num_threads(1)
    # It has the address of the server that it was forked from, but Python would start another one for its own workers.
    running: Any = multiprocessing.forkserver
    running.ensure_running = running._forkserver.ensure_running = lambda: None
    life(*arguments, **more)


def mae_cli(said: Path, arguments: list[str], environment: dict[str, str] | None = None) -> None:
    """Be `mae-cli` with these arguments and additions to the environment; all that it says lands in a file."""
    os.environ.update(environment or {})
    with open(said, "w") as sys.stdout:
        sys.stderr = sys.stdout
        app(arguments)


class Group:
    """Processes with the surroundings that torchrun gives them; what they say lands in files."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[list[str]],
        last: Callable[..., None] = mae_cli,
        others: Callable[..., None] = mae_cli,
    ):
        """Start a process per list of arguments; `last` is the life of the last one."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        count = len(arguments)
        counts = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        folder.mkdir(parents=True, exist_ok=True)
        self.said = [folder / f"process-{rank}.txt" for rank in range(count)]
        self.processes: list[Forked] = []
        for rank, given in enumerate(arguments):
            environment = counts | address | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            life = last if rank == count - 1 else others
            self.processes.append(Forked(life, self.said[rank], given, environment))

    def send(self, number: int, ranks: Sequence[int]) -> None:
        for rank in ranks:
            self.processes[rank].send(number)

    def wait(self) -> tuple[list[int | None], list[str]]:
        """Return the exit codes and what was said."""
        return [process.code() for process in self.processes], [said.read_text() for said in self.said]
