"""A pipeline on clips, from pretraining to what is made of its encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cli import app
from mae import load_encoder
from mae.config.resolve import resolve
from mae.data.dataset import load_data
from mae.probing.kinds import PROBES
from mae.runs.catalogue import find_runs
from mae.runs.directory import RunDirectory, probes_of
from mae.runtime.progress import Silent
from tests.conftest import TINY

CLIPS = TINY | {
    "data.source": "moving_digits",
    "data.frames": 4,
    "data.stored_frames": 6,
    "model.patch_size": 4,
    "pretext.kind": "video_mae",
    "train.epochs": 1,
    "train.warmup_epochs": 0.5,
    "probe.labels_per_class": 5,
    "probe.attentive.epochs": 1,
    "probe.finetune.epochs": 1,
    "probe.finetune.erasing": 0.5,
    "probe.finetune.cutmix": 1.0,
    "probe.linear.penalties": "[0.001]",
}


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments])


def run(runs_dir: Path, name: str = "pretrain", *more: str, **settings: Any) -> RunDirectory:
    given = {key: value for key, value in (CLIPS | settings).items() if "decoder" not in key}
    fixed = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    told = invoke(name, *fixed, *more, "--runs-dir", str(runs_dir), "--tracking-uri", "none")
    assert told.exit_code == 0, told.output
    (found,) = find_runs(runs_dir)
    return found


def test_every_probe_reads_clips(runs_dir: Path) -> None:
    kinds = [part for kind in PROBES for part in ("--kind", kind)]
    found = run(runs_dir, "run", *kinds)
    accuracies = {probe.path.name.split("-")[0]: probe.result()["metrics"] for probe in probes_of(found)}
    assert accuracies.keys() == PROBES.keys()
    assert all(0 < metrics[f"{kind}/top1"] <= 100 for kind, metrics in accuracies.items())
    assert "online/lidar" in found.read_metrics()[-1]["metrics"]


def test_an_encoder_of_clips_is_loaded_from_its_run_and_from_nowhere_else(runs_dir: Path, tmp_path: Path) -> None:
    found = run(runs_dir)
    encoder, config = load_encoder(found.path), resolve(file=found.path / "config.toml")
    clips = next(iter(load_data(config.data, config.run, Silent()).test.images.batches([torch.arange(3)])))
    assert encoder(clips).shape == (3, 16)
    assert torch.equal(encoder(clips), encoder(clips[:, :, 1:5]))  # the middle 4 of 6 frames
    with pytest.raises(ValueError, match=r"expected clips \(B, 1, T, H, W\); found \(3, 1, 8, 8\)"):
        encoder(clips[:, :, 0])
    with pytest.raises(ValueError, match="expected clips of at least 4 frames; found 3"):
        encoder(clips[:, :, :3])
    told = invoke(
        *("export", found.path.name, "--format", "timm", "--to", str(tmp_path / "x.safetensors")),
        *("--runs-dir", str(runs_dir)),
    )
    assert told.exit_code == 2
    assert "an encoder of clips has no place there" in " ".join(told.output.split())


def test_clips_and_videos_are_shown_reconstructed(runs_dir: Path, tmp_path: Path) -> None:
    found = run(runs_dir)
    assert list(found.pictures.iterdir())
    told = invoke("reconstruct", found.path.name, "--to", str(tmp_path / "x.png"), "--runs-dir", str(runs_dir))
    assert told.exit_code == 0, told.output
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_clips_are_contrasted_and_probed(runs_dir: Path) -> None:
    found = run(runs_dir, "run", "--kind", "knn", **{"pretext.kind": "cvrl", "cvrl.hidden": 16})
    metrics = found.read_metrics()[-1]["metrics"]
    assert 0 < metrics["train/accuracy"] < 100
    assert found.result()["metrics"]["cost/gflops_per_image"] > 0
