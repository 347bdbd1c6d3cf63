"""MoCo and SimSiam: what is compared with what, the queue, and the collapse that only a stop-gradient prevents."""

import math
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from cli import app
from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.errors import UserError
from mae.pretext.moco import MomentumContrast
from mae.pretext.simsiam import SimSiam, spread
from mae.pretext.two_views import two_views
from mae.runs.catalogue import find_runs
from mae.runs.directory import PRETEXT
from mae.runs.weights import read_weights
from mae.runtime.rng import generator
from mae.training.step import Trainer
from tests.conftest import TINY
from tests.helpers.commands import Forked, mae_cli
from tests.helpers.pretexts import batch_of, stored, surroundings
from tests.helpers.training import first_images, take_step

PLAIN = {key: value for key, value in TINY.items() if not key.startswith("model.decoder.")}
"""Settings that act where nothing is decoded."""


def config_of(kind: str, **more: Any) -> Config:
    return change(build(TINY), {"pretext.kind": kind} | more)


def moco(**more: Any) -> MomentumContrast:
    config = config_of("moco", **more)
    torch.manual_seed(0)
    return MomentumContrast(config, surroundings(config))


def keys_of(count: int, dim: int = 128) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=generator(0, "keys")), dim=1)


def test_the_first_views_crops_are_not_the_seconds() -> None:
    config = config_of("simsiam", **{"views.jitter": 0.0})
    pretext, images = SimSiam(config, surroundings(config)), stored(config, 4)
    draws = pretext.draw(4, generator(0, "step"))
    first, second = two_views(images, config, draws.crops, draws.views)
    assert not any(torch.allclose(one, other, atol=1e-3) for one, other in zip(first, second, strict=True))


def test_a_query_is_compared_with_its_key_and_the_queue_but_not_with_keys_of_its_own_image() -> None:
    pretext = moco(**{"moco.queue": 6})
    queries, keys = keys_of(8)[:4], keys_of(8)[4:]
    pretext.queued.copy_(torch.tensor([0, 7, 2, 9, 2, -1]))
    found = pretext._against_the_queue(queries, keys, torch.tensor([2, 0, 5, 9]), torch.arange(4))
    losses, right = [], 0
    for query, key, index in zip(queries, keys, (2, 0, 5, 9), strict=True):
        others = [other for other, image in zip(pretext.queue, pretext.queued, strict=True) if image != index]
        scores = [math.exp(query.dot(each).item() / 0.2) for each in [key, *others]]
        losses.append(-math.log(scores[0] / sum(scores)))
        right += scores[0] == max(scores)
    assert found["loss"].item() == pytest.approx(sum(losses) / 4, rel=1e-5)
    assert found["accuracy"].item() == pytest.approx(100 * right / 4)


@pytest.mark.parametrize("length", [3, 4, 7, 8, 21])
def test_the_queue_holds_the_latest_keys(length: int) -> None:
    pretext = moco(**{"moco.queue": length})
    keys, entered = keys_of(20), torch.arange(20) + 100
    for step in range(5):
        part = slice(4 * step, 4 * step + 4)
        pretext._enqueue(step + 1, keys[part], entered[part])
    kept = min(length, 20)
    held = pretext.queued >= 0
    assert sorted(pretext.queued[held].tolist()) == list(range(120 - kept, 120))
    assert torch.equal(pretext.queue[held], keys[pretext.queued[held] - 100])


def test_a_step_puts_its_keys_into_the_queue(digits: ImageData) -> None:
    settings = {"moco.queue": 1000, "moco.batch_norm": False, "train.micro_batches": 4}
    work = Trainer(config_of("moco", **settings), digits, torch.device("cpu"))
    pretext, images = work.pretext, first_images(digits)
    assert isinstance(pretext, MomentumContrast)
    draws = pretext.draw(256, generator(work.config.train.seed, "step", 0))
    with torch.no_grad():
        second = two_views(images, work.config, draws.crops, draws.views)[1]
        expected = pretext._keys(second)[0]
    take_step(work, images)
    assert pretext.queued[:257].tolist() == [*range(256), -1]
    assert torch.allclose(pretext.queue[:256], expected, atol=1e-6)


@pytest.mark.parametrize(("settings", "told"), [({}, False), ({"moco.batch_norm": False}, True)])
def test_a_drift_common_to_all_keys_tells_none_from_older_ones(settings: dict[str, Any], told: bool) -> None:
    pretext = moco(**settings)
    images = torch.rand(6, 1, *pretext.config.data.image_size, generator=torch.Generator().manual_seed(0))
    (before,) = pretext._keys(images)
    pretext.key_head[2].bias += 0.5
    (after,) = pretext._keys(images)
    assert torch.allclose(before, after, atol=1e-5) is not told


@pytest.mark.parametrize(("version", "moved"), [("v2", 0.2), ("v3", 0.1)])  # v3: half of a cosine from 0.2 to 0
def test_keys_are_made_by_a_moving_average_of_the_encoder(version: str, moved: float) -> None:
    pretext = moco(**{"moco.version": version, "moco.momentum": 0.8})
    before = [each.clone() for each in pretext.key_encoder.parameters()]
    with torch.no_grad():
        for each in pretext.encoder.parameters():
            each += 1
    found = pretext(batch_of(stored(pretext.config, 256)), pretext.draw(256, generator(0, "step")))
    pretext.after_step(5, 10, found)
    for then, now in zip(before, pretext.key_encoder.parameters(), strict=True):
        assert torch.allclose(now - then, torch.full_like(then, moved), atol=1e-6)


