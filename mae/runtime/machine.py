"""The machine that a stage runs on: its device, and what a result depends on besides settings and images."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mae import __version__
from mae.errors import SettingsError, UserError, first_line
from mae.runtime.distributed import ALONE, Processes

CONDITIONS = ("device_name", "processes", "threads")
"""What the time and memory of a stage depend on besides its settings."""


def choose_device(name: str, processes: Processes = ALONE) -> torch.device:
    """Return the device `auto`, `cpu`, `cuda`, `cuda:N` or `mps` names; `UserError` if this machine has no such one.

    Of several processes each takes a GPU of its own. `auto` is CUDA or the CPU: MPS has to be asked for.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "mps":
        _check_mps(processes)
    if processes.count > 1 and device.type == "cuda":
        if device.index is not None:
            raise UserError(f"--device {name}: each of {processes.count} processes takes a GPU of its own; give cuda")
        if (gpus := torch.cuda.device_count()) < processes.local_count:
            raise UserError(
                f"--device {name}: this machine has {gpus} GPU(s) for {processes.local_count} processes; "
                f"give torchrun --nproc-per-node {gpus}, or --device cpu"
            )
        device = torch.device("cuda", processes.local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA device(s); try cpu")
    return device


def _check_mps(processes: Processes) -> None:
    """Raise `UserError` if Apple's GPU is not there, or several processes are to share it."""
    if not torch.backends.mps.is_available():
        why = "is built without MPS" if not torch.backends.mps.is_built() else "finds no GPU of Apple's"
        raise UserError(f"--device mps: PyTorch {torch.__version__} {why}; give cpu")
    if processes.count > 1:
        raise UserError(f"--device mps: {processes.count} processes cannot exchange gradients on it; give cpu")


def use_deterministic_kernels(wanted: bool) -> None:
    """Compute the same bits each time on one kind of device, if `wanted`, or as fast as can be.

    cuBLAS needs a workspace of its own size for that; it looks for the variable when it is first used.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)


def environment(device: torch.device, processes: Processes) -> dict[str, Any]:
    """Return what a result depends on besides config and data."""
    import numpy
    import timm
    import torchvision

    return {
        "command": shlex.join([Path(sys.argv[0]).name.replace("cli.py", "mae-cli"), *sys.argv[1:]]),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "numpy": numpy.__version__,
        "device": str(device),
        "device_name": device_name(device),
        "processes": processes.count,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "host": platform.node(),
    }


def version() -> str:
    """Return a line on the program, its commit, Python, PyTorch and the device that `auto` names."""
    found = environment(choose_device("auto"), ALONE)
    commit = f" (commit {found['git_commit']})" if found["git_commit"] else ""
    return f"mae-cli {__version__}{commit}, Python {found['python']}, torch {found['torch']}, {found['device_name']}"


def device_name(device: torch.device) -> str:
    """Return what a GPU or processor is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name()


def _processor_name() -> str:
    """Return the processor's model where Linux tells it, else its architecture: `platform` knows no more."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(models), "") or platform.processor() or platform.machine()


def _git_commit() -> str:
    """Return the commit of the code that runs, with `+` if it was changed, or "" outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=here.parent, stderr=subprocess.DEVNULL, text=True)

    here = Path(__file__)
    try:
        git("ls-files", "--error-unmatch", here.name)  # it may be installed within somebody else's checkout
        return git("describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*").strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@contextmanager
def limits_explained() -> Iterator[None]:
    """Within the block, say what to do where the memory of a device is used up, or nothing can be compiled for it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = "raise train.micro_batches or set train.checkpoint_blocks"
        raise SettingsError(f"out of memory: {first_line(error)}; {advice}") from error
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise SettingsError(f"this machine cannot compile: {first_line(error)}; give train.compile=off") from error
