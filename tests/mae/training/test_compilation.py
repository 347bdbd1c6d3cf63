import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.exc import InvalidCxxCompiler

from mae.config.resolve import build
from mae.config.tree import TrainConfig
from mae.data.dataset import ImageData
from mae.errors import SettingsError, UserError
from mae.pipeline import Workplace, run_pretraining
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Silent
from mae.training.compilation import MODES
from mae.training.step import Trainer
from tests.conftest import TINY
from tests.helpers.training import first_images, gradients_of_a_step, step_and_gradients, take_step

CPU = torch.device("cpu")


@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor needs a C++ compiler")
def test_the_compiled_step_is_the_eager_one_and_is_compiled_once(digits: ImageData) -> None:
    torch._dynamo.reset()
    counters.clear()
    images, settings = first_images(digits), {**TINY, "train.micro_batches": 2}
    eager = Trainer(build(settings), digits, CPU)
    compiled = Trainer(build({**settings, "train.compile": "default"}), digits, CPU)
    for index in range(2):
        (expected, exact), (found, gradients) = (step_and_gradients(each, images, index) for each in (eager, compiled))
        assert found.losses["loss"].item() == pytest.approx(expected.losses["loss"].item(), rel=1e-5)
        for name, gradient in exact.items():
            difference = torch.linalg.vector_norm(gradients[name] - gradient)
            assert difference <= 1e-4 * torch.linalg.vector_norm(gradient), name
    assert counters["stats"]["unique_graphs"] == 1


def test_every_way_to_compile_is_one_of_pytorchs() -> None:
    offered = TrainConfig.model_json_schema()["properties"]["compile"]["enum"]
    assert offered == ["off", *MODES]
    assert set(MODES.values()) <= set(torch._inductor.list_mode_options())


@pytest.mark.parametrize(("asked", "expected"), [("off", None), ("max-autotune", "max-autotune")])
def test_steps_go_through_the_compiled_task_if_that_is_asked_for(
    asked: str, expected: str | None, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[str] = []

    def compiled(module: nn.Module, mode: str, **options: Any) -> Any:
        assert options == {"fullgraph": True, "dynamic": False}
        return lambda *given: modes.append(mode) or module(*given)  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", compiled)
    take_step(Trainer(build({**TINY, "train.compile": asked}), digits, CPU), first_images(digits))
    assert modes == [expected] * (expected is not None)


def test_replaying_without_a_gpu_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    where = Workplace(tmp_path / "runs", "none", CPU, Silent(), StopRequest())
    with pytest.raises(UserError, match=r"train\.compile=cudagraphs: expected a GPU, not cpu; give default or off"):
        run_pretraining(build({**TINY, "train.compile": "cudagraphs"}), where)
    assert not (tmp_path / "runs").exists()


def test_a_machine_without_a_compiler_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise InvalidCxxCompiler

    monkeypatch.setattr("mae.pipeline.pretrain", fail)
    expected = r"this machine cannot compile: No working C\+\+ compiler.*; give train\.compile=off"
    with pytest.raises(SettingsError, match=expected):
        run_pretraining(build(TINY), Workplace(tmp_path, "none", CPU, Silent(), StopRequest()))


def test_gradients_that_are_kept_are_added_to_in_place_and_emptied_by_each_step(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, images = {**TINY, "train.micro_batches": 2}, first_images(digits)
    expected = gradients_of_a_step(Trainer(build(settings), digits, CPU), images)
    monkeypatch.setattr("mae.training.step.compiled", lambda pretext, how: pretext)
    work = Trainer(build({**settings, "train.compile": "max-autotune"}), digits, CPU)
    places = {name: parameter.grad for name, parameter in work.pretext.named_parameters()}
    found = gradients_of_a_step(work, images)
    for name, parameter in work.pretext.named_parameters():
        assert found[name].equal(expected[name])
        assert parameter.grad is places[name]
        assert not parameter.grad.any()


@pytest.mark.parametrize(("before", "now"), [(True, "default"), (False, "off")])
def test_records_that_have_a_switch_are_read(before: bool, now: str) -> None:
    assert build({"train.compile": before}).train.compile == now
