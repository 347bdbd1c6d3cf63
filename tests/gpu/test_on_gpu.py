"""What a GPU has to give: the numbers of the CPU, the same bits again, and errors that are told.

Skipped where there is no CUDA device, unless MAE_TEST_DEVICE names one: `MAE_TEST_DEVICE=cpu pytest tests/gpu` tries
the tests themselves, and with `cuda` they fail without a GPU.
"""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mae.config.resolve import build, change
from mae.data.dataset import ImageData
from mae.errors import SettingsError
from mae.pipeline import Workplace, run_pretraining
from mae.pretext.registry import PRETEXTS
from mae.probing.online import evaluate_online
from mae.runs.metrics import ONLINE
from mae.runtime.interruption import Interrupted, StopRequest
from mae.runtime.progress import Silent
from mae.training import checkpoints
from mae.training.background_saving import Saver
from mae.training.step import Trainer, check_finite
from tests.conftest import TINY
from tests.helpers.training import StopAfter, first_images, step_and_gradients, take_step

CPU, DEVICE = torch.device("cpu"), torch.device(os.environ.get("MAE_TEST_DEVICE", "cuda"))
ON_GPU = DEVICE.type == "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "MAE_TEST_DEVICE" not in os.environ and not torch.cuda.is_available(), reason="needs a CUDA device"
    ),
]

VARIANTS: dict[str, dict[str, Any]] = {
    "mae": {},
    "normalised": {"target.kind": "normalized_pixels"},
    "pca": {"target.kind": "pca"},
    "low_pass": {"target.kind": "low_pass"},
    "blocks": {"mask.sampling": "block", "mask.ratio": 0.5},
    "grid": {"mask.sampling": "grid"},
    "colored noise": {"mask.sampling": "colored_noise"},
    "weighted": {"loss.region": "weighted", "loss.visible_weight": 0.25},
    "flips": {"data.flip": True},
    "context": {
        "model.decoder.depth": 2,
        "model.decoder.mixing": "convolutions",
        "model.decoder.global_token": True,
        "model.decoder.fusion": [1],
    },
    **{kind: {"pretext.kind": kind} for kind in PRETEXTS if kind != "mae"},
    **{noise: {"pretext.kind": "denoise", "denoise.noise": noise} for noise in ("masked_patches", "salt_and_pepper")},
    **{f"inpaint {each}": {"pretext.kind": "inpaint", "inpaint.region": each} for each in ("blocks", "shapes")},
}


def settings(variant: str = "mae", **more: Any) -> Any:
    return change(build(TINY), VARIANTS[variant] | {key.replace("__", "."): value for key, value in more.items()})


def step_of(config: Any, digits: ImageData, device: torch.device) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Take one step; return its losses and gradients, on the CPU."""
    step, gradients = step_and_gradients(Trainer(config, digits, device), first_images(digits))
    losses = {name: value.item() for name, value in step.losses.items()}
    return losses, {name: gradient.cpu() for name, gradient in gradients.items()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.linalg.vector_norm(found[name] - gradient) <= share * torch.linalg.vector_norm(gradient), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_those_of_the_cpu(variant: str, digits: ImageData) -> None:
    expected, gradients = step_of(settings(variant), digits, CPU)
    found, others = step_of(settings(variant), digits, DEVICE)
    assert found == pytest.approx(expected, rel=1e-4)
    assert_close(others, gradients, 1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_stays_near_full_precision(precision: str, digits: ImageData) -> None:
    expected, gradients = step_of(settings(), digits, DEVICE)
    found, others = step_of(settings(train__precision=precision), digits, DEVICE)
    assert found == pytest.approx(expected, rel=2e-2)
    if precision == "bf16":  # those of fp16 are scaled
        assert_close(others, gradients, 0.05)


@pytest.fixture
def any_kernels() -> Iterator[None]:
    """`train.deterministic` holds for the process."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_ends_with_the_same_bits(precision: str, tmp_path: Path, any_kernels: None) -> None:
    config = settings(train__deterministic=True, train__precision=precision)

    def train(folder: str, stop: StopRequest) -> Any:
        return run_pretraining(config, Workplace(tmp_path / folder, "none", DEVICE, Silent(), stop)).result()

    whole = train("whole", StopRequest())
    with pytest.raises(Interrupted):
        train("parts", StopAfter(3))
    assert train("parts", StopRequest())["weights_sha256"] == whole["weights_sha256"]


def test_what_is_saved_beside_training_are_the_weights_of_its_step(digits: ImageData, tmp_path: Path) -> None:
    trainer, images = Trainer(settings(), digits, DEVICE), first_images(digits)
    for index in range(2):
        take_step(trainer, images, index)
    then = {name: value.cpu().clone() for name, value in trainer.pretext.state_dict().items()}
    with Saver(tmp_path, DEVICE) as saver:
        saver.begin(2, trainer.state())
        for index in range(2, 6):
            take_step(trainer, images, index)
        assert any(place.is_pinned() for place in saver.memory) == ON_GPU
    saved = checkpoints.load(checkpoints.checkpoint(tmp_path, 2))["pretext"]
    assert all(torch.equal(saved[name], value) for name, value in then.items())


def test_the_online_evaluation_is_that_of_the_cpu(digits: ImageData) -> None:
    pretext = Trainer(settings(), digits, CPU).pretext
    expected = evaluate_online(pretext, digits)
    found = evaluate_online(copy.deepcopy(pretext).to(DEVICE), digits)
    assert found.pop(ONLINE) == pytest.approx(expected.pop(ONLINE), abs=1.0)
    assert found == pytest.approx(expected, rel=0.02)


def test_a_step_of_fp16_that_overflows_is_skipped_and_the_next_is_scaled_less(digits: ImageData) -> None:
    trainer = Trainer(settings(train__precision="fp16"), digits, DEVICE)
    trainer.scaler = torch.amp.GradScaler(DEVICE.type, init_scale=2.0**126)
    take_step(trainer, first_images(digits), 1)
    assert trainer.scaler.get_scale() == 2.0**125
    check_finite(int(trainer.bad_step))


@pytest.mark.skipif(not ON_GPU, reason="the memory of the CPU is not limited")
def test_a_run_that_does_not_fit_says_what_to_do(tmp_path: Path) -> None:
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(SettingsError, match=r"out of memory.*raise train.micro_batches"):
            run_pretraining(
                settings(model__encoder__dim=1024, model__encoder__heads=16, model__encoder__depth=12),
                Workplace(tmp_path, "none", DEVICE, Silent(), StopRequest()),
            )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("variant", ["mae", *(kind for kind in PRETEXTS if kind != "mae")])
@pytest.mark.parametrize("how", ["default", "cudagraphs"])
def test_compiled_steps_are_the_eager_ones(how: str, variant: str, digits: ImageData) -> None:
    losses, images = [], first_images(digits)
    for each in ("off", how):
        work = Trainer(settings(variant, train__compile=each, train__micro_batches=2), digits, DEVICE)
        steps = [take_step(work, images, index) for index in range(6)]  # CUDA graphs replay from the third pass on
        losses.append([value.item() for step in steps for value in (step.losses["loss"], step.norm)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
