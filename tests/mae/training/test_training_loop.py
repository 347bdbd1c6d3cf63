"""What a pretraining reports, saves and leaves, by steps that compute nothing: the loss of step `index` is `index`."""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mae.config.resolve import build
from mae.data.dataset import ImageData
from mae.pretext.base import Batch, Pretext
from mae.pretext.registry import new_pretext
from mae.runs.directory import RunDirectory
from mae.runs.metrics import ONLINE
from mae.runs.weights import read_weights
from mae.runtime.distributed import ALONE, Processes
from mae.runtime.interruption import Interrupted, Pruned, StopRequest
from mae.runtime.progress import Progress, Silent
from mae.training import checkpoints
from mae.training.loop import Watch, _Clock, pretrain, weights_digest
from mae.training.step import Step, Trainer
from tests.conftest import TINY

CPU = torch.device("cpu")
PLAIN = TINY | {"run.knn_every": 0, "run.picture_every": 0}  # 2 epochs of 5 steps, a point every 2 steps

NOW = [0.0]
"""The time, in seconds."""


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time: a step takes half a second, an evaluation 10 s, and each point finds 100 MB more in use."""
    NOW[0], memory = 1000.0, [0.0]

    def step(work: Trainer, batch: Batch, index: int) -> Step:
        NOW[0] += 0.5
        work.position.step = index + 1
        return Step({"loss": torch.tensor(float(index))}, torch.tensor(2.0 * index), index / 100)

    def in_use(device: torch.device) -> dict[str, float]:
        memory[0] += 100.0
        return {"system/peak_memory_mb": memory[0] if memory[0] < 300 else 50.0}

    monkeypatch.setattr("mae.training.loop.time", SimpleNamespace(monotonic=lambda: NOW[0]))
    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr("mae.training.loop.system_metrics", in_use)
    monkeypatch.setattr("mae.training.loop.draw", lambda pretext, images, path, title: touch(path))


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def evaluate(pretext: Pretext, data: ImageData) -> dict[str, float]:
    NOW[0] += 10.0
    assert dict(pretext.encoder.named_children()).keys() == {"patch_embed", "blocks", "norm"}
    return {ONLINE: 40.0, "online/other": 7.0}


def train(
    settings: dict[str, Any],
    data: ImageData,
    folder: Path,
    stop: StopRequest | None = None,
    progress: Progress | None = None,
    processes: Processes = ALONE,
    **watch: Watch,
) -> dict[str, Any]:
    how = CPU, progress or Silent(), stop or StopRequest(), evaluate, processes
    return pretrain(build(settings), data, RunDirectory(folder), *how, **watch)


def points(folder: Path) -> list[tuple[int, dict[str, float]]]:
    return [(point["step"], point["metrics"]) for point in RunDirectory(folder).read_metrics()]


class StopAt(StopRequest):
    """Asks to stop, once, when it is looked at the `check`-th time."""

    def __init__(self, check: int):
        self.left = check

    @property
    def number(self) -> int:  # type: ignore[override]
        self.left -= 1
        return signal.SIGTERM if self.left == 0 else 0


def test_a_point_tells_of_the_steps_since_the_last_and_every_epoch_ends_with_one(
    digits: ImageData, tmp_path: Path
) -> None:
    train(PLAIN, digits, tmp_path)
    found = points(tmp_path)
    assert [step for step, _ in found] == [2, 4, 5, 6, 8, 10]
    assert [metrics["train/loss"] for _, metrics in found] == [0.5, 2.5, 4.0, 5.0, 6.5, 8.5]
    assert [metrics["train/gradient_norm"] for _, metrics in found] == [1.0, 5.0, 8.0, 10.0, 13.0, 17.0]
    assert [metrics["train/lr"] for _, metrics in found] == [0.01, 0.03, 0.04, 0.05, 0.07, 0.09]
    assert [metrics["train/epoch"] for _, metrics in found] == [0, 0, 0, 1, 1, 1]
    assert {metrics["train/images_per_second"] for _, metrics in found} == {512.0}  # 256 in half a second
    assert [metrics["system/peak_memory_mb"] for _, metrics in found] == [100, 200, 50, 50, 50, 50]


def test_gradients_that_overflow_in_fp16_do_not_count_as_infinite_in_the_mean() -> None:
    clock = _Clock(0.0)
    for norm in (3.0, math.inf, 6.0):
        clock.add(Step({"loss": torch.tensor(1.0)}, torch.tensor(norm), 0.0))
    clock.since -= 1.0
    metrics, _ = clock.read(8, torch.tensor(-1))
    assert metrics == {"train/loss": 1.0, "train/gradient_norm": 3.0, "train/images_per_second": 24.0}


def test_an_evaluation_is_in_a_runs_cost_and_not_in_the_speed_before_it(digits: ImageData, tmp_path: Path) -> None:
    result = train({**PLAIN, "run.knn_every": 1}, digits, tmp_path)
    speeds = {step: metrics["train/images_per_second"] for step, metrics in points(tmp_path)}
    assert speeds[5] == 512.0
    assert result["metrics"]["cost/seconds"] == 10 * 0.5 + 2 * 10.0


@pytest.mark.parametrize(
    ("every", "epochs"), [(0, []), (1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (5, [5]), (9, [5])]
)
def test_evaluations_and_pictures_come_every_so_many_epochs_and_at_the_end(
    every: int, epochs: list[int], digits: ImageData, tmp_path: Path
) -> None:
    for key, other in (("run.knn_every", "run.picture_every"), ("run.picture_every", "run.knn_every")):
        folder = tmp_path / key
        train({**PLAIN, "train.epochs": 5, key: every, other: 0}, digits, folder)
        evaluated = [step for step, metrics in points(folder) if metrics.get(ONLINE) == 40.0]
        drawn = sorted(path.name for path in folder.glob("pictures/*"))
        assert evaluated == [5 * epoch for epoch in epochs if key == "run.knn_every"]
        assert drawn == [f"epoch-{epoch:04d}.png" for epoch in epochs if key == "run.picture_every"]


@pytest.mark.parametrize(("target", "outputs"), [({}, 4), ({"target.kind": "pca", "target.pca_variance": 0.5}, 1)])
def test_a_result_has_the_digest_of_its_weights_and_what_they_cost(
    target: dict[str, object], outputs: int, digits: ImageData, tmp_path: Path
) -> None:
    result = train(PLAIN | target, digits, tmp_path)
    encoder, rest = (read_weights(tmp_path / f"{part}.safetensors") for part in ("encoder", "pretext"))
    # Of 16 patches of 4 pixels and a class token: positions do not learn, and are no parameters.
    by_encoder = sum(value.numel() for name, value in encoder.items() if name != "pos_embed")
    fixed = {name for name in rest if name == "decoder.decoder_pos_embed" or name.startswith("target.")}
    by_decoder = sum(value.numel() for name, value in rest.items() if name not in fixed)
    flops = new_pretext(build(PLAIN | target), digits).cost()
    costs = result["metrics"]
    assert costs == {
        "cost/gflops_encoder": flops["gflops_encoder"],
        "cost/gflops_per_image": flops["gflops_per_image"],
        "train/final_loss": 8.5,
        "cost/seconds": 5.0,
        "cost/steps": 10,
        "cost/parameters_encoder": by_encoder,
        "cost/parameters": by_encoder + by_decoder,
        "cost/peak_memory_mb": 200.0,
    }
    weights = {f"encoder.{name}": value for name, value in encoder.items()} | rest
    assert result == {"weights_sha256": weights_digest(weights), "metrics": costs}
    assert len(rest["decoder.decoder_pred.weight"]) == outputs


def test_a_search_is_told_of_every_evaluation_and_what_it_prunes_is_saved(digits: ImageData, tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []

    def watch(epochs: int, accuracy: float) -> str:
        told.append((epochs, accuracy))
        return "others are better" if epochs == 2 else ""

    with pytest.raises(Pruned, match="others are better"):
        train({**PLAIN, "train.epochs": 5, "run.knn_every": 1}, digits, tmp_path, watch=watch)
    assert told == [(1, 40.0), (2, 40.0)]
    assert [path.stem for path in tmp_path.glob("checkpoints/*")] == ["step-00000010"]
    assert points(tmp_path)[-1][0] == 10


class Shown(Silent):
    """Notes what is said and how far it is."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tasks: list[tuple[str, int, int]] = []
        self.advanced: list[tuple[int, str]] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    warn = say

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "") -> Iterator[Any]:
        self.tasks.append((description, total, done))
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.advanced.append((amount, note))


