"""The server that worker processes are forked from. Light: it is started before this process imports PyTorch itself."""

from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext

LATE = ("matplotlib.backends.backend_agg", "matplotlib.figure", "sklearn.datasets")
"""What `mae` imports where it first needs it: in every job anew, a second each, were it not in the server."""


def fork_context() -> ForkServerContext:
    """Return the context whose server has imported all that a job needs."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["ablations.execution.worker", *LATE])
    return context


def start_server() -> None:
    """Have the server import PyTorch while this process does so too."""
    fork_context()
    forkserver.ensure_running()
