"""What the machine spends on a stage: memory and, on a GPU, how busy it is."""

import math
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def system_metrics(device: torch.device) -> dict[str, float]:
    """Return what belongs to a point of the curves, memory in MB of 10^6 bytes.

    `system/peak_memory_mb`: most memory so far; on CUDA that of PyTorch's tensors on `device`, elsewhere the resident
    memory of the whole process since it started, imports and data included.
    On CUDA also, of the whole GPU and all processes on it: `system/gpu_memory_mb`, in use now, and
    `system/gpu_utilization`, percent of about the last second in which a kernel ran; left out where there is no NVML.
    """
    if device.type != "cuda":
        return {"system/peak_memory_mb": _peak_resident() / 1e6}
    free, total = torch.cuda.mem_get_info(device)
    metrics = {
        "system/peak_memory_mb": torch.cuda.max_memory_allocated(device) / 1e6,
        "system/gpu_memory_mb": (total - free) / 1e6,
    }
    with suppress(Exception):  # no NVML, or one that knows no utilisation (a MIG slice)
        metrics["system/gpu_utilization"] = float(torch.cuda.utilization(device))
    return metrics


def _peak_resident() -> int:
    """Return the process's peak resident memory, bytes."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text()  # on Linux ru_maxrss begins with the peak of the parent process
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def free_memory(device: torch.device, root: Path = Path("/")) -> float:
    """Return the bytes that a process can still take on a device; of the host, infinity where Linux does not tell.

    On CUDA what PyTorch holds in reserve is free. On the host limits of a container or a batch job (cgroup 2) count,
    and files that the system keeps in memory are free.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = math.inf
    with suppress(OSError, IndexError):
        meminfo = (root / "proc/meminfo").read_text()
        free = int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024
        group = Path((root / "proc/self/cgroup").read_text().split("0::/")[1].partition("\n")[0])
        for folder in (group, *group.parents):
            free = min(free, _left_in_group(root / "sys/fs/cgroup" / folder))
    return free


def _left_in_group(folder: Path) -> float:
    """Return the bytes that the processes of a cgroup can still take together, infinity if it has no limit."""
    try:
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # the root group has no such files, others may say "max"
        return math.inf
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return limit - used + sum(int(statistics[name]) for name in ("active_file", "inactive_file"))
