"""CPU threads of a process: how many at most, and how they wait. Light: both count before PyTorch is imported."""

import os
from collections.abc import Callable

from joblib import cpu_count  # heeds affinity and a container's share of the cores


def limited(threads: int) -> int:
    """Return `threads`, or what `OMP_NUM_THREADS` says, if that is less: the user's limit holds for every process."""
    most = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # further numbers are for nested teams
    return min(threads, int(most)) if most.isdigit() and int(most) else threads


def wait_passively(say: Callable[[str], None], workers: int = 1) -> None:
    """Have threads sleep while they wait, where cores are shared: several `workers`, or a load above the cores.

    A thread that waits actively holds its core, which others need; on cores of its own it is a few percent faster.
    Acts on PyTorch in this process, if it is not imported yet, and in processes begun later. A user who has set
    `OMP_WAIT_POLICY` has chosen.
    """
    if "OMP_WAIT_POLICY" not in os.environ and (workers > 1 or os.getloadavg()[0] > cpu_count()):
        os.environ["OMP_WAIT_POLICY"] = "passive"
        say("cores are shared: threads wait passively")
