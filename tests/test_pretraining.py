import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mae import checkpoints
from mae.augmentation import augment
from mae.config import Config
from mae.config_sources import build
from mae.data import ImageData
from mae.draws import generator
from mae.errors import RunError, SettingsError, UserError
from mae.features import normalise
from mae.interruption import Interrupted, StopRequest
from mae.pipeline import Workplace, run_pretraining
from mae.pretraining import Pretraining, _go_back, parameter_groups, pretrain
from mae.progress import Silent
from mae.run_directory import RunDirectory, find_runs
from tests.commands import Forked, mae_cli
from tests.conftest import TINY

CPU = torch.device("cpu")


def train(config: Config, data: ImageData, folder: Path, stop: StopRequest | None = None) -> dict[str, Any]:
    return pretrain(config, data, RunDirectory(folder), CPU, Silent(), stop or StopRequest())


class StopAfter(StopRequest):
    """Asks to stop once `checks` steps have looked."""

    def __init__(self, checks: int):
        self.left = checks

    @property
    def number(self) -> int:  # type: ignore[override]
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else 0


@pytest.mark.parametrize("target", ["pixels", "pca"])
def test_a_run_stopped_in_mid_epoch_ends_with_the_same_bits(target: str, digits: ImageData, tmp_path: Path) -> None:
    config = build({**TINY, "target.kind": target})
    whole = train(config, digits, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(config, digits, tmp_path / "parts", StopAfter(3))
    assert train(config, digits, tmp_path / "parts")["weights_sha256"] == whole["weights_sha256"]


class Noted(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    warn = say


def test_a_run_whose_last_checkpoint_is_damaged_says_so_and_ends_with_the_same_bits(
    digits: ImageData, tmp_path: Path
) -> None:
    config = build({**TINY, "run.checkpoint_seconds": 0.0})
    whole = train(config, digits, tmp_path / "whole")
    run, noted = RunDirectory(tmp_path / "parts"), Noted()
    with pytest.raises(Interrupted):
        train(config, digits, run.path, StopAfter(3))
    os.truncate(run.checkpoints / "step-00000004.pt", 5000)
    ended = pretrain(config, digits, run, CPU, noted, StopRequest())
    assert ended["weights_sha256"] == whole["weights_sha256"]
    assert noted.lines[0].startswith("checkpoint step-00000004 is damaged")
    assert noted.lines[0].endswith("continuing from step 3")


def test_saving_never_takes_more_than_a_twentieth_of_the_time(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, saved = [0.0], []

    def step(work: Pretraining, *arguments: Any) -> tuple[Any, Any, float]:
        now[0] += 1.0
        work.position.step += 1
        return torch.zeros(()), torch.zeros(()), 0.0

    def save(folder: Path, step: int, state: object) -> None:
        now[0] += 0.5
        saved.append(step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"step-{step:08d}.pt").touch()

    monkeypatch.setattr("mae.pretraining.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Pretraining, "step", step)
    monkeypatch.setattr("mae.checkpoints.save", save)
    settings = {**TINY, "train.epochs": 7, "run.knn_every": 0, "run.picture_every": 0}
    for seconds, expected in ((3.0, [3, 13, 23, 33, 35]), (20.0, [20, 35]), (0.0, list(range(1, 36)))):
        saved.clear()
        train(build({**settings, "run.checkpoint_seconds": seconds}), digits, tmp_path / str(seconds))
        assert saved == expected


@pytest.mark.parametrize(
    ("deterministic", "threads", "told"),
    [(False, 1, ["by 2 thread(s) so far, now by 1: equal to rounding, not to the bit"]), (True, 2, [])],
)
def test_the_machine_says_how_many_threads_continue_a_run_unless_its_bits_are_promised(
    deterministic: bool, threads: int, told: list[str], digits: ImageData, tmp_path: Path
) -> None:
    work, run, said = (
        Pretraining(build({**TINY, "train.deterministic": deterministic}), digits, CPU),
        RunDirectory(tmp_path),
        Noted(),
    )
    state = work.state()
    state["random"]["threads"] = 2
    checkpoints.save(run.checkpoints, 0, state)
    _go_back(work, run, said)
    assert torch.get_num_threads() == threads
    assert [line for line in said.lines if "thread" in line] == told


def test_another_seed_ends_with_other_bits(digits: ImageData, tmp_path: Path) -> None:
    first = train(build(TINY), digits, tmp_path / "0")
    second = train(build({**TINY, "train.seed": 1}), digits, tmp_path / "1")
    assert first["weights_sha256"] != second["weights_sha256"]


def test_curves_of_a_stopped_run_have_each_step_once(tiny: Config, digits: ImageData, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tiny, digits, tmp_path, StopAfter(3))
    train(tiny, digits, tmp_path)
    steps = [point["step"] for point in RunDirectory(tmp_path).read_metrics()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 10


def test_the_loss_falls(digits: ImageData, tmp_path: Path) -> None:
    train(build({**TINY, "train.epochs": 12}), digits, tmp_path)
    losses = [point["metrics"]["train/loss"] for point in RunDirectory(tmp_path).read_metrics()]
    assert losses[-1] < 0.8 * losses[0]


def test_micro_batches_give_the_gradient_of_the_whole_batch(digits: ImageData) -> None:
    images = next(iter(digits.train.images.batches([torch.arange(256)])))
    norms = []
    for pieces in (1, 4):
        work = Pretraining(build({**TINY, "train.micro_batches": pieces}), digits, CPU)
        norms.append(work.step(images, 0)[1].item())
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_crops_and_masks_of_a_step_follow_from_seed_and_index_alone(digits: ImageData) -> None:
    config = build({**TINY, "train.seed": 3})
    work, images = Pretraining(config, digits, CPU), next(iter(digits.train.images.batches([torch.arange(256)])))
    views = normalise(augment(images, config.data, generator(3, "augmentation", 7)), digits)
    expected = work.objective(views, work.objective.sample(generator(3, "mask", 7), 256)).item()
    assert work.step(images, 7)[0].item() == pytest.approx(expected, rel=1e-6)


def test_steps_are_those_of_adamw_with_the_papers_momenta(digits: ImageData) -> None:
    settings = {"train.weight_decay": 0.3, "train.warmup_epochs": 0.5, "train.base_lr": 4e-3, "train.batch_size": 128}
    work = Pretraining(build({**TINY, **settings}), digits, CPU)
    parameters, gradients = dict(work.objective.named_parameters()), {}
    for name, parameter in parameters.items():
        parameter.register_post_accumulate_grad_hook(
            lambda each, name=name: gradients.update({name: each.grad.clone()})
        )
    expected = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    momenta, squares = ({name: torch.zeros_like(each) for name, each in expected.items()} for _ in range(2))
    images = next(iter(digits.train.images.batches([torch.arange(128)])))
    for step in range(1, 5):
        rate = work.step(images, step - 1)[2]
        assert rate == pytest.approx(2e-3 * (step - 1) / 5.5)  # 11 steps per epoch, half of them to a peak of 2e-3
        for name, gradient in gradients.items():
            momenta[name] = 0.9 * momenta[name] + 0.1 * gradient
            squares[name] = 0.95 * squares[name] + 0.05 * gradient.square()
            direction = momenta[name] / (1 - 0.9**step) / ((squares[name] / (1 - 0.95**step)).sqrt() + 1e-8)
            decay = 0.3 if gradient.ndim > 1 else 0.0  # biases and norms are vectors
            expected[name] = expected[name] * (1 - rate * decay) - rate * direction
    for name, parameter in parameters.items():
        assert torch.allclose(parameter, expected[name], rtol=0, atol=2e-6), name


def test_the_loss_of_micro_batches_is_that_of_the_whole_batch(digits: ImageData) -> None:
    images = next(iter(digits.train.images.batches([torch.arange(256)])))
    works = [Pretraining(build({**TINY, "train.micro_batches": pieces}), digits, CPU) for pieces in (1, 4)]
    whole, pieces = (work.step(images, 0)[0].item() for work in works)
    assert pieces == pytest.approx(whole, rel=1e-5)


class PixelsSeen(TorchDispatchMode):
    """Notes of every tensor of float images of 8 x 8 pixels how many images it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and result.shape[1:] == (1, 8, 8):
            self.counts.add(len(result))
        return result


def test_no_more_than_a_micro_batch_is_cropped_at_a_time(digits: ImageData) -> None:
    work = Pretraining(build({**TINY, "train.micro_batches": 8}), digits, CPU)
    with PixelsSeen() as seen:
        work.step(next(iter(digits.train.images.batches([torch.arange(256)]))), 0)
    assert seen.counts == {32}


def test_a_loss_that_is_not_finite_fails_the_run_and_is_not_saved(digits: ImageData, tmp_path: Path) -> None:
    config = build({**TINY, "data.mean": [0.0], "data.std": [1e-38], "run.checkpoint_seconds": 0.0})
    poisoned = ImageData(**{**digits.__dict__, "mean": (0.0,), "std": (1e-38,)})
    with pytest.raises(RunError, match="not finite at step 0"):
        train(config, poisoned, tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_a_run_that_does_not_fit_into_the_devices_memory_has_failed_by_its_settings(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*arguments: object) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("mae.pipeline.pretrain", exhaust)
    with pytest.raises(SettingsError, match="CUDA out of memory; raise train"):
        run_pretraining(tiny, Workplace(tmp_path, "none", CPU, Silent(), StopRequest()))


def test_a_batch_larger_than_the_data_is_refused(digits: ImageData) -> None:
    with pytest.raises(UserError, match="1437"):
        Pretraining(build({**TINY, "train.batch_size": 2048}), digits, CPU)


def test_biases_and_norms_are_not_decayed(tiny: Config, digits: ImageData) -> None:
    objective = Pretraining(tiny, digits, CPU).objective
    decayed = {id(parameter) for parameter in parameter_groups(objective, 0.05)[0]["params"]}
    names = {name for name, parameter in objective.named_parameters() if id(parameter) in decayed}
    assert not any("norm" in name or name.endswith("bias") for name in names)
    assert "model.encoder.blocks.0.attn.qkv.weight" in names


def start(runs_dir: Path, settings: list[str]) -> Forked:
    arguments = ["pretrain", "--runs-dir", str(runs_dir), "--device", "cpu", "--tracking-uri", "none", *settings]
    return Forked(mae_cli, runs_dir.with_suffix(".txt"), arguments)


def said(runs_dir: Path) -> str:
    return runs_dir.with_suffix(".txt").read_text()


def wait_for_a_checkpoint(runs_dir: Path, process: Forked, after: int = 0) -> int:
    """Return the step of the first checkpoint past `after`."""
    while process.lives():
        steps = [int(path.stem.split("-")[1]) for path in runs_dir.glob("*/checkpoints/step-*.pt")]
        if steps and max(steps) > after:
            return max(steps)
        time.sleep(0.005)
    raise AssertionError(said(runs_dir))


def test_a_run_killed_twice_ends_with_the_same_bits(tiny_settings: list[str], tmp_path: Path) -> None:
    often = [*tiny_settings, "--set", "run.checkpoint_seconds=0", "--set", "train.epochs=30"]
    whole = start(tmp_path / "whole", often)
    step = 0
    for _ in range(2):
        process = start(tmp_path / "killed", often)
        step = wait_for_a_checkpoint(tmp_path / "killed", process, step)
        process.send(signal.SIGKILL)
        assert process.code() == -signal.SIGKILL
    assert find_runs(tmp_path / "killed")[0].result() is None
    assert start(tmp_path / "killed", often).code() == whole.code() == 0
    assert "continuing at step" in said(tmp_path / "killed")
    results = [find_runs(tmp_path / name)[0].result() for name in ("whole", "killed")]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_a_signal_saves_and_ends_the_run(number: int, code: int, tiny_settings: list[str], runs_dir: Path) -> None:
    settings = [*tiny_settings, "--set", "train.epochs=5000", "--set", "run.checkpoint_seconds=0.2"]
    process = start(runs_dir, settings)
    step = wait_for_a_checkpoint(runs_dir, process)
    process.send(number)
    assert process.code() == code
    assert "the same command continues" in said(runs_dir)
    run = find_runs(runs_dir)[0]
    record = run.read_record()
    assert record is not None
    assert record.status == "killed"
    assert max(int(path.stem.split("-")[1]) for path in run.checkpoints.iterdir()) >= step
