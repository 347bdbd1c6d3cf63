import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.errors import RunError
from mae.pretext.registry import new_pretext
from mae.probing import feature_memory
from mae.probing.feature_memory import gathered, near
from mae.probing.features import extract
from mae.probing.probe import probe, probe_all
from mae.probing.subject import Setup, Subject
from mae.runs.directory import RunDirectory
from mae.runtime.autocast import encoding_precision
from mae.runtime.interruption import Interrupted, StopRequest
from mae.runtime.progress import Silent

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the cache folder, in which features then are."""
    monkeypatch.setattr(feature_memory, "free_memory", lambda device: 0)
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def open_files(folder: Path) -> list[str]:
    """Return the files in a folder that this process has mapped, also those without a name."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if str(folder) in line]


def test_rows_are_gathered_in_order_as_float32() -> None:
    parts = [torch.tensor([[1, 2], [3, 4]], dtype=torch.bfloat16), torch.tensor([[5.0, 6.0]])]
    assert torch.equal(gathered(iter(parts), 3), torch.tensor([[1.0, 2], [3, 4], [5, 6]]))


def test_features_that_do_not_fit_in_memory_lie_in_a_file_that_no_one_has_to_remove(no_memory: Path) -> None:
    parts = torch.arange(1200.0).view(300, 4).split(70)
    features = gathered(parts, 300)
    assert torch.equal(features, torch.cat(parts))
    assert open_files(no_memory)
    assert not any(no_memory.iterdir())  # so a process that is killed leaves nothing
    del features
    assert not open_files(no_memory)


def test_memory_is_taken_up_to_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch, no_memory: Path) -> None:
    part = torch.zeros(1000, 5)
    for free, files in ((2 * part.nbytes, 0), (2 * part.nbytes - 1, 1)):
        monkeypatch.setattr(feature_memory, "free_memory", lambda device, free=free: free)
        kept = gathered([part], 1000)
        assert len(open_files(no_memory)) == files
        del kept


def test_features_go_to_a_device_that_has_twice_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.zeros(10, 5)
    for free, place in ((401, META), (400, CPU)):
        monkeypatch.setattr(feature_memory, "free_memory", lambda device, free=free: free)
        assert near(features, META).device == place


def test_a_disk_without_room_for_features_is_told(no_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match=r"features take 0.0 GB.*No space left on device.*MAE_CACHE_DIR"):
        gathered([torch.zeros(3, 2)], 3)
    assert not any(no_memory.iterdir())


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_probe_of_features_in_a_file_finds_the_same(
    kind: Any, tiny: Config, digits: ImageData, no_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, images = Setup(tiny, digits, CPU, Silent()), Subject("pixels", "0123", None)
    in_file = probe(kind, images, setup)
    assert len(open_files(no_memory)) == 2
    monkeypatch.setattr(feature_memory, "free_memory", lambda device: 1e9)
    assert probe(kind, Subject("pixels", "0123", None), setup) == in_file


def test_a_probe_that_is_stopped_leaves_no_file(tiny: Config, digits: ImageData, no_memory: Path) -> None:
    stop = StopRequest()
    stop.number = signal.SIGTERM
    with pytest.raises(Interrupted):
        probe("knn", Subject("pixels", "0123", None), Setup(tiny, digits, CPU, Silent(), stop))
    assert not any(no_memory.iterdir())


def test_features_are_let_go_after_the_last_probe_and_before_those_of_the_next_subject(
    tiny: Config, digits: ImageData, tmp_path: Path
) -> None:
    first, second = Subject("pretrained", "01", None), Subject("pixels", "02", None)
    held: list[int] = []

    class Watching(Silent):
        def task(self, description: str, total: int, done: int = 0, unit: str = "") -> Any:
            held.append(len(first.features))
            return super().task(description, total, done, unit)

    setup = Setup(tiny, digits, CPU, Watching())
    probe_all("knn", [first, second], setup, tmp_path / "kept", RunDirectory(tmp_path / "saved"), last=False)
    assert [len(subject.features) for subject in (first, second)] == [2, 2]
    second.features.clear()
    held.clear()
    probe_all("knn", [first, second], setup, tmp_path / "let go", RunDirectory(tmp_path / "saved"), last=True)
    assert held == [0, 0]  # at the features of train and test of the second
    assert second.features == {}


def test_a_gpu_encodes_in_bf16_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    for can, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, can=can: can)
        assert encoding_precision(torch.device("cuda")) == expected
        assert encoding_precision(CPU) == "fp32"


def test_features_computed_in_bf16_are_float32_and_nearly_the_same(
    tiny: Config, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def features() -> torch.Tensor:
        return extract(new_pretext(tiny, digits), digits.test.images, torch.arange(9), "both", CPU, Silent())

    exact = features()
    monkeypatch.setattr("mae.probing.features.encoding_precision", lambda device: "bf16")
    rounded = features()
    assert rounded.dtype == torch.float32
    assert torch.allclose(rounded, exact, atol=0.05)
    assert not torch.equal(rounded, exact)
