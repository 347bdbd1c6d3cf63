"""Where a Ray cluster is, and whether anyone listens there; without Ray itself, which takes a minute to tell."""

import os
import socket

from mae.errors import UserError, first_line


def cluster_address(given: str | None) -> str:
    """Return the address that was given, or that of the environment; `local` is a cluster of this machine's own."""
    return given or os.environ.get("RAY_ADDRESS") or "local"


def reach(address: str) -> None:
    """Raise `UserError` for an address of another form than Ray's, or one that names a port at which nobody listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise no_cluster(address, error) from None
    elif address not in ("local", "auto") and "://" not in address:  # what other schemes mean, Ray knows
        raise UserError(f"--address {address}: expected HOST:PORT, ray://HOST:PORT, auto or local")


def no_cluster(address: str, error: Exception) -> UserError:
    """Return what to say where no Ray answers."""
    return UserError(f"no Ray cluster at {address}: {first_line(error).rstrip('.')}. Start one with `ray start --head`")
