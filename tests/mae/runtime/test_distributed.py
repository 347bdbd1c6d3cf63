"""Several processes, over gloo: the numbers of one, one voice, and whatever may happen to one of them."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from cli import app
from mae.config.resolve import build
from mae.data.dataset import ImageData, Split
from mae.errors import UserError
from mae.runs.catalogue import find_runs
from mae.runs.directory import ENCODER, PRETEXT, RunDirectory, probes_of, status_of
from mae.runs.weights import read_weights
from mae.runtime.distributed import Processes, launched
from mae.runtime.machine import choose_device
from mae.training.loader import batches
from mae.training.step import Trainer
from tests.conftest import TINY
from tests.helpers.commands import Group, mae_cli

SMALL = TINY | {"train.batch_size": 252, "train.epochs": 4, "run.knn_every": 0}
"""20 steps of a batch that 2 and 3 processes can share."""

NO_DECODER = {"model.decoder.dim": 32, "model.decoder.depth": 2, "model.decoder.heads": 4}
"""The defaults, for tasks that have none."""

CLIPS = {"data.source": "moving_digits", "data.frames": 4, "data.stored_frames": 6, "model.patch_size": 4}

LONG = SMALL | {"train.epochs": 400, "run.checkpoint_seconds": 0.0}
"""What does not end before it is stopped."""


def command(runs_dir: Path, settings: dict[str, Any], name: str = "pretrain") -> list[str]:
    fixed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [name, *fixed, "--runs-dir", str(runs_dir), "--tracking-uri", "none", "--device", "cpu"]


def start(count: int, runs_dir: Path, settings: dict[str, Any], **more: Any) -> Group:
    return Group(runs_dir, [command(runs_dir, settings)] * count, **more)


def finish(count: int, runs_dir: Path, settings: dict[str, Any]) -> str:
    """Pretrain to the end; return what process 0 said."""
    codes, said = start(count, runs_dir, settings).wait()
    assert codes == [0] * count, said
    return said[0]


def the_run(runs_dir: Path) -> RunDirectory:
    (found,) = find_runs(runs_dir)
    return found


def last_step(runs_dir: Path) -> int:
    """Return the step of the last checkpoint, 0 if there is none."""
    return max((int(path.stem.split("-")[1]) for path in runs_dir.glob("*/checkpoints/step-*.pt")), default=0)


def wait_for_a_checkpoint(runs_dir: Path, alive: Callable[[], bool], after: int = 0) -> None:
    while last_step(runs_dir) <= after:
        assert alive()
        time.sleep(0.01)


def digest(runs_dir: Path) -> str:
    return str(the_run(runs_dir).result()["weights_sha256"])


def assert_equal_weights(first: Path, second: Path, normed: bool = False) -> None:
    """Compare to 1e-6, but for the biases of keys: softmax ignores them, their gradients are rounding alone.

    With outputs that are `normed` over the batch so are biases before them, and rounding counts for more: most in moco
    v2's head, whose hidden units are nearly always off, or on, and in what comes out of it.
    """
    one, other = (
        {**read_weights(the_run(folder).path / ENCODER), **read_weights(the_run(folder).path / PRETEXT)}
        for folder in (first, second)
    )
    for name, value in one.items():
        difference = (value - other[name]).abs()
        if name.endswith("qkv.bias"):
            difference = difference.view(3, -1)[[0, 2]]
        shifts = name.endswith(("encoder.norm.bias", "head.0.bias", "head.2.bias")) or name == "norm.bias"
        if not normed or not shifts:
            few_units = normed and name.startswith(("head.", "key_head.", "queue"))
            assert difference.max() <= (1e-3 if few_units else 2e-4 if normed else 1e-6), name


@pytest.mark.parametrize(
    "more",
    [
        {"train.clip_norm": 1.0},
        {"target.kind": "pca", "train.micro_batches": 2, "data.augmentation": "color_jitter"},
        {"target.kind": "normalized_pixels", "loss.region": "weighted", "model.encoder_mask_tokens": "true"},
        {"pretext.kind": "denoise", "denoise.noise": "masked_pixels", "train.micro_batches": 2},
        {"model.decoder.depth": 2, "model.decoder.mixing": "convolutions", "model.decoder.global_token": "true"}
        | {"model.decoder.fusion": "[1]"},
        {"pretext.kind": "inpaint", "inpaint.region": "shapes", "inpaint.overlap": 0.13, "train.micro_batches": 2},
        {"pretext.kind": "moco", "moco.queue": 1500, "moco.batch_norm": "false", "train.micro_batches": 3} | NO_DECODER,
        {"pretext.kind": "moco", "moco.queue": 1500} | NO_DECODER,
        {"pretext.kind": "moco", "moco.version": "v3"} | NO_DECODER,
        {"pretext.kind": "simsiam"} | NO_DECODER,
        {"pretext.kind": "instance"} | NO_DECODER,
        CLIPS | {"pretext.kind": "video_mae", "train.micro_batches": 2},
    ],
)
def test_two_processes_train_the_weights_of_one(more: dict[str, Any], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert CliRunner().invoke(app, command(one, SMALL | more)).exit_code == 0
    finish(2, two, SMALL | more)
    normed = more.get("pretext.kind") in ("simsiam", "instance", "moco") and "moco.batch_norm" not in more
    assert_equal_weights(one, two, normed)
    assert the_run(one).path.name == the_run(two).path.name
    curves = [[point["metrics"] for point in the_run(folder).read_metrics()] for folder in (one, two)]
    for name in ("train/loss", "train/gradient_norm"):
        alone, shared = ([point[name] for point in points] for points in curves)
        assert alone[:3] == pytest.approx(shared[:3], rel=1e-5)
        assert alone == pytest.approx(shared, rel=2e-2 if normed else 1e-5)  # rounding grows from step to step


@pytest.mark.parametrize("kind", ["mae", "vqvae"])  # whose codebook is no matter of gradients
def test_pieces_of_equal_size_give_equal_bits(kind: str, tmp_path: Path) -> None:
    settings = SMALL | {"pretext.kind": kind}
    assert CliRunner().invoke(app, command(tmp_path / "one", settings | {"train.micro_batches": 2})).exit_code == 0
    finish(2, tmp_path / "two", settings)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_two_processes_predict_the_codes_of_a_tokenizer_that_the_first_has_read(tmp_path: Path) -> None:
    one, two, tokens = tmp_path / "one", tmp_path / "two", SMALL | {"target.kind": "tokens"}
    assert CliRunner().invoke(app, command(one, SMALL | {"pretext.kind": "dvae", "train.epochs": 1})).exit_code == 0
    tokenizer = the_run(one).path.name
    shutil.copytree(one, two)
    settings = tokens | {"target.tokenizer": tokenizer, "train.micro_batches": 2}
    assert CliRunner().invoke(app, command(one, settings)).exit_code == 0
    finish(2, two, settings | {"train.micro_batches": 1})
    for folder in (one, two):
        shutil.rmtree(folder / tokenizer)
    assert digest(one) == digest(two)


def test_all_stop_at_a_signal_to_any_and_continue_to_the_same_bits(tmp_path: Path) -> None:
    settings = SMALL | {"train.epochs": 12, "run.checkpoint_seconds": 0.0}
    for number, ranks, code in ((signal.SIGTERM, [1], 143), (signal.SIGINT, [0, 1, 2, 1, 0], 130)):
        stopped = start(3, tmp_path / "stopped", settings)
        wait_for_a_checkpoint(tmp_path / "stopped", stopped.processes[0].lives, after=last_step(tmp_path / "stopped"))
        stopped.send(number, ranks)
        codes, said = stopped.wait()
        assert codes == [code] * 3, said
        assert said[0].endswith("the same command continues\n")
        assert status_of(the_run(tmp_path / "stopped"))[0] == "killed"
    assert "continuing at step" in finish(3, tmp_path / "stopped", settings)
    finish(3, tmp_path / "whole", settings)
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")


MEGABYTE = 2**20


def given_by_the_first(told: Path, arguments: list[str], environment: dict[str, str]) -> None:
    """Take a state of 80 MB from process 0; write the state's first values and the growth of the peak memory."""
    os.environ.update(environment)
    processes = launched()
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(10, MEGABYTE)}}
    state = {
        "w": torch.arange(12).reshape(3, 4).T,
        "optimizer": {"state": moments, "list": [torch.ones(2), (0.9, "a")]},
    }
    with processes.joined(torch.device("cpu")):
        before = peak()
        if processes.leads:
            moments[0]["exp_avg_sq"] = 2 * moments[0]["exp_avg"]
        found: Any = processes.from_first(state if processes.leads else None)
        grown = peak() - before
    moment = found["optimizer"]["state"][0]
    seen = [
        found["w"].tolist(),
        moment["step"].item(),
        moment["exp_avg"].sum().item(),
        moment["exp_avg_sq"].sum().item(),
    ]
    told.write_text(json.dumps({"seen": [*seen, str(found["optimizer"]["list"])], "grown": grown}))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_state_goes_from_the_first_process_to_the_others_without_further_copies(tmp_path: Path) -> None:
    group = Group(tmp_path, [[]] * 2, given_by_the_first, given_by_the_first)
    codes, said = group.wait()
    assert codes == [0, 0], said
    first, other = (json.loads(each) for each in said)
    expected = [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert (
        first["seen"]
        == other["seen"]
        == [expected, 3.0, 10.0 * MEGABYTE, 20.0 * MEGABYTE, "[tensor([1., 1.]), (0.9, 'a')]"]
    )
    assert first["grown"] < 40 + 20  # MB: the tensor that it has made
    assert other["grown"] < 80 + 20


def test_another_number_of_processes_continues_and_says_so(tmp_path: Path) -> None:
    settings = SMALL | {"train.epochs": 12, "run.checkpoint_seconds": 0.0}
    stopped = start(2, tmp_path / "stopped", settings)
    wait_for_a_checkpoint(tmp_path / "stopped", stopped.processes[0].lives)
    stopped.send(signal.SIGUSR1, [0, 1])
    assert stopped.wait()[0] == [143, 143]
    said = CliRunner().invoke(app, command(tmp_path / "stopped", settings)).stdout
    assert "by 2 process(es) so far, now by 1" in said
    assert the_run(tmp_path / "stopped").read_json("environment.json")["processes"] == 1
    assert CliRunner().invoke(app, command(tmp_path / "whole", settings)).exit_code == 0
    assert_equal_weights(tmp_path / "stopped", tmp_path / "whole")


def test_when_one_is_killed_the_others_fail_and_the_same_command_continues(tmp_path: Path) -> None:
    settings = SMALL | {"train.epochs": 12, "run.checkpoint_seconds": 0.0}
    group = start(2, tmp_path, settings)
    wait_for_a_checkpoint(tmp_path, group.processes[0].lives)
    group.send(signal.SIGKILL, [1])
    codes, said = group.wait()
    assert codes == [1, -signal.SIGKILL]
    assert said[0].endswith("another process of this command has failed or was killed; the same command continues\n")
    assert status_of(the_run(tmp_path))[0] == "failed"
    assert "continuing at step" in finish(2, tmp_path, settings)


def test_torchrun_ends_with_an_error_when_a_process_is_killed(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cli"]
    launcher = subprocess.Popen([*torchrun, *command(tmp_path, LONG)], stderr=subprocess.DEVNULL)
    wait_for_a_checkpoint(tmp_path, lambda: launcher.poll() is None)
    leader = int((the_run(tmp_path).path / "lock").read_text().split()[0])
    ranks = psutil.Process(launcher.pid).children()
    next(each for each in ranks if each.pid != leader).kill()
    assert launcher.wait(300) == 1
    assert not psutil.wait_procs(ranks, timeout=20)[1]
    assert status_of(the_run(tmp_path))[0] == "failed"


def poisoned(said: Path, arguments: list[str], environment: dict[str, str]) -> None:
    from mae.pretext.base import Pretext

    Pretext.look = lambda pretext, images: images * float("nan")  # type: ignore[method-assign]
    mae_cli(said, arguments, environment)


def test_a_loss_that_is_not_finite_in_one_process_ends_all(tmp_path: Path) -> None:
    codes, said = start(2, tmp_path, LONG, last=poisoned).wait()
    assert codes == [1, 1]
    assert "failed: loss or gradient is not finite at step 0" in said[0]
    assert said[1] == ""
    assert not list(tmp_path.glob("*/checkpoints/*"))


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("data.source=folder:/nowhere", "error: process 1 on "), ("train.seed=1", "differs between")],
)
def test_what_is_wrong_in_one_process_ends_all_before_anything_is_written(
    setting: str, reason: str, tmp_path: Path
) -> None:
    common = command(tmp_path / "runs", SMALL)
    codes, said = Group(tmp_path, [common, [*common, "--set", setting]]).wait()
    assert codes == [2, 2]
    assert reason in said[0]
    assert said[1] == ""
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """48 noise images to train on, 4 to test."""
    draws = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 2)):
        for name in ("a", "b"):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(draws.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / f"{index:02d}.png")
    return tmp_path / "images"


