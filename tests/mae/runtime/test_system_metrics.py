import pytest
import torch

from mae.runtime.system_metrics import system_metrics

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
