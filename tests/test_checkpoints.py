import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mae import checkpoints
from mae.errors import RunError, UserError


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoints.save(folder, step, {"step": step, "weights": torch.arange(4000.0) + step})


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002.pt", "step-00000003.pt"]


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    newest = tmp_path / "step-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:5000])
    state = checkpoints.latest(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    write(tmp_path, 1)
    path = tmp_path / "step-00000001.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # torch alone does not notice
    with pytest.raises(UserError, match="checksum"):
        checkpoints.load(path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    torch.save({"weights": Bomb()}, tmp_path / "step-00000001.pt")
    with pytest.raises(UserError):
        checkpoints.load(tmp_path / "step-00000001.pt")
    assert not marker.exists()


def test_a_full_disk_leaves_the_old_checkpoint_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match="cannot write"):
        write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_random_generators_continue_where_they_were(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, {"random": checkpoints.random_state()})

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    before = draw()
    checkpoints.restore_random_state(checkpoints.load(tmp_path / "step-00000001.pt")["random"])
    assert draw() == before


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
    with pytest.raises(UserError, match="cannot be used"):
        checkpoints.load(tmp_path / "old.pt")
