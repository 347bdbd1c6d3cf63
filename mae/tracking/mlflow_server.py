"""MLflow's own server, for the page of the runs on this machine."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

from mae.errors import RunError, UserError


def free_port(wanted: int | None) -> int:
    """Return the port if a server on this machine can take it, or, where none is wanted, 5000 or a free one."""
    for port in (5000, 0) if wanted is None else (wanted,):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just been left is free
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise UserError(f"--port {wanted}: another program uses it, or it is reserved; leave --port out for a free one")


def serve(uri: str, port: int) -> None:
    """Serve the page of the store at `uri` until Ctrl-C, SIGTERM or SIGHUP; `RunError` if the server ends by itself."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--uvicorn-opts", "--log-level warning"]
    quiet = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes that nobody needs here
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for ending in (signal.SIGTERM, signal.SIGHUP):  # the second, where the terminal is closed
        signal.signal(ending, signal.default_int_handler)
    # In a session of its own Ctrl-C does not reach it, which would be met with a traceback.
    server = subprocess.Popen(command, env=os.environ | quiet, start_new_session=True)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)  # its workers too
        server.wait()
        return
    raise RunError(f"MLflow's server has ended with exit code {code}")
