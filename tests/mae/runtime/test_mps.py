"""Apple's GPUs, as far as they can be told of without one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mae.config.resolve import build
from mae.errors import ImpossibleSettings, UserError
from mae.pretext.regions import REGIONS
from mae.runtime import mps
from mae.runtime.distributed import Processes
from mae.runtime.machine import choose_device
from mae.runtime.rng import generator
from mae.training.background_saving import Saver
from tests.conftest import TINY
from tests.helpers.pretexts import batch_of, mask_of, stored
from tests.mae.pretext.test_tasks import config_of, each_task, make

MPS = torch.device("mps")


class _NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        assert getattr(found, "dtype", None) != torch.float64, f"{function} makes float64, which MPS has not"
        return found


@pytest.fixture
def with_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_mps_is_taken_where_pytorch_has_it_and_it_is_asked_for(with_mps: None) -> None:
    assert choose_device("mps") == MPS
    assert choose_device("auto").type != "mps"


@pytest.mark.parametrize(("built", "reason"), [(True, "finds no GPU of Apple's"), (False, "is built without MPS")])
def test_mps_is_refused_elsewhere(built: bool, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: built)
    with pytest.raises(UserError, match=f"--device mps.*{reason}.*cpu"):
        choose_device("mps")


def test_mps_is_refused_to_several_processes(with_mps: None) -> None:
    with pytest.raises(UserError, match="2 processes"):
        choose_device("mps", Processes(0, 2, 0, 2))


@pytest.mark.parametrize(
    "settings",
    [
        {"train.precision": "bf16"},
        {"train.precision": "fp16"},
        {"train.compile": "default"},
        {"mask.sampling": "colored_noise"},
        {"pretext.kind": "inpaint", "inpaint.region": "shapes"},
    ],
    ids=lambda settings: list(settings.values())[-1],
)
def test_what_is_refused_on_mps_names_the_key_and_a_way_out(settings: dict[str, Any]) -> None:
    key, value = list(settings.items())[-1]
    with pytest.raises(ImpossibleSettings, match=f"^{key}={value} on --device mps: .*; give {key}=.*, or --device cpu"):
        mps.check(build(TINY | settings), MPS)
    mps.check(build(TINY | settings), torch.device("cpu"))


def test_a_setting_that_does_not_act_is_not_refused_on_mps() -> None:
    mps.check(build(TINY | {"pretext.kind": "rotation", "mask.sampling": "colored_noise"}, refuse_inert=False), MPS)


@each_task
def test_a_task_computes_nothing_in_float64_where_its_batch_is(kind: str) -> None:
    config = config_of(kind)
    task = make(config)
    draws = task.draw(4, generator(0, "draws"))
    with _NoFloat64():
        task(batch_of(stored(config, 4)), draws)


def test_masks_and_regions_that_are_not_refused_compute_nothing_in_float64() -> None:
    config = build(TINY | {"pretext.kind": "inpaint", "inpaint.region": "blocks"})
    from mae.pretext.masking import SAMPLERS

    with _NoFloat64():
        for sampling in SAMPLERS.keys() - set(mps.REFUSED["mask.sampling"].values):
            mask_of(sampling, generator(0, "masks"), 4, (4, 4), 4)
        for region in REGIONS.keys() - set(mps.REFUSED["inpaint.region"].values):
            made = REGIONS[region]
            made.covered(made.draw(generator(0, "regions"), 4, config), config, torch.device("cpu"))


def test_a_copy_from_a_device_without_pinned_memory_is_waited_for() -> None:
    waits = []

    class Copies(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.Tensor.copy_:
                waits.append((kwargs or {}).get("non_blocking", False))
            return function(*args, **(kwargs or {}))

    with Copies():
        Saver(Path(), MPS)._copy({"a": torch.ones(1)})
    assert waits == [False]
