import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mae.config.resolve import build
from mae.config.tree import Config
from mae.data.augmentation import augment
from mae.data.dataset import ImageData
from mae.errors import RunError, SettingsError, UserError
from mae.pipeline import Workplace, run_pretraining
from mae.pretext.base import Batch
from mae.pretext.registry import new_pretext
from mae.probing.online import evaluate_online
from mae.runs.catalogue import find_runs
from mae.runs.directory import RunDirectory
from mae.runtime.distributed import ALONE, Processes
from mae.runtime.interruption import Interrupted, StopRequest
from mae.runtime.machine import use_deterministic_kernels
from mae.runtime.progress import Silent
from mae.runtime.rng import branch, generator
from mae.training import background_saving, checkpoints
from mae.training.background_saving import Saver
from mae.training.loop import _go_back, pretrain, weights_digest
from mae.training.step import Step, Trainer, check_finite, parameter_groups, steps_per_epoch
from tests.conftest import TINY
from tests.helpers.commands import Forked, mae_cli
from tests.helpers.pretexts import mask_of
from tests.helpers.training import StopAfter, first_images, gradients_of_a_step, take_step

CPU = torch.device("cpu")


def train(config: Config, data: ImageData, folder: Path, stop: StopRequest | None = None) -> dict[str, Any]:
    return pretrain(config, data, RunDirectory(folder), CPU, Silent(), stop or StopRequest(), evaluate_online)


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
    ended = pretrain(config, digits, run, CPU, noted, StopRequest(), evaluate_online)
    assert ended["weights_sha256"] == whole["weights_sha256"]
    assert noted.lines[0].startswith("checkpoint step-00000004 is damaged")
    assert noted.lines[0].endswith("continuing from step 3")


class InOneThread:
    """Does what it is given at once."""

    def __init__(self, *arguments: object) -> None:
        pass

    def submit(self, work: Any, *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*arguments))
        return done

    def shutdown(self) -> None:
        pass


