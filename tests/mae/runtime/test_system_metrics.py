import math
from pathlib import Path

import pytest
import torch

from mae.runtime.system_metrics import free_memory, system_metrics

CUDA = torch.device("cuda", 0)


@pytest.fixture
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 10 MB, 7 of them in use, 4 by tensors at most."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3_000_000, 10_000_000))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 4_000_000)


def test_peak_memory_does_not_fall_when_memory_is_freed() -> None:
    block = torch.ones(50_000_000)  # 200 MB
    during = system_metrics(torch.device("cpu"))["system/peak_memory_mb"]
    del block
    after = system_metrics(torch.device("cpu"))["system/peak_memory_mb"]
    assert after == pytest.approx(during, rel=0.02)  # the kernel counts pages in batches
    assert during > 200


@pytest.mark.usefixtures("_gpu")
def test_a_gpu_tells_memory_and_utilization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 93)
    expected = {"system/peak_memory_mb": 4.0, "system/gpu_memory_mb": 7.0, "system/gpu_utilization": 93.0}
    assert system_metrics(CUDA) == expected


@pytest.mark.usefixtures("_gpu")
def test_utilization_is_left_out_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_nvml(device: torch.device) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "utilization", without_nvml)
    assert "system/gpu_utilization" not in system_metrics(CUDA)


@pytest.mark.usefixtures("_gpu")
def test_what_pytorch_holds_in_reserve_on_a_gpu_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000_000)
    assert free_memory(CUDA) == 7_000_000


def machine(root: Path, groups: dict[str, tuple[str, int]]) -> Path:
    """Write what Linux tells of 7,813 kB free and of cgroups: their limit, and what they use but for files."""
    files = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 7813 kB\n"}
    files["proc/self/cgroup"] = "4:memory:/other\n0::/slurm/job\n"
    for name, (limit, used) in groups.items():
        files[f"sys/fs/cgroup/{name}/memory.max"] = f"{limit}\n"
        files[f"sys/fs/cgroup/{name}/memory.current"] = f"{used + 300}\n"
        files[f"sys/fs/cgroup/{name}/memory.stat"] = f"anon {used}\nactive_file 100\ninactive_file 200\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "free"),
    [
        ({}, 7813 * 1024),
        ({"slurm/job": ("5000", 2000), "slurm": ("max", 2000)}, 3000),
        ({"slurm/job": ("5000", 2000), "slurm": ("6000", 4500)}, 1500),  # shared with others
        ({"slurm/job": ("max", 2000), ".": ("6000", 2000)}, 4000),  # as a container sees its own limit
        ({"other": ("10", 5)}, 7813 * 1024),
    ],
)
def test_free_memory_is_the_machines_or_what_a_batch_job_may_still_take(
    groups: dict[str, tuple[str, int]], free: int, tmp_path: Path
) -> None:
    assert free_memory(torch.device("cpu"), machine(tmp_path, groups)) == free


def test_free_memory_is_without_limit_where_it_is_not_told(tmp_path: Path) -> None:
    assert free_memory(torch.device("cpu"), tmp_path) == math.inf
