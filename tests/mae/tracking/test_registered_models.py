"""`--register`: MLflow gives an encoder back that computes the same, for a program of any kind."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from typer.testing import CliRunner

from cli import app
from mae import load_encoder
from mae.config.resolve import build
from tests.helpers.checkpoints import HEADS, SIZES, official, saved


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--json"])


@pytest.fixture
def mae_file(tmp_path: Path) -> str:
    return str(saved({"model": official(build(SIZES))}, tmp_path / "mae.pth"))


def test_mlflow_gives_a_registered_encoder_back_with_the_same_features(
    mae_file: str, runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    folder = ["--runs-dir", str(runs_dir)]
    result = invoke("import", mae_file, *HEADS, "--register", "eyes", *folder)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    again = invoke("export", told["run"], "--register", "eyes", *folder)
    assert json.loads(again.stdout.splitlines()[-1])["registered"] == "models:/eyes/2"
    assert told["registered"] == "models:/eyes/1"
    mlflow.set_tracking_uri(uri := f"sqlite:///{runs_dir}/mlflow.db")
    images = torch.randint(0, 256, (3, 3, 20, 30), dtype=torch.uint8)
    back = mlflow.pytorch.load_model("models:/eyes/1")
    assert back(images).equal(load_encoder(runs_dir / told["run"])(images))
    signature = mlflow.models.get_model_info("models:/eyes/1").signature
    assert signature.inputs.inputs[0].shape == (-1, 3, -1, -1)
    assert signature.outputs.inputs[0].shape == (-1, 32)
    version = MlflowClient(uri).get_model_version("eyes", "1")
    assert MlflowClient(uri).get_run(version.run_id).data.tags["mae.fingerprint"] == told["run"]
    assert MlflowClient(uri).get_run(version.run_id).info.status == "FINISHED"
    assert not list(elsewhere.iterdir())


def test_without_a_store_nothing_is_registered(mae_file: str, runs_dir: Path) -> None:
    result = invoke(
        "import", mae_file, *HEADS, "--register", "eyes", "--runs-dir", str(runs_dir), "--tracking-uri", "none"
    )
    assert result.exit_code == 2
    assert "--register needs an MLflow store" in result.stderr


def test_a_store_that_fails_is_a_failure_in_one_line(mae_file: str, runs_dir: Path) -> None:
    result = invoke("import", mae_file, *HEADS, "--register", "a/b:c", "--runs-dir", str(runs_dir))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("failed: --register a/b:c: ")