def test_streamed_images_and_a_fresh_cache_give_one_finished_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    streaming = {"data.source": f"folder:{folder}", "run.cache_limit_gb": 0.0, "run.loader_workers": 1}
    settings = SMALL | streaming | {"train.batch_size": 16, "run.log_every": 1}
    arguments = [*command(tmp_path / "runs", settings, "run"), "--kind", "knn", "--json"]
    codes, said = Group(tmp_path, [arguments] * 2).wait()
    assert codes == [0, 0], said
    assert said[1] == ""
    run = the_run(tmp_path / "runs")
    assert [point["step"] for point in run.read_metrics()] == list(range(1, 13))
    assert [status_of(probe)[0] for probe in probes_of(run)] == ["finished"]
    assert [each.name for each in tmp_path.glob("cache/*/meta.json")] == ["meta.json"]


class Asked:
    """Images that remember which ones they were asked for."""

    def __init__(self) -> None:
        self.indexes: list[int] = []

    def batches(self, indexes: Sequence[Tensor]) -> Iterator[Tensor]:
        for chosen in indexes:
            self.indexes += chosen.tolist()
            yield torch.zeros(len(chosen), 1, 8, 8, dtype=torch.uint8)


def test_each_process_reads_its_share_of_an_epoch_only(digits: ImageData) -> None:
    shares = []
    for rank in range(3):
        work, images = Trainer(build(SMALL), digits, torch.device("cpu")), Asked()
        work.processes, work.data = Processes(rank, 3), replace(digits, train=Split(images, digits.train.labels))
        assert all(len(batch.images) == 84 for batch in batches(work, 0))
        shares.append(images.indexes)
    assert [len(share) for share in shares] == [5 * 84] * 3
    assert len({index for share in shares for index in share}) == 5 * 252


@pytest.fixture
def one_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the first of three."""
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 3, "LOCAL_WORLD_SIZE": 3}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.usefixtures("one_of_three")
def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, command(tmp_path / "runs", {"train.batch_size": 16, "train.micro_batches": 2}))
    assert result.exit_code == 2
    assert "train.batch_size=16: expected a multiple of 6" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("one_of_three")
@pytest.mark.parametrize("name", [["ablate", "mask-ratio"], ["compare", "abc123"], ["runs"], ["config"]])
def test_other_commands_refuse_several_processes(name: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app, name)
    assert result.exit_code == 2
    assert "torchrun" in result.stderr
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert CliRunner().invoke(app, name).output == ""


def test_each_process_takes_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert choose_device("auto", Processes(7, 8, 3, 4)) == torch.device("cuda", 3)
    assert choose_device("cpu", Processes(7, 8, 3, 4)) == torch.device("cpu")
    with pytest.raises(UserError, match="a GPU of its own"):
        choose_device("cuda:1", Processes(0, 2, 0, 2))
    with pytest.raises(UserError, match="--nproc-per-node 4"):
        choose_device("cuda", Processes(0, 8, 0, 8))
