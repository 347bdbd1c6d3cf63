"""What the machine spends on a stage: memory and, on a GPU, how busy it is."""

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
