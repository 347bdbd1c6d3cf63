"""`train.init_from`: which weights a run begins with, what it refuses, and that they are part of what identifies it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cli import app
from mae.config.fingerprint import pretrain_fingerprint, untrained_fingerprint
from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.data.dataset import ImageData, load_data
from mae.errors import UserError
from mae.models.vit import sincos_positions
from mae.pipeline import Workplace, run_pretraining
from mae.pretext.base import Pretext
from mae.pretext.beginning import Beginning, begin
from mae.pretext.registry import new_pretext
from mae.runs.directory import ENCODER, PRETEXT, RunDirectory
from mae.runs.initial_run import initial_run, task_differences
from mae.runs.named_runs import with_whole_fingerprints
from mae.runs.weights import read_weights
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Silent
from tests.conftest import TINY

CPU = torch.device("cpu")
QUICK = TINY | {"train.epochs": 1, "run.knn_every": 0}


def trained(config: Config, runs_dir: Path) -> RunDirectory:
    return run_pretraining(config, Workplace(runs_dir, "none", CPU, Silent(), StopRequest()))


def other_weights(config: Config, data: ImageData) -> dict[str, torch.Tensor]:
    """The state of a task of the config that no seed gives: every number is another."""
    state = new_pretext(config, data).state_dict()
    return {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}


def begun(config: Config, data: ImageData, state: dict[str, torch.Tensor], whole: bool, grid: Any = None) -> Pretext:
    return new_pretext(config, data, beginning=Beginning(state, grid or config.grid, whole))


def test_all_weights_are_begun_with_where_tasks_are_made_alike(tiny: Config, digits: ImageData) -> None:
    state = other_weights(tiny, digits)
    for name, value in begun(tiny, digits, state, whole=True).state_dict().items():
        assert torch.equal(value, state[name]), name


def test_elsewhere_the_encoder_is_and_the_rest_starts_as_without(tiny: Config, digits: ImageData) -> None:
    state, config = other_weights(tiny, digits), change(tiny, {"model.decoder.depth": 2})
    from_scratch = new_pretext(config, digits).state_dict()
    for name, value in begun(config, digits, state, whole=False).state_dict().items():
        expected = state[name] if name.startswith("encoder.") else from_scratch[name]
        assert torch.equal(value, expected), name


@pytest.mark.parametrize(("here", "there"), [(False, True), (True, False), (True, True)])
def test_a_mask_token_is_taken_over_if_both_encoders_have_one(here: bool, there: bool, digits: ImageData) -> None:
    config, its = (build(TINY | {"model.encoder_mask_tokens": each}) for each in (here, there))
    state, fresh = other_weights(its, digits), new_pretext(config, digits).state_dict()
    found = begun(config, digits, state, whole=False).state_dict()
    name = "encoder.encoder_mask_token"
    assert (name in found) == here
    if here:
        assert torch.equal(found[name], (state if there else fresh)[name])
    assert torch.equal(found["encoder.cls_token"], state["encoder.cls_token"])


def test_positions_of_another_grid_are_interpolated(digits: ImageData) -> None:
    its = build(TINY)
    larger = change(its, {"data.image_size": [16, 16]})
    task, state = new_pretext(its, digits), new_pretext(its, digits).state_dict()
    big = load_data(larger.data, larger.run, Silent())
    found = begun(larger, big, state, whole=False, grid=its.grid).encoder.pos_embed
    assert found.shape == (1, 65, 16)
    assert torch.equal(found[:, :1], state["encoder.pos_embed"][:, :1])
    middle = found[:, 1:].unflatten(1, (8, 8)).unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean(dim=(2, 4))
    coarse = sincos_positions(16, (4, 4))[:, 1:].unflatten(1, (4, 4))
    assert (middle - coarse)[:, 1:-1, 1:-1].abs().max() < 0.2  # of numbers in -1..1
    assert task.config.grid == (4, 4)


def test_how_far_a_training_is_starts_anew(digits: ImageData) -> None:
    config = change(build(TINY), {"pretext.kind": "dvae"})
    state = other_weights(config, digits)
    found = begun(config, digits, state, whole=True).state_dict()
    assert found["progress"] == 0
    assert torch.equal(found["codebook"], state["codebook"])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mask.ratio": 0.5, "train.epochs": 9, "loss.region": "all", "data.augmentation": "none"}, []),
        ({"model.decoder.depth": 2}, ["model.decoder.depth=1"]),
        ({"target.kind": "normalized_pixels"}, ["target.kind=pixels"]),
        ({"pretext.kind": "rotation"}, ["pretext.kind=mae"]),
        ({"data.image_size": [16, 16]}, ["data.image_size=8 x 8"]),
    ],
)
def test_tasks_are_made_alike_if_settings_of_task_and_model_are(settings: dict[str, Any], told: list[str]) -> None:
    its = build(TINY)
    assert task_differences(change(its, settings), its)[:1] == told


def test_what_a_run_begins_with_is_in_its_fingerprint_and_not_in_its_untrained_baselines(tiny: Config) -> None:
    with_it = change(tiny, {"train.init_from": "0123456789ab"})
    assert pretrain_fingerprint(with_it, "images") != pretrain_fingerprint(tiny, "images")
    assert untrained_fingerprint(with_it, "images") == untrained_fingerprint(tiny, "images")


def test_a_run_goes_on_where_another_ended(runs_dir: Path) -> None:
    first = trained(build(QUICK), runs_dir)
    still = {"train.init_from": first.path.name, "train.base_lr": 1e-12, "train.weight_decay": 0.0}
    second = trained(build(QUICK | still), runs_dir)
    for file in (ENCODER, PRETEXT):
        ended, now = (read_weights(run.path / file) for run in (first, second))
        assert all(torch.allclose(now[name], value, atol=1e-6) for name, value in ended.items())


def test_a_part_of_a_fingerprint_is_enough_and_the_line_says_what_is_begun_with(runs_dir: Path) -> None:
    first = trained(build(QUICK), runs_dir)
    settings = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
    given = ["--set", f"train.init_from={first.path.name[:6]}", "--set", "model.decoder.depth=2"]
    arguments = ["pretrain", *settings, *given, "--runs-dir", str(runs_dir), "--tracking-uri", "none", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert (
        f"begins with the encoder of {first.path.name}; the rest is new: model.decoder.depth=1 there" in result.stderr
    )
    run = runs_dir / json.loads(result.stdout.splitlines()[-1])["run"]
    assert f'init_from = "{first.path.name}"' in (run / "config.toml").read_text()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model.encoder.dim": 32}, "its model.encoder.dim is 16, expected 32 as here"),
        ({"model.encoder.heads": 4}, "its model.encoder.heads is 2, expected 4 as here"),
        ({"model.patch_size": [4, 4]}, "its model.patch_size is 2 x 2, expected 4 x 4 as here"),
        ({"model.norm_eps": 1e-12}, "its model.norm_eps is 1e-06, expected 1e-12 as here"),
        ({"pretext.kind": "igpt_ar"}, "its encoder reads patches, expected one of pixels of a palette"),
    ],
)
def test_an_encoder_of_another_shape_is_refused(settings: dict[str, Any], told: str, runs_dir: Path) -> None:
    first = trained(build(QUICK), runs_dir)
    with pytest.raises(UserError, match=f"train.init_from={first.path.name}: {told}"):
        initial_run(change(build(QUICK), settings | {"train.init_from": first.path.name}), runs_dir)


def test_a_run_that_is_not_there_is_refused_and_an_untrained_encoder_begins_from_none(runs_dir: Path) -> None:
    with pytest.raises(UserError, match=r"no run in .* starts with 'abc'"):
        with_whole_fingerprints(build(QUICK | {"train.init_from": "abc"}), runs_dir)
    with pytest.raises(UserError, match="expected a finished run in"):
        initial_run(build(QUICK | {"train.init_from": "0123456789ab"}), runs_dir)
    with pytest.raises(UserError, match=r"train\.init_from=abc has no effect"):
        change(build(QUICK), {"train.init_from": "abc", "pretext.kind": "random"})


def test_begin_leaves_what_another_run_lacks(tiny: Config, digits: ImageData) -> None:
    task = new_pretext(tiny, digits)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    encoder = {name: value + 1 for name, value in before.items() if name.startswith("encoder.")}
    begin(task, Beginning(encoder, tiny.grid, whole=False))
    changed = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(encoder)
