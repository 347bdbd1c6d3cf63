import signal
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mae.config.fingerprint import probe_name
from mae.config.probe_sections import LinearProbeConfig
from mae.config.resolve import build
from mae.data.dataset import ImageData
from mae.pipeline import Workplace, run_pretraining, run_probes
from mae.probing import fit_checkpoints
from mae.probing.fit_checkpoints import FitCheckpoints
from mae.probing.linear import fit_lars
from mae.probing.probe import baseline, probe
from mae.probing.subject import Setup, Subject
from mae.runs.directory import RunDirectory
from mae.runtime.interruption import Interrupted, StoppableTask, StopRequest
from mae.runtime.progress import Silent
from mae.training import checkpoints
from tests.conftest import TINY
from tests.helpers.commands import Forked
from tests.helpers.pretexts import around

CPU = torch.device("cpu")
LARS = {"probe.linear.solver": "lars", "probe.linear.lars_epochs": 2}


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every epoch."""
    monkeypatch.setattr(fit_checkpoints, "LEAST_SECONDS", 0)


def new_head() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(6, affine=False), nn.Linear(6, 3))


def features_of(epoch: int) -> torch.Tensor:
    """Return other features each epoch, with other statistics, as of augmented images."""
    return epoch + torch.randn(64, 6, generator=torch.Generator().manual_seed(epoch))


def fit(folder: Path | None, stop_in: int = -1, seconds: float = 0.0) -> dict[str, torch.Tensor]:
    """Return the state of a head after ten epochs of four steps, each of which takes `seconds` more than it needs."""
    head, stop, config = new_head(), StopRequest(), LinearProbeConfig(lars_epochs=10, lars_batch_size=16)

    def views(epoch: int) -> torch.Tensor:
        stop.number = signal.SIGTERM if epoch == stop_in else 0
        time.sleep(seconds)
        return features_of(epoch)

    task = StoppableTask(Silent(), stop)
    fit_lars(head, views, torch.arange(64) % 3, config, 0, task, FitCheckpoints(folder))
    return head.state_dict()


def fit_slowly(folder: Path) -> None:
    """Fit in a process of its own, so slowly that it can be killed on the way."""
    fit_checkpoints.LEAST_SECONDS = 0
    fit(folder, seconds=0.1)


@pytest.mark.usefixtures("_often")
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_a_lars_probe_stopped_within_an_epoch_ends_with_the_same_bits(epoch: int, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(tmp_path, stop_in=epoch)
    assert checkpoints.checkpoint(tmp_path, epoch).exists() == (epoch > 0)
    again, whole = fit(tmp_path), fit(None)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.usefixtures("_often")
def test_a_lars_probe_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    process = Forked(fit_slowly, tmp_path)
    while not checkpoints.checkpoint(tmp_path, 2).exists():
        assert process.lives()
        time.sleep(0.005)
    process.send(signal.SIGKILL)
    assert process.code() == -signal.SIGKILL
    assert not checkpoints.checkpoint(tmp_path, 10).exists()
    again, whole = fit(tmp_path), fit(None)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_probe_that_continues_takes_up_where_it_was(tmp_path: Path) -> None:
    head, config = new_head(), LinearProbeConfig(lars_epochs=3)
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    state = {"step": 2, "module": head.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoints.save(tmp_path, 2, state)
    epochs: list[int] = []
    advanced: list[int] = []

    class Told(Silent):
        def advance(self, amount: int = 1, note: str = "") -> None:
            advanced.append(amount)

    def views(epoch: int) -> torch.Tensor:
        epochs.append(epoch)
        return features_of(epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mae.probing.linear.lars", lambda module: torch.optim.SGD(module.parameters(), lr=1.0))
        task = StoppableTask(Told(), StopRequest())
        fit_lars(head, views, torch.arange(64) % 3, config, 0, task, FitCheckpoints(tmp_path))
    assert (epochs, sum(advanced)) == ([2], 3)


def test_saving_takes_a_hundredth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of 4 s; a checkpoint takes 1 s at first, 0.01 s later."""
    clock = [0.0]
    saved: list[int] = []

    def save(folder: Path, step: int, state: dict[str, Any]) -> None:
        clock[0] += 0.01 if saved else 1.0
        saved.append(step)

    monkeypatch.setattr(fit_checkpoints.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoints, "save", save)
    head = new_head()
    optimizer, kept = torch.optim.SGD(head.parameters()), FitCheckpoints(tmp_path)
    for epoch in range(1, 40):
        clock[0] += 4
        kept.save_if_due(head, optimizer, epoch)
    assert saved == [3, 28, 31, 34, 37]


def test_an_epochs_features_are_let_go_before_those_of_the_next() -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def views(epoch: int) -> torch.Tensor:
        assert not any(each() is not None for each in made)
        features = features_of(epoch)
        made.append(weakref.ref(features))
        return features

    task, config = StoppableTask(Silent(), StopRequest()), LinearProbeConfig(lars_epochs=3)
    fit_lars(new_head(), views, torch.arange(64) % 3, config, 0, task, FitCheckpoints())
    assert len(made) == 3


class Counted(nn.Module):
    """Counts the batches that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        return images.flatten(1)[:, None].expand(-1, 2, -1)


def test_a_stop_is_heard_between_the_batches_of_an_epochs_features(digits: ImageData) -> None:
    class StopAtThird(StopRequest):
        def check(self) -> None:
            if encoder.batches == 3:
                raise Interrupted(signal.SIGTERM)

    encoder, config = Counted(), build(TINY | LARS)
    known = {"train": torch.randn(1437, 64), "test": torch.randn(360, 64)}
    subject = Subject("pretrained", "0123", around(encoder, config, digits), known)
    with pytest.raises(Interrupted):
        probe("linear", subject, Setup(config, digits, CPU, Silent(), StopAtThird()))
    assert encoder.batches == 3  # of 12


@pytest.mark.usefixtures("_often")
def test_a_baseline_has_its_checkpoints_in_its_own_folder_until_its_result_is_safe(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, pixels = build(TINY | LARS), Subject("pixels", "0123", None)
    directory = RunDirectory(tmp_path / "baselines" / probe_name(config, "linear", "0123"))
    remove, there = checkpoints.remove, []

    def removed(folder: Path) -> None:
        there.append((folder, directory.result() is not None, len([*folder.glob("step-*.pt")])))
        remove(folder)

    monkeypatch.setattr(checkpoints, "remove", removed)
    baseline("linear", pixels, Setup(config, digits, CPU, Silent()), tmp_path)
    assert there == [(directory.checkpoints, True, 2)]
    assert not directory.checkpoints.exists()


@pytest.mark.usefixtures("_often")
def test_a_probe_of_a_run_has_its_checkpoints_in_its_folder_until_its_result_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build(TINY | LARS | {"train.epochs": 1, "probe.kinds": ("linear",), "run.picture_every": 0})
    where = Workplace(tmp_path, "none", CPU, Silent(), StopRequest())
    run = run_pretraining(config, where)
    folder = run.probe(probe_name(config, "linear", run.path.name)).checkpoints
    written: list[Path] = []
    save = checkpoints.save

    def noted(folder: Path, step: int, state: dict[str, Any]) -> None:
        written.append(folder)
        save(folder, step, state)

    monkeypatch.setattr(checkpoints, "save", noted)
    run_probes(run, config, where)
    assert written.count(folder) == 2
    assert not folder.exists()
