"""Who does the jobs of a command: worker processes on this machine, or workers on the nodes of a Ray cluster."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ablations.forking import start_server
from mae.errors import UserError
from mae.mlflow_store import first_line

if TYPE_CHECKING:
    from ablations.crew import Crew


def no_cluster(address: str, error: Exception) -> UserError:
    """Return what to say where no Ray answers."""
    reason = first_line(error).rstrip(".")
    return UserError(f"no Ray cluster at {address}: {reason}. Start one with `ray start --head`")


@dataclass(frozen=True)
class Executor:
    """Where jobs run and how many at a time; `address` is a Ray cluster's, without one Ray starts on this machine.

    Raises `UserError` if that cannot be.
    """

    device: str = "auto"
    workers: int | None = None
    per_gpu: int = 1
    kind: Literal["local", "ray"] = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.address and self.kind != "ray":
            raise UserError(f"--address {self.address}: only --executor ray has an address")
        if self.kind == "ray" and find_spec("ray") is None:
            raise UserError("--executor ray needs Ray, which is not installed: pip install 'mae-cli[cluster]'")
        host, _, port = self.cluster.removeprefix("ray://").rpartition(":")
        if self.kind == "ray" and port.isdigit():  # Ray would take more than a minute to say that nobody is there
            try:
                socket.create_connection((host, int(port)), timeout=10).close()
            except OSError as error:
                raise no_cluster(self.cluster, error) from None

    @property
    def cluster(self) -> str:
        """Where Ray is; `local` for a cluster that is started on this machine."""
        return self.address or os.environ.get("RAY_ADDRESS") or "local"

    def prepare(self) -> None:
        """Have the server that workers are forked from import PyTorch while this process does so itself."""
        if self.kind == "local":
            start_server()

    @contextmanager
    def crew(self, runs_dir: Path) -> Iterator["Crew"]:
        """Yield the crew. To be entered before signals are handled: Ray takes SIGTERM for itself when it starts."""
        # Both crews import PyTorch, which a finished study can do without.
        if self.kind == "local":
            from ablations.local_crew import LocalCrew, places

            yield LocalCrew(places(self.device, self.workers, self.per_gpu, runs_dir))
            return
        from ablations.ray_crew import ray_crew

        with ray_crew(self.cluster, self.device, self.workers, self.per_gpu, runs_dir) as crew:
            yield crew
