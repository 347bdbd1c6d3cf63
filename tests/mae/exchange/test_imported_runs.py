"""An imported model is a run like any other, known by its weights, and probed on any images."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cli import app
from mae.config.resolve import build
from mae.errors import UserError
from mae.exchange.incoming import read_model
from mae.runs.directory import RunDirectory
from tests.conftest import TINY
from tests.helpers.checkpoints import HEADS_SET, SIZES, imported, invoke, official, saved, timm_model, write_image
from tests.helpers.pretexts import batch_of, stored
from tests.mae.data.test_data import write_tree


@pytest.fixture
def mae_file(tmp_path: Path) -> Path:
    return saved({"model": official(build(SIZES))}, tmp_path / "mae.pth")


@pytest.fixture
def encoder_file(tmp_path: Path) -> Path:
    return saved(timm_model().state_dict(), tmp_path / "vit.pth")


def own_run(runs_dir: Path, **more: Any) -> Path:
    unused = ("model.decoder", "model.patch_size") if "pretext.kind" in more else ()
    chosen = {key: value for key, value in TINY.items() if not key.startswith(unused)} | more
    settings = [part for key, value in chosen.items() for part in ("--set", f"{key}={str(value).lower()}")]
    result = invoke("pretrain", *settings, "--runs-dir", str(runs_dir), "--json")
    assert result.exit_code == 0, result.output
    return runs_dir / str(json.loads(result.stdout.splitlines()[-1])["run"])


def test_importing_twice_gives_the_same_run(mae_file: Path, runs_dir: Path) -> None:
    first = imported(mae_file, runs_dir)
    written = {path: path.stat().st_mtime_ns for path in (runs_dir / first).iterdir()}
    assert imported(mae_file, runs_dir) == first
    assert {path: path.stat().st_mtime_ns for path in (runs_dir / first).iterdir()} == written
    assert {"config.toml", "encoder.safetensors", "pretext.safetensors", "record.json", "result.json"} <= {
        path.name for path in written
    }


def test_other_weights_or_another_normalisation_are_another_run(mae_file: Path, tmp_path: Path) -> None:
    other = saved({"model": official(build(SIZES))}, tmp_path / "other.pth")
    grey = (*HEADS_SET, "data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]")
    models = [read_model(mae_file, HEADS_SET), read_model(other, HEADS_SET), read_model(mae_file, grey)]
    assert len({model.fingerprint for model in models}) == 3


def test_an_imported_run_is_probed_on_any_images_each_with_a_result_of_its_own(
    encoder_file: Path, runs_dir: Path, tmp_path: Path
) -> None:
    run = imported(encoder_file, runs_dir)
    probe = ["probe", run, "--kind", "knn", "--set", "probe.knn.k=1", "--runs-dir", str(runs_dir)]
    refused = invoke(*probe)
    assert refused.exit_code == 2
    assert "imported, without images; name some with --set data.source=folder:PATH" in refused.stderr
    sources = [write_tree(tmp_path / "first"), write_tree(tmp_path / "second", per_class=5)]
    for source in [*sources, sources[0]]:
        assert invoke(*probe, "--set", f"data.source=folder:{source}").exit_code == 0
    results = list((runs_dir / run).glob("probes/*/result.json"))
    assert len(results) == 2


def test_an_imported_autoencoder_reconstructs(mae_file: Path, runs_dir: Path, tmp_path: Path) -> None:
    run, drawn = imported(mae_file, runs_dir), tmp_path / "drawn.png"
    arguments = [run, str(write_image(tmp_path)), "--to", str(drawn), "--runs-dir", str(runs_dir)]
    result = invoke("reconstruct", *arguments)
    assert result.exit_code == 0, result.output
    assert drawn.exists()


def test_an_imported_encoder_says_why_it_cannot_reconstruct(encoder_file: Path, runs_dir: Path, tmp_path: Path) -> None:
    run = imported(encoder_file, runs_dir)
    result = invoke("reconstruct", run, str(write_image(tmp_path)), "--runs-dir", str(runs_dir))
    assert result.exit_code == 2
    assert "has no decoder to reconstruct with: it was imported from supervised ViT, encoder only" in result.stderr


def test_imported_runs_are_listed_and_compared(mae_file: Path, encoder_file: Path, runs_dir: Path) -> None:
    names = [imported(file, runs_dir) for file in (mae_file, encoder_file)]
    listed = CliRunner().invoke(app, ["runs", "--runs-dir", str(runs_dir), "--json"]).stdout.splitlines()[-1]
    assert {row["run"]: row["status"] for row in json.loads(listed)["runs"]} == dict.fromkeys(names, "finished")
    compared = CliRunner().invoke(app, ["compare", *names, "--runs-dir", str(runs_dir)])
    assert compared.exit_code == 0, compared.output


def test_import_takes_no_preset(mae_file: Path, runs_dir: Path) -> None:
    result = invoke("import", str(mae_file), "--preset", "digits", "--runs-dir", str(runs_dir))
    assert result.exit_code == 2
    assert "no such option: --preset" in result.stderr


@pytest.mark.parametrize(
    "more",
    [
        {"target.kind": "pca"},
        {"model.encoder_mask_tokens": True},
        {"pretext.kind": "rotation"},
        {"pretext.kind": "igpt_ar"},
        {"pretext.kind": "igpt_bert", "igpt.side": 4},
        {"pretext.kind": "denoise", "denoise.noise": "masked_patches"},
    ],
)
def test_a_run_of_ours_comes_in_with_all_of_its_task(more: dict[str, Any], runs_dir: Path, tmp_path: Path) -> None:
    run = own_run(runs_dir, **more)
    shutil.copytree(run, tmp_path / "theirs")
    model = read_model(tmp_path / "theirs" / "encoder.safetensors")
    record = RunDirectory(run).read_record()
    assert record is not None
    assert list(model.facts.mean) == record.data["mean"]
    assert model.config.data.mean == model.facts.mean
    assert model.config.model_dump(exclude={"data"}) == read_model(run).config.model_dump(exclude={"data"})
    assert model.pretext()(*batch_and_draws(model)).keys() >= {"loss"}


def batch_and_draws(model: Any) -> tuple[Any, Any]:
    return batch_of(stored(model.config, 4)), model.pretext().draw(4, torch.Generator().manual_seed(0))


def test_heads_of_a_run_may_not_be_changed_to_what_does_not_fit(runs_dir: Path) -> None:
    with pytest.raises(UserError, match=r"expected a plain ViT 24 x 2/2, 8 px; found cls_token of 1 x 1 x 16"):
        read_model(own_run(runs_dir), ("model.encoder.dim=24",))
