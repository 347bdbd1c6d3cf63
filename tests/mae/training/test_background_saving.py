"""What the thread writes, when it may, and how what it fails with is told; the thread is held where a test says so."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mae.errors import RunError
from mae.training import checkpoints
from mae.training.background_saving import Saver, seconds_apart

CPU = torch.device("cpu")

save_really = checkpoints.save


class Disk:
    """Notes which steps are written, each once `answers` is set."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.written: list[int] = []

    def save(self, folder: Path, step: int, state: dict[str, Any]) -> None:
        assert self.answers.wait(20)
        save_really(folder, step, state)
        self.written.append(step)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(checkpoints, "save", disk.save)
    yield disk
    disk.answers.set()


@pytest.mark.parametrize(
    ("at_least", "lost", "expected"), [(120.0, 0.0, 120.0), (120.0, 1.0, 120.0), (120.0, 3.0, 300.0), (0.0, 3.0, 0.0)]
)
def test_training_loses_a_hundredth_of_its_time_at_most(at_least: float, lost: float, expected: float) -> None:
    assert seconds_apart(at_least, lost) == pytest.approx(expected)


def test_what_is_written_is_the_state_at_the_beginning(disk: Disk, tmp_path: Path) -> None:
    weights, moment, rates = torch.arange(4.0), torch.ones(2, 2), [{"lr": 0.5}]
    disk.answers.clear()
    with Saver(tmp_path, CPU) as saver:
        saver.begin(1, {"step": 1, "pretext": {"w": weights}, "optimizer": {"state": {0: [moment]}, "groups": rates}})
        weights += 1
        moment.zero_()
        disk.answers.set()
    found = checkpoints.load(checkpoints.checkpoint(tmp_path, 1))
    assert found["pretext"]["w"].tolist() == [0, 1, 2, 3]
    assert found["optimizer"]["state"][0][0].tolist() == [[1, 1], [1, 1]]
    assert (found["step"], found["optimizer"]["groups"]) == (1, rates)


def test_copies_share_their_memory_and_have_the_shapes_that_are_there(disk: Disk, tmp_path: Path) -> None:
    with Saver(tmp_path, CPU) as saver:
        saver.begin(1, {"a": torch.ones(3), "b": torch.ones(2)})
        place = saver.memory[0].data_ptr()
        saver.begin(2, {"a": torch.zeros(3), "b": torch.zeros(4), "c": torch.zeros(1)})
        assert saver.memory[0].data_ptr() == place
    assert [len(each) for each in checkpoints.load(checkpoints.checkpoint(tmp_path, 2)).values()] == [3, 4, 1]


def test_the_next_copy_waits_until_the_last_is_written(disk: Disk, tmp_path: Path) -> None:
    weights = torch.zeros(1)
    disk.answers.clear()
    with Saver(tmp_path, CPU) as saver:
        saver.begin(1, {"w": weights})
        weights += 1
        threading.Timer(0.05, disk.answers.set).start()
        saver.begin(2, {"w": weights})
    for step in (1, 2):
        assert checkpoints.load(checkpoints.checkpoint(tmp_path, step))["w"].tolist() == [step - 1]


def test_what_is_saved_without_a_copy_is_written_after_what_was_begun(disk: Disk, tmp_path: Path) -> None:
    disk.answers.clear()
    with Saver(tmp_path, CPU) as saver:
        saver.begin(1, {})
        threading.Timer(0.05, disk.answers.set).start()
        saver.save(2, {})
        assert disk.written == [1, 2]


def test_no_checkpoint_is_due_while_one_is_written_unless_every_step_is(disk: Disk, tmp_path: Path) -> None:
    disk.answers.clear()
    with Saver(tmp_path, CPU) as saver:
        assert saver.due(1e-9)
        saver.begin(1, {})
        saver.began = 0.0  # an age ago
        assert not saver.due(1e-9)
        assert saver.due(0)
        disk.answers.set()
        finished(saver)
        assert saver.due(1e-9)


def finished(saver: Saver) -> None:
    """Wait until the thread is done, without looking at what it has ended with."""
    assert saver.writing is not None
    saver.writing.exception(20)


@pytest.mark.parametrize(("device", "lost"), [("cpu", 0.5 + 2.0), ("cuda", 0.5)])
def test_the_threads_computing_counts_where_training_needs_its_core(
    device: str, lost: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, computed, done = [100.0], [0.0], []

    def copy(saver: Saver, state: dict[str, Any]) -> dict[str, Any]:
        now[0] += 0.5
        return state

    def save(folder: Path, step: int, state: dict[str, Any]) -> None:
        now[0] += 30.0
        computed[0] += 2.0

    clock = SimpleNamespace(monotonic=lambda: now[0], thread_time=lambda: computed[0])
    monkeypatch.setattr("mae.training.background_saving.time", clock)
    monkeypatch.setattr(Saver, "_copy", copy)
    monkeypatch.setattr(checkpoints, "save", save)
    with Saver(tmp_path, torch.device(device)) as saver:
        saver.begin(1, {})
        finished(saver)
        for now[0] in (100 + 100 * lost - 0.1, 100 + 100 * lost + 0.1):
            done.append(saver.due(3.0))
    assert done == [False, True]


def test_a_copy_from_a_gpu_is_complete_before_it_is_written(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Saver(Path(), torch.device("cuda", 1))
    waited: list[tuple[torch.device, int]] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append((device, len(saver.memory))))
    saver._copy({"a": torch.ones(1), "b": [torch.ones(1)]})
    assert waited == [(torch.device("cuda", 1), 2)]  # after the last tensor


LOOKS: dict[str, Callable[[Saver], object]] = {
    "due": lambda saver: saver.due(120.0),
    "begin": lambda saver: saver.begin(2, {}),
    "save": lambda saver: saver.save(2, {}),
    "end": lambda saver: saver.__exit__(None, None, None),
}


@pytest.mark.parametrize("look", LOOKS)
def test_what_the_thread_fails_with_is_told_at_the_next_look(
    look: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: object, path: Path) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with Saver(tmp_path, CPU) as saver:
        saver.begin(1, {})
        finished(saver)
        with pytest.raises(RunError, match=r"cannot write .*step-00000001\.pt: PytorchStreamWriter failed"):
            LOOKS[look](saver)


def test_after_an_error_too_the_thread_ends_first(disk: Disk, tmp_path: Path) -> None:
    disk.answers.clear()
    threading.Timer(0.05, disk.answers.set).start()
    with suppress(ZeroDivisionError), Saver(tmp_path, CPU) as saver:
        saver.begin(1, {})
        1 / 0  # noqa: B018
    assert disk.written == [1]
    assert not any(each.name.startswith("checkpoints") for each in threading.enumerate())
