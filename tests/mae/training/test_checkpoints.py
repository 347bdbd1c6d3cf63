import errno
import hashlib
import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mae.errors import RunError, UserError
from mae.training import checkpoints
from mae.training.checkpoints import Damaged


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoints.save(folder, step, {"step": step, "weights": torch.arange(4000.0) + step})


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002.pt", "step-00000003.pt"]


def flip(path: Path, position: int) -> None:
    with open(path, "rb+") as file:
        file.seek(position)
        value = file.read(1)[0]
        file.seek(position)
        file.write(bytes([value ^ 1]))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint of 1.4 kB, most of it zip headers."""
    checkpoints.save(tmp_path, 1, {"step": 1, "weights": torch.arange(4.0)})
    return tmp_path / "step-00000001.pt"


def test_a_change_of_any_byte_is_found(small: Path) -> None:
    for position in range(small.stat().st_size):
        flip(small, position)
        with pytest.raises(Damaged, match=r"step-00000001\.pt cannot be used: its checksum differs"):
            checkpoints.load(small)
        flip(small, position)
    assert checkpoints.load(small)["weights"].tolist() == [0, 1, 2, 3]


def test_a_checkpoint_cut_off_anywhere_is_found(small: Path) -> None:
    for length in reversed(range(small.stat().st_size)):
        os.truncate(small, length)
        with pytest.raises(Damaged, match="checksum"):
            checkpoints.load(small)


def test_a_checkpoint_is_read_in_parts_to_its_last_byte(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, {"weights": torch.arange(700_000.0)})
    path = tmp_path / "step-00000001.pt"
    assert path.stat().st_size > 2.5 * 2**20
    assert checkpoints.load(path)["weights"][-1] == 699_999
    for position in (2**20 - 1, 2**20, 2**21 + 1, path.stat().st_size - 33):
        flip(path, position)
        with pytest.raises(Damaged, match="checksum"):
            checkpoints.load(path)
        flip(path, position)


def test_a_sound_checkpoint_is_a_zip_archive_that_torch_reads(small: Path) -> None:
    content = small.read_bytes()
    with zipfile.ZipFile(small) as archive:
        assert archive.comment == hashlib.sha256(content[:-32]).digest()
        assert archive.testzip() is None
    assert content[-34:-32] == b"\x20\x00"  # the comment's length as zip has it; Python reads on if it is wrong
    assert torch.load(small, weights_only=True)["step"] == 1


def test_a_checkpoint_written_on_a_gpu_is_read_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
        checkpoints.save(tmp_path, 1, {"weights": torch.arange(4.0)})
    assert checkpoints.load(tmp_path / "step-00000001.pt")["weights"].device.type == "cpu"


def test_a_checkpoint_that_is_not_there_is_named_and_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step-00000007\.pt cannot be used: no such file") as caught:
        checkpoints.load(checkpoints.checkpoint(tmp_path, 7))
    assert not isinstance(caught.value, Damaged)


def test_all_is_removed_that_can_be(tmp_path: Path) -> None:
    for name, kept in (("whole", []), ("part", ["occupied"])):
        folder = tmp_path / name
        write(folder, 1, 2)
        (folder / "step-00000003.pt.damaged").touch()
        for each in kept:
            (folder / each).mkdir()  # not a file: it cannot be unlinked
        checkpoints.remove(folder)
        assert [path.name for path in folder.glob("*")] == kept
        assert folder.exists() == bool(kept)


def test_damaged_checkpoints_are_set_aside_and_said(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    flip(tmp_path / "step-00000002.pt", 5000)
    said: list[str] = []
    state = checkpoints.latest(tmp_path, said.append)
    assert state is not None
    assert state["step"] == 1
    assert said == ["checkpoint step-00000002 is damaged (its checksum differs) and set aside; continuing from step 1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001.pt", "step-00000002.pt.damaged"]


def test_without_a_sound_checkpoint_the_start_from_nothing_is_said(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    for step in (1, 2):
        flip(tmp_path / f"step-{step:08d}.pt", 5000)
    said: list[str] = []
    assert checkpoints.latest(tmp_path, said.append) is None
    assert [line.rpartition("; ")[2] for line in said] == ["no other checkpoint: starting from step 0"] * 2


def test_new_checkpoints_are_kept_before_older_ones_of_later_steps(tmp_path: Path) -> None:
    write(tmp_path, 8, 9)
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    write(tmp_path, 1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001.pt", "step-00000002.pt"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("not enough memory\nframe #0: c10::alloc_cpu\nframe #1: main"), "not enough memory"),
    ],
)
def test_a_passing_error_is_no_damage(
    error: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)

    def failing(*arguments: object, **more: object) -> None:
        raise error

    for where in ("mae.training.checkpoints.open", "torch.load"):
        with monkeypatch.context() as patched:
            patched.setattr(where, failing, raising=False)
            with pytest.raises(RunError, match=rf"step-00000001\.pt cannot be read now: {told}; it is left as it is"):
                checkpoints.latest(tmp_path, print)
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / ".step-00000002.pt.4711.tmp").write_bytes(b"half")
    assert checkpoints.latest(tmp_path, print) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_a_checkpoint_that_would_run_code_is_refused_whatever_the_environment_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "marker"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    checkpoints.save(tmp_path, 1, {"weights": Bomb()})
    with pytest.raises(Damaged, match=r"step-00000001\.pt cannot be used: Weights only"):
        checkpoints.load(tmp_path / "step-00000001.pt")
    assert not marker.exists()


def test_a_full_disk_leaves_the_old_checkpoint_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"cannot write .*step-00000002\.pt: PytorchStreamWriter failed"):
        write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_random_generators_continue_where_they_were(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, {"random": checkpoints.random_state()})

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    before = draw()
    checkpoints.restore_random_state(checkpoints.load(tmp_path / "step-00000001.pt")["random"])
    assert draw() == before


def test_every_gpus_generator_and_the_number_of_threads_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_rng_state_all", lambda: ["first", "second"])
    for available, kept in ((True, ["first", "second"]), (False, [])):
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        state = checkpoints.random_state()
        assert (state["cuda"], state["threads"]) == (kept, torch.get_num_threads())


def test_generators_of_more_gpus_than_there_are_restore_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[object] = []
    state = checkpoints.random_state() | {"cuda": ["first", "second"]}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.set_rng_state_all", restored.extend)
    checkpoints.restore_random_state(state)
    assert restored == ["first"]


def test_a_pickle_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": 1}))
    assert not zipfile.is_zipfile(tmp_path / "old.pt")
    with pytest.raises(Damaged, match="cannot be used"):
        checkpoints.load(tmp_path / "old.pt")
