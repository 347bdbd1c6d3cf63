"""The task of docs/pretext.md, as its page has it: it does what the page says."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mae.config.resolve import build
from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.errors import UserError
from mae.pretext.base import Pretext
from mae.pretext.registry import PRETEXTS
from mae.probing.online import evaluate_online
from mae.runs.directory import RunDirectory
from mae.runs.metrics import FINAL_LOSS
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Silent
from mae.runtime.rng import generator
from mae.training.loop import pretrain
from mae.training.step import Trainer
from tests.conftest import TINY
from tests.helpers.pretexts import batch_of, stored, surroundings
from tests.helpers.training import first_images, take_step

PAGE = Path(__file__).parents[3] / "docs" / "pretext.md"
CPU = torch.device("cpu")


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's code as a module, its task in the registry."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    module = ModuleType("blur")
    monkeypatch.setitem(sys.modules, "blur", module)
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(PRETEXTS, "blur", module.Blur)
    return module


def config_of(**more: Any) -> Config:
    """Return the config of the task; its name is not in the tree, which the page says to do."""
    config = build(TINY | more)
    return config.model_copy(update={"pretext": config.pretext.model_copy(update={"kind": "blur"})})


def made(config: Config) -> Pretext:
    return PRETEXTS["blur"](config, surroundings(config))


def test_its_loss_falls(own: ModuleType, digits: ImageData) -> None:
    work = Trainer(config_of(**{"train.epochs": 12, "train.base_lr": 4e-3}), digits, CPU)
    images = first_images(digits)
    losses = [take_step(work, images, step).losses["loss"].item() for step in range(40)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_it_is_pretrained_as_any_task_and_its_further_numbers_are_curves(
    own: ModuleType, digits: ImageData, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    result = pretrain(config_of(), digits, run, CPU, Silent(), StopRequest(), evaluate_online)
    assert result["metrics"][FINAL_LOSS] > 0
    assert all("train/accuracy" in point["metrics"] for point in run.read_metrics() if "train/loss" in point["metrics"])


def test_a_step_of_it_is_one_graph(own: ModuleType) -> None:
    config = config_of()
    pretext = made(config)
    torch._dynamo.reset()
    found = torch._dynamo.explain(pretext)(batch_of(stored(config, 4)), pretext.draw(4, generator(0, "step")))
    assert found.graph_break_count == 0, found.break_reasons


def test_images_are_blurred_as_often_as_is_drawn(own: ModuleType) -> None:
    images = torch.rand(1, 1, 8, 8).expand(4, -1, -1, -1)
    contrast = own.blurred(images, torch.arange(4)).std(dim=(1, 2, 3))
    assert torch.equal(own.blurred(images, torch.zeros(4, dtype=torch.int64)), images)
    assert contrast.tolist() == sorted(contrast.tolist(), reverse=True)


def test_a_name_that_the_tree_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"pretext\.kind=blur: expected one of mae"):
        build({"pretext.kind": "blur"})