def test_a_resumed_run_shows_where_it_is_and_counts_its_time_and_steps_on(digits: ImageData, tmp_path: Path) -> None:
    first, second = Shown(), Shown()
    with pytest.raises(Interrupted):
        train(PLAIN, digits, tmp_path, StopAt(7), first)
    result = train(PLAIN, digits, tmp_path, progress=second)
    assert (first.tasks, second.tasks) == ([("pretraining", 10, 0)], [("pretraining", 10, 7)])
    assert second.said == ["continuing at step 7 of 10"]
    assert first.advanced[:2] == [(1, ""), (1, "epoch 1/2  loss 0.5000  512 images/s")]
    assert second.advanced == [
        (1, "epoch 2/2  loss 7.0000  512 images/s"),
        (1, ""),
        (1, "epoch 2/2  loss 8.5000  512 images/s"),
    ]
    assert [step for step, _ in points(tmp_path)] == [2, 4, 5, 6, 8, 10]
    assert (result["metrics"]["cost/seconds"], result["metrics"]["cost/steps"]) == (5.0, 10)


def test_a_run_killed_after_its_last_step_is_finished_from_its_checkpoint(digits: ImageData, tmp_path: Path) -> None:
    whole = train(PLAIN, digits, tmp_path)
    shown = Shown()
    assert train(PLAIN, digits, tmp_path, progress=shown)["metrics"] == whole["metrics"]
    assert shown.tasks == [("pretraining", 10, 10)]
    assert shown.advanced == []


