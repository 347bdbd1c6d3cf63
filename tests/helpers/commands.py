"""Commands in processes of their own, forked from a server that has imported everything: real ones, started at once."""

import multiprocessing.forkserver
import os
import sys
from collections.abc import Callable
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