def test_the_third_version_contrasts_a_batch_both_ways() -> None:
    pretext = moco(**{"moco.version": "v3"})
    images = stored(pretext.config, 8)
    draws = pretext.draw(8, generator(0, "step"))
    found = pretext(batch_of(images), draws)["loss"]
    first, second = two_views(images, pretext.config, draws.crops, draws.views)
    expected = torch.zeros(())
    for one, other in ((first, second), (second, first)):
        scores = pretext._queries(one)[0] @ pretext._keys(other)[0].T / 0.2
        expected = expected + 2 * 0.2 * (scores.logsumexp(dim=1) - scores.diagonal()).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_frozen_patch_projection_stays_as_it_is(digits: ImageData) -> None:
    work = Trainer(
        config_of("moco", **{"moco.version": "v3", "moco.frozen_patches": True}), digits, torch.device("cpu")
    )
    before = {name: value.clone() for name, value in work.pretext.encoder.state_dict().items()}
    take_step(work, first_images(digits), 3)
    changed = {name for name, value in work.pretext.encoder.state_dict().items() if not value.equal(before[name])}
    assert {"patch_embed.proj.weight", "patch_embed.proj.bias"}.isdisjoint(changed)
    assert "blocks.0.attn.qkv.weight" in changed


def test_a_queue_survives_kill_9_to_the_bit(tmp_path: Path) -> None:
    settings = PLAIN | {"pretext.kind": "moco", "moco.queue": 1500, "train.epochs": 30, "run.checkpoint_seconds": 0}
    fixed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]

    def start(name: str) -> Forked:
        arguments = [
            "pretrain",
            *fixed,
            "--runs-dir",
            str(tmp_path / name),
            "--device",
            "cpu",
            "--tracking-uri",
            "none",
        ]
        return Forked(mae_cli, tmp_path / f"{name}.txt", arguments)

    whole, killed = start("whole"), start("killed")
    while killed.lives() and not list((tmp_path / "killed").glob("*/checkpoints/step-*.pt")):
        time.sleep(0.005)
    killed.send(signal.SIGKILL)
    assert killed.code() == -signal.SIGKILL
    assert start("killed").code() == whole.code() == 0
    assert "continuing at step" in (tmp_path / "killed.txt").read_text()
    (one,), (other,) = (find_runs(tmp_path / name) for name in ("whole", "killed"))
    first, second = (read_weights(run.path / PRETEXT) for run in (one, other))
    assert len(first["queued"].unique()) > 1000
    assert all(torch.equal(first[name], second[name]) for name in ("queue", "queued"))
    assert one.result()["weights_sha256"] == other.result()["weights_sha256"]


def test_spread_is_1_for_outputs_in_all_directions_and_0_for_one_point() -> None:
    outputs = torch.randn(5000, 16, generator=generator(0, "outputs"))
    assert spread(outputs).item() == pytest.approx(1, abs=0.01)
    assert spread(outputs[:1] * torch.arange(1, 50)[:, None]).item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("kept", [True, False])
def test_outputs_collapse_without_stop_gradient_and_the_result_says_so(kept: bool, tmp_path: Path) -> None:
    settings = PLAIN | {"pretext.kind": "simsiam", "simsiam.stop_gradient": str(kept).lower()}
    settings |= {"train.batch_size": 64, "train.base_lr": 0.04, "run.knn_every": 0}
    fixed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    place = ["--runs-dir", str(tmp_path), "--device", "cpu", "--tracking-uri", "none"]
    told = CliRunner().invoke(app, ["pretrain", *fixed, *place])
    assert told.exit_code == 0, told.output
    (run,) = find_runs(tmp_path)
    found = run.result()["metrics"]["train/final_output_std"]
    assert (found > 0.8) if kept else (found < 0.5)
    assert ("outputs have collapsed" in told.output) == (not kept)


@pytest.mark.parametrize("base_lr", [1e-9, 0.02])
def test_a_task_that_is_not_learned_is_told(base_lr: float, tmp_path: Path) -> None:
    settings = PLAIN | {"pretext.kind": "rotation", "train.base_lr": base_lr, "train.epochs": 10, "run.knn_every": 0}
    fixed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    place = ["--runs-dir", str(tmp_path), "--device", "cpu", "--tracking-uri", "none"]
    told = CliRunner().invoke(app, ["pretrain", *fixed, *place])
    assert told.exit_code == 0, told.output
    assert ("and a guess has 1.386" in told.output) == (base_lr < 1e-3)


def test_targets_get_a_gradient_without_the_stop_only() -> None:
    for stop, expected in ((True, False), (False, True)):
        config = config_of("simsiam", **{"simsiam.stop_gradient": stop})
        pretext = SimSiam(config, surroundings(config))
        target = torch.randn(4, 256, requires_grad=True)
        pretext._distance(torch.randn(4, 256), target).backward()
        assert (target.grad is not None) == expected


def test_colours_that_would_change_twice_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.augmentation=color_jitter: views\.jitter says how colours change"):
        config_of("simsiam", **{"data.augmentation": "color_jitter"})


@pytest.mark.parametrize("settings", [{"pretext.kind": "simsiam"}, {"pretext.kind": "moco", "moco.version": "v3"}])
def test_a_batch_of_one_image_that_has_no_other_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"train\.batch_size=1: expected at least 2"):
        change(build(TINY), settings | {"train.batch_size": 1})