class InStep(Processes):
    """One of several processes; the others do what it does, but for what another was asked and the first has read."""

    asked = 0
    read: Any = None

    def parallel(self, module: Any, device: torch.device) -> Any:
        return module

    def greatest(self, value: int) -> int:
        return max(value, self.asked)

    def from_first(self, value: Any) -> Any:
        return self.read if value is None else value


def test_only_the_first_of_several_processes_writes(digits: ImageData, tmp_path: Path) -> None:
    assert set(train(TINY, digits, tmp_path / "0", processes=InStep(0, 2))) == {"weights_sha256", "metrics"}
    assert train(TINY, digits, tmp_path / "1", processes=InStep(1, 2)) == {}
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize(("rank", "saved"), [(0, ["step-00000001"]), (1, [])])
def test_all_processes_stop_when_one_is_asked_to_and_the_first_saves(
    rank: int, saved: list[str], digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InStep, "asked", int(signal.SIGINT))
    with pytest.raises(Interrupted) as caught:
        train(PLAIN, digits, tmp_path, processes=InStep(rank, 2))
    assert caught.value.exit_code == 130
    assert [path.stem for path in tmp_path.glob("checkpoints/*")] == saved


def test_other_processes_continue_from_the_state_that_the_first_has_read(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(PLAIN, digits, tmp_path / "0", StopAt(7), processes=InStep(0, 2))
    state, shown = checkpoints.latest(tmp_path / "0" / "checkpoints", print), Shown()
    monkeypatch.setattr(InStep, "read", state)
    train(PLAIN, digits, tmp_path / "1", progress=shown, processes=InStep(1, 2))
    assert shown.said == ["continuing at step 7 of 10"]
    assert not (tmp_path / "1").exists()


def test_another_number_of_processes_is_said(digits: ImageData, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(PLAIN, digits, tmp_path, StopAt(7), processes=InStep(0, 2))
    shown = Shown()
    train(PLAIN, digits, tmp_path, progress=shown)
    assert shown.said[1:] == ["by 2 process(es) so far, now by 1: equal to rounding, not to the bit"]