def test_saving_never_takes_more_than_a_hundredth_of_the_time(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, computed, saved = [0.0], [0.0], []

    def step(work: Trainer, *arguments: Any) -> Step:
        now[0] += 1.0
        work.position.step += 1
        return Step({"loss": torch.zeros(())}, torch.zeros(()), 0.0)

    def save(folder: Path, step: int, state: object) -> None:
        computed[0] += 0.08
        saved.append(step)

    def copy(saver: Saver, state: object) -> None:
        now[0] += 0.02

    clock = SimpleNamespace(monotonic=lambda: now[0], thread_time=lambda: computed[0])
    monkeypatch.setattr("mae.training.background_saving.time", clock)
    monkeypatch.setattr("mae.training.background_saving.ThreadPoolExecutor", InOneThread)
    monkeypatch.setattr(Saver, "_copy", copy)
    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr("mae.training.checkpoints.save", save)
    settings = {**TINY, "train.epochs": 7, "run.knn_every": 0, "run.picture_every": 0}
    for seconds, expected in ((3.0, [3, 13, 23, 33, 35]), (20.0, [20, 35]), (0.0, [*range(1, 36), 35])):
        saved.clear()
        train(build({**settings, "run.checkpoint_seconds": seconds}), digits, tmp_path / str(seconds))
        assert saved == expected  # 35 steps; the last one is saved in any case, as no file was written


@pytest.mark.parametrize(
    ("deterministic", "threads", "told"),
    [(False, 1, ["by 2 thread(s) so far, now by 1: equal to rounding, not to the bit"]), (True, 2, [])],
)
def test_the_machine_says_how_many_threads_continue_a_run_unless_its_bits_are_promised(
    deterministic: bool, threads: int, told: list[str], digits: ImageData, tmp_path: Path
) -> None:
    work, run, said = (
        Trainer(build({**TINY, "train.deterministic": deterministic}), digits, CPU),
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
        work = Trainer(build({**TINY, "train.micro_batches": pieces}), digits, CPU)
        norms.append(take_step(work, images).norm.item())
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_crops_and_masks_of_a_step_follow_from_seed_and_index_alone(digits: ImageData) -> None:
    config = build({**TINY, "train.seed": 3})
    work, images = Trainer(config, digits, CPU), next(iter(digits.train.images.batches([torch.arange(256)])))
    views = work.pretext.look(augment(images, config.data, branch(generator(3, "step", 7), "crops")))
    mask = mask_of("random", branch(generator(3, "step", 7), "mask"), 256, (4, 4), 4)
    expected = work.pretext.loss(views, mask).item()
    assert take_step(work, images, 7).losses["loss"].item() == pytest.approx(expected, rel=1e-6)


def test_steps_are_those_of_adamw_with_the_papers_momenta(digits: ImageData) -> None:
    settings = {"train.weight_decay": 0.3, "train.warmup_epochs": 0.5, "train.base_lr": 4e-3, "train.batch_size": 128}
    work = Trainer(build({**TINY, **settings}), digits, CPU)
    parameters, gradients = dict(work.pretext.named_parameters()), {}
    for name, parameter in parameters.items():
        parameter.register_post_accumulate_grad_hook(
            lambda each, name=name: gradients.update({name: each.grad.clone()})
        )
    expected = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    momenta, squares = ({name: torch.zeros_like(each) for name, each in expected.items()} for _ in range(2))
    images = next(iter(digits.train.images.batches([torch.arange(128)])))
    for step in range(1, 5):
        rate = take_step(work, images, step - 1).lr
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
    works = [Trainer(build({**TINY, "train.micro_batches": pieces}), digits, CPU) for pieces in (1, 4)]
    whole, pieces = (take_step(work, images).losses["loss"].item() for work in works)
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
    work = Trainer(build({**TINY, "train.micro_batches": 8}), digits, CPU)
    with PixelsSeen() as seen:
        take_step(work, first_images(digits))
    assert seen.counts == {32}


class InStep(Processes):
    """One of several processes, whose others have losses that are greater by 100 in the mean."""

    def parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        return module

    def mean(self, value: Tensor) -> Tensor:
        return value + 100


def test_the_gradients_of_all_processes_shares_have_the_whole_batchs_as_their_mean(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanges: list[bool] = []
    config, images = build({**TINY, "train.micro_batches": 2}), first_images(digits)
    whole = gradients_of_a_step(Trainer(config, digits, CPU), images, 3)
    monkeypatch.setattr(InStep, "exchanging", lambda processes, module, now: nullcontext(exchanges.append(now)))
    shares = [
        gradients_of_a_step(Trainer(config, digits, CPU, InStep(rank, 2)), images[128 * rank : 128 * (rank + 1)], 3)
        for rank in range(2)
    ]
    assert len(whole) > 20
    for name, gradient in whole.items():
        assert torch.allclose((shares[0][name] + shares[1][name]) / 2, gradient, atol=1e-6), name
    assert not torch.allclose(shares[0]["decoder.decoder_pred.weight"], whole["decoder.decoder_pred.weight"])
    assert exchanges == [False, True] * 2  # gradients of the last piece only are exchanged


def test_the_loss_of_a_step_is_the_mean_over_processes(digits: ImageData) -> None:
    config, images = build(TINY), first_images(digits)
    losses = [
        take_step(Trainer(config, digits, CPU, each), images).losses["loss"].item() for each in (ALONE, InStep(0, 1))
    ]
    assert losses[1] == pytest.approx(losses[0] + 100)


def test_processes_pass_backwards_once_before_they_begin_and_it_leaves_no_trace(digits: ImageData) -> None:
    seen: list[object] = []

    class Watched(InStep):
        def parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
            def note(module: nn.Module, given: Any, losses: dict[str, Tensor]) -> None:
                batch, draws = given
                seen.extend(tuple(each.shape) for each in (batch.images, draws.mask))
                losses["loss"].register_hook(lambda gradient: seen.append(tuple(gradient.shape)))

            module.register_forward_hook(note)
            assert device == CPU
            products: Any = module.get_submodule("encoder.blocks.0.attn.qkv")
            products.register_forward_hook(lambda module, given, product: seen.append(product.dtype))
            return module

    config = build({**TINY, "train.micro_batches": 4, "train.precision": "bf16"})
    alone, one_of_two = (Trainer(config, digits, CPU, each) for each in (ALONE, Watched(1, 2)))
    assert seen == [torch.bfloat16, (32, 1, 8, 8), (32, 16), ()]  # a piece of a step to come, and its loss
    assert all(parameter.grad is None for parameter in one_of_two.pretext.parameters())
    assert weights_digest(one_of_two.pretext.state_dict()) == weights_digest(alone.pretext.state_dict())


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_matrix_products_have_the_precision_asked_for_and_weights_are_fp32(
    precision: str, expected: torch.dtype, digits: ImageData
) -> None:
    works = [Trainer(build({**TINY, "train.precision": each}), digits, CPU) for each in ("fp32", precision)]
    seen = set()
    products: Any = works[1].pretext.get_submodule("encoder.blocks.0.attn.qkv")
    products.register_forward_hook(lambda module, given, product: seen.add(product.dtype))
    works[1].scaler = torch.amp.GradScaler("cpu", init_scale=128.0, enabled=precision == "fp16")  # none overflows
    exact, rough = (gradients_of_a_step(work, first_images(digits)) for work in works)
    assert seen == {expected}
    for name, gradient in rough.items():
        assert gradient.dtype == torch.float32
        assert torch.linalg.vector_norm(gradient - exact[name]) < 0.05 * torch.linalg.vector_norm(exact[name]), name


def test_a_step_of_fp16_whose_gradients_overflow_is_skipped_and_the_next_is_scaled_less(digits: ImageData) -> None:
    work = Trainer(build({**TINY, "train.precision": "fp16"}), digits, CPU)
    work.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    before = weights_digest(work.pretext.state_dict())
    step = take_step(work, first_images(digits), 1)
    assert step.losses["loss"].isfinite()
    assert not step.norm.isfinite()
    assert weights_digest(work.pretext.state_dict()) == before
    assert work.scaler.get_scale() == 2.0**125
    check_finite(int(work.bad_step))


@pytest.mark.parametrize(("precision", "first"), [("fp32", 0), ("fp32", 1), ("fp16", 1)])
def test_the_first_step_whose_loss_is_not_finite_is_named(precision: str, first: int, digits: ImageData) -> None:
    work, images = Trainer(build({**TINY, "train.precision": precision}), digits, CPU), first_images(digits)
    for index in range(first):
        take_step(work, images, index)
    check_finite(int(work.bad_step))
    with torch.no_grad():
        work.pretext.encoder.cls_token.fill_(torch.nan)
    for index in (first, first + 1):
        take_step(work, images, index)
    with pytest.raises(SettingsError, match=f"not finite at step {first}; the last checkpoint is sound"):
        check_finite(int(work.bad_step))


def test_a_gradient_that_is_not_finite_is_noticed_where_the_loss_is(digits: ImageData) -> None:
    work = Trainer(build(TINY), digits, CPU)
    work.pretext.encoder.cls_token.register_hook(lambda gradient: gradient * torch.inf)
    assert take_step(work, first_images(digits)).losses["loss"].isfinite()
    with pytest.raises(SettingsError, match="not finite at step 0"):
        check_finite(int(work.bad_step))


@pytest.mark.parametrize("most", [0.01, None])
def test_gradients_are_shortened_to_clip_norm_together_and_the_norm_told_is_the_one_before(
    most: float | None, digits: ImageData
) -> None:
    work = Trainer(build({**TINY, "train.clip_norm": most}), digits, CPU)
    free = gradients_of_a_step(Trainer(build(TINY), digits, CPU), first_images(digits))
    clipped = gradients_of_a_step(work, first_images(digits))
    norm = take_step(Trainer(work.config, digits, CPU), first_images(digits)).norm.item()
    length = torch.stack([gradient.square().sum() for gradient in free.values()]).sum().sqrt().item()
    assert norm == pytest.approx(length, rel=1e-5)
    assert length > 0.02
    for name, gradient in clipped.items():
        assert torch.allclose(gradient, free[name] * ((most or length) / length), rtol=1e-3, atol=1e-7), name


def test_weights_begin_by_the_runs_seed_whatever_was_drawn_before(digits: ImageData) -> None:
    digests = []
    for seed, drawn_before in ((3, 0), (3, 7), (4, 0)):
        torch.manual_seed(drawn_before)
        work = Trainer(build({**TINY, "train.seed": seed}), digits, CPU)
        digests.append(weights_digest(work.pretext.state_dict()))
    assert digests[0] == digests[1] != digests[2]


def test_what_a_task_is_fitted_on_are_different_training_images_that_the_seed_chooses(digits: ImageData) -> None:
    known = {image.numpy().tobytes() for image in first_images(digits, 1437)}
    samples = [new_pretext(build({**TINY, "train.seed": seed}), digits).surroundings.sample(10) for seed in (0, 1, 1)]
    for images in samples:
        each = {image.numpy().tobytes() for image in images}
        assert len(each) == 10
        assert each <= known
    assert not torch.equal(samples[0], samples[1])
    assert torch.equal(samples[1], samples[2])
    assert len(new_pretext(build(TINY), digits).surroundings.sample(5000)) == 1437  # all images of a small set


def test_what_is_restored_continues_as_what_was_kept(digits: ImageData, tmp_path: Path) -> None:
    settings = {**TINY, "target.kind": "pca", "train.precision": "fp16"}
    first, images = Trainer(build(settings), digits, CPU), first_images(digits)
    for index in range(2):
        take_step(first, images, index)
    first.position.seconds = 12.5
    first.scaler.update(4.0)
    checkpoints.save(tmp_path, 2, first.state())
    drawn = torch.rand(()).item()
    second = Trainer(build({**settings, "train.seed": 9}), digits, CPU)
    second.restore(checkpoints.load(tmp_path / "step-00000002.pt"))
    assert torch.rand(()).item() == drawn
    assert (second.position, second.scaler.get_scale()) == (first.position, 4.0)
    second.config = first.config
    gradients = [gradients_of_a_step(work, images, 2) for work in (first, second)]
    assert weights_digest(gradients[0]) == weights_digest(gradients[1])
    assert weights_digest(first.pretext.state_dict()) == weights_digest(second.pretext.state_dict())


def test_a_checkpoint_says_of_which_config_and_images_it_is(digits: ImageData) -> None:
    state = Trainer(build({**TINY, "train.seed": 5}), digits, CPU).state()
    assert Config.model_validate(state["config"]) == build({**TINY, "train.seed": 5})
    assert state["data_digest"] == digits.digest
    assert (state["step"], state["seconds"], state["processes"]) == (0, 0.0, 1)


def test_a_checkpoint_that_does_not_say_how_many_processes_wrote_it_is_that_of_one(
    digits: ImageData, tmp_path: Path
) -> None:
    work, run, noted = Trainer(build(TINY), digits, CPU), RunDirectory(tmp_path), Noted()
    state = work.state()
    del state["processes"]
    checkpoints.save(run.checkpoints, 0, state)
    _go_back(work, run, noted)
    assert noted.lines == ["continuing at step 0 of 10"]


def test_weights_have_one_digest_if_and_only_if_every_bit_and_name_is_the_same() -> None:
    weights = {"a": torch.tensor([0.0, 1.0]), "b": torch.ones(2, 2)}
    digest = weights_digest(weights)
    assert weights_digest({"b": weights["b"].T, "a": weights["a"].clone()}) == digest
    others = ({"a": torch.tensor([-0.0, 1.0])}, {"a": torch.tensor([0.0, 1 + 2**-23])}, {"b": torch.zeros(2, 2)})
    assert all(weights_digest({**weights, **other}) != digest for other in others)
    assert weights_digest({"a": weights["a"], "c": weights["b"]}) != digest


def test_an_epoch_is_as_many_whole_batches_as_there_are(digits: ImageData) -> None:
    for batch, expected in ((256, 5), (718, 2), (719, 1), (1437, 1)):
        assert steps_per_epoch(build({**TINY, "train.batch_size": batch}), digits) == expected


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
    with pytest.raises(SettingsError, match=r"CUDA out of memory; raise train.*"):
        run_pretraining(tiny, Workplace(tmp_path, "none", CPU, Silent(), StopRequest()))


def test_deterministic_kernels_have_the_workspace_that_cublas_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for wanted in (True, False):
        use_deterministic_kernels(wanted)
        assert torch.are_deterministic_algorithms_enabled() == wanted
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"


def test_a_batch_larger_than_the_data_is_refused(digits: ImageData) -> None:
    with pytest.raises(UserError, match="1437"):
        Trainer(build({**TINY, "train.batch_size": 2048}), digits, CPU)


def test_biases_and_norms_are_not_decayed(tiny: Config, digits: ImageData) -> None:
    pretext = Trainer(tiny, digits, CPU).pretext
    decayed = {id(parameter) for parameter in parameter_groups(pretext, 0.05)[0]["params"]}
    names = {name for name, parameter in pretext.named_parameters() if id(parameter) in decayed}
    assert not any("norm" in name or name.endswith("bias") for name in names)
    assert "encoder.blocks.0.attn.qkv.weight" in names


def start(runs_dir: Path, settings: list[str], life: Callable[..., None] = mae_cli) -> Forked:
    arguments = ["pretrain", "--runs-dir", str(runs_dir), "--device", "cpu", "--tracking-uri", "none", *settings]
    return Forked(life, runs_dir.with_suffix(".txt"), arguments)


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


def slow_then_stuck(said: Path, arguments: list[str]) -> None:
    """Be `mae-cli` on a disk that answers the thread three steps later, and amid the third checkpoint not at all."""
    save, seal, step = checkpoints.save, checkpoints._seal, Trainer.step
    taken, sealed = [0], []

    def counted(work: Trainer, batch: Batch, index: int) -> Step:
        found = step(work, batch, index)
        taken.append(index + 1)
        return found

    def slow(folder: Path, step: int, state: dict[str, Any]) -> None:
        while in_a_thread() and taken[-1] < step + 3:
            time.sleep(0.001)
        save(folder, step, state)

    def stuck(path: Path) -> None:
        sealed.append(path)
        if in_a_thread() and len(sealed) == 3:
            time.sleep(600)
        seal(path)

    Trainer.step, checkpoints.save, checkpoints._seal = counted, slow, stuck  # type: ignore[method-assign]
    background_saving.MOST_LOST, os.fsync = 1e9, lambda descriptor: None
    mae_cli(said, arguments)


def in_a_thread() -> bool:
    return threading.current_thread() is not threading.main_thread()


def test_a_run_killed_while_the_thread_writes_has_the_checkpoints_before_and_ends_with_the_same_bits(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    quick = ("run.checkpoint_seconds=1e-6", "run.knn_every=0", "run.picture_every=0", "train.epochs=8")
    settings = [*tiny_settings, *(part for each in quick for part in ("--set", each))]
    whole, killed = start(tmp_path / "whole", settings), start(tmp_path / "killed", settings, slow_then_stuck)
    while killed.lives() and not list(tmp_path.glob("killed/*/checkpoints/.step-*.tmp")):
        time.sleep(0.005)
    run = find_runs(tmp_path / "killed")[0]
    while killed.lives() and [each["step"] for each in run.read_metrics()][-1:] != [40]:
        time.sleep(0.005)  # until training has come to its last step beside the thread that writes
    killed.send(signal.SIGKILL)
    assert killed.code() == -signal.SIGKILL
    assert len(list(run.checkpoints.glob("step-*.pt"))) == 2
    assert len(list(run.checkpoints.glob(".step-*.tmp"))) == 1
    assert start(tmp_path / "killed", settings).code() == whole.code() == 0
    assert "continuing at step" in said(tmp_path / "killed")
    assert run.result()["weights_sha256"] == find_runs(tmp_path / "whole")[0].result()["weights_sha256"]


def with_little_room(said: Path, arguments: list[str]) -> None:
    """Be `mae-cli` where no file can have more than 50 kB; a checkpoint has more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    mae_cli(said, arguments)


def test_a_checkpoint_that_the_thread_cannot_write_ends_the_run(tiny_settings: list[str], runs_dir: Path) -> None:
    settings = [*tiny_settings, "--set", "train.epochs=5000", "--set", "run.checkpoint_seconds=0.01"]
    assert start(runs_dir, settings, with_little_room).code() == 1
    told = said(runs_dir).splitlines()[-1]
    assert re.search(r"cannot write .*checkpoints/step-\d+\.pt: ", told)
    (run,) = find_runs(runs_dir)
    assert list(run.checkpoints.iterdir()) == []
    record = run.read_record()
    assert record is not None
    assert record.status == "failed"


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
