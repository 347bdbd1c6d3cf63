"""What a finished run leaves: enough to use its model anywhere, and no more, wherever the process that made it died."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cli import app
from mae.config.resolve import build
from mae.config.tree import Config
from mae.data.augmentation import centre
from mae.data.dataset import ImageData
from mae.data.facts import facts_of
from mae.pipeline import Workplace, load_pretext, run_pretraining, stored_config
from mae.pretext.base import Pretext
from mae.pretext.masked_autoencoder import MaskedAutoencoder
from mae.pretext.pictures import shown_images
from mae.pretext.registry import new_pretext
from mae.runs.catalogue import find_runs
from mae.runs.directory import ENCODER, PRETEXT, Busy, Record, RunDirectory, status_of
from mae.runs.weights import write_weights
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Silent
from mae.runtime.rng import generator
from tests.conftest import TINY
from tests.helpers.commands import Forked, mae_cli
from tests.mae.data.test_data import write_tree

CPU = torch.device("cpu")
SMALL = {
    **TINY, "data.channels": 3, "train.batch_size": 4, "run.knn_every": 0, "run.picture_every": 0, "target.kind": "pca",
}  # fmt: skip
DIGITS = {"data.channels": 1, "train.batch_size": 256, "train.epochs": 1, "run.checkpoint_seconds": 0.0}
"""Five steps."""


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--tracking-uri", "none"])


def pretraining(runs_dir: Path, source: str, **more: Any) -> list[str]:
    settings = SMALL | {"data.source": source} | more
    fixed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["pretrain", *fixed, "--runs-dir", str(runs_dir), "--device", "cpu", "--tracking-uri", "none"]


def the_run(runs_dir: Path) -> RunDirectory:
    (found,) = find_runs(runs_dir)
    return found


@pytest.fixture
def handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run that came to a place where neither its images nor their cache are."""
    images = write_tree(tmp_path / "images")
    assert CliRunner().invoke(app, pretraining(tmp_path / "runs", f"folder:{images}")).exit_code == 0
    shutil.rmtree(images)
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "no-cache"))
    return the_run(tmp_path / "runs")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "own.jpg")
    return tmp_path / "own.jpg"


def drawing(run: RunDirectory, to: Path, *images: Path) -> Any:
    return invoke("reconstruct", run.path.name, *map(str, images), "--to", str(to), "--runs-dir", str(run.path.parent))


def test_a_finished_run_keeps_no_checkpoint(handed_over: RunDirectory) -> None:
    names = {path.name for path in handed_over.path.iterdir()}
    assert {"encoder.safetensors", "pretext.safetensors", "result.json"} <= names
    assert "checkpoints" not in names


def test_own_images_are_reconstructed_with_nothing_but_the_run(
    handed_over: RunDirectory, picture: Path, tmp_path: Path
) -> None:
    result = drawing(handed_over, tmp_path / "drawn.png", picture)
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "drawn.png").size[1] > 100
    assert not (tmp_path / "no-cache").exists()


def test_a_task_without_a_picture_says_so(
    handed_over: RunDirectory, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MaskedAutoencoder, "picture", Pretext.picture)
    result = drawing(handed_over, tmp_path / "drawn.png", picture)
    assert result.exit_code == 2
    assert "pretext.kind=mae has no picture to draw" in result.stderr
    assert not (tmp_path / "drawn.png").exists()


def test_test_images_need_the_data_set_and_it_is_said_what_else_to_give(
    handed_over: RunDirectory, tmp_path: Path
) -> None:
    result = drawing(handed_over, tmp_path / "drawn.png")
    assert result.exit_code == 2
    assert "no such folder" in result.stderr
    assert f"mae-cli reconstruct {handed_over.path.name} FILE" in result.stderr
    assert "--set data.source=folder:PATH" in result.stderr


@pytest.mark.parametrize("lacking", ["pretext.safetensors", "mean"])
def test_a_run_that_lacks_what_a_model_needs_says_what_to_do(
    lacking: str, handed_over: RunDirectory, picture: Path, tmp_path: Path
) -> None:
    (handed_over.path / lacking).unlink(missing_ok=True)
    record = handed_over.read_record()
    assert record is not None
    data = {key: value for key, value in record.data.items() if key != lacking}
    handed_over.write_record(record.model_copy(update={"data": data}))
    result = drawing(handed_over, tmp_path / "drawn.png", picture)
    assert result.exit_code == 2
    assert f"delete {handed_over.path} and pretrain again" in " ".join(result.stderr.split())


def test_damaged_weights_are_named(handed_over: RunDirectory, picture: Path, tmp_path: Path) -> None:
    os.truncate(handed_over.path / "encoder.safetensors", 1000)
    result = drawing(handed_over, tmp_path / "drawn.png", picture)
    assert result.exit_code == 2
    assert "encoder.safetensors cannot be read: it is damaged" in result.stderr


@pytest.mark.parametrize("target", ["pixels", "normalized_pixels", "pca"])
def test_what_is_kept_reconstructs_as_the_trained_model_does(target: str, digits: ImageData, tmp_path: Path) -> None:
    config, run = build({**TINY, "target.kind": target}), RunDirectory(tmp_path)
    trained = new_pretext(config, digits)
    assert isinstance(trained, MaskedAutoencoder)
    run.write_record(Record(stage="pretrain", name="", fingerprint="", data=digits.describe()))
    write_weights(run.path / ENCODER, trained.encoder.state_dict())
    rest = {name: value for name, value in trained.state_dict().items() if not name.startswith("encoder.")}
    write_weights(run.path / PRETEXT, rest)
    run.write_json("result.json", {})
    loaded = load_pretext(run, config, CPU)
    assert isinstance(loaded, MaskedAutoencoder)
    images = centre(shown_images(digits), config.data)
    mask = trained.mask(trained.draw(len(images), generator(0, "picture")))
    expected, found = trained.reconstruct(images, mask), loaded.reconstruct(images, mask)
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    assert facts_of(run).class_names == digits.classes


def dying(said: Path, arguments: list[str], method: str, name: str, times: int) -> None:
    """Be `mae-cli`, and be killed when a file `name` is replaced or unlinked for the `times`-th time."""
    original, left = getattr(Path, method), [times]

    def fatal(path: Path, *more: Any, **named: Any) -> Any:
        left[0] -= (more[0] if more else path).name == name
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, *more, **named)

    setattr(Path, method, fatal)
    mae_cli(said, arguments)


@pytest.mark.parametrize(
    ("method", "name", "times"),
    [
        ("replace", "encoder.safetensors", 1),
        ("replace", "pretext.safetensors", 1),
        ("replace", "result.json", 1),
        ("unlink", "step-00000004.pt", 1),
        ("unlink", "step-00000005.pt", 1),
        ("replace", "record.json", 2),  # the first says that it runs, the second that it is finished
    ],
)
def test_a_run_killed_while_it_ends_is_finished_by_the_same_command(
    method: str, name: str, times: int, tmp_path: Path
) -> None:
    arguments = pretraining(tmp_path / "runs", "digits", **DIGITS)
    killed = Forked(dying, tmp_path / "said.txt", arguments, method, name, times)
    assert killed.code() == -signal.SIGKILL
    run = the_run(tmp_path / "runs")
    assert status_of(run)[0] == ("killed" if run.result() is None else "finished")
    assert run.result() is not None or (run.checkpoints / "step-00000005.pt").exists()
    assert CliRunner().invoke(app, arguments).exit_code == 0
    record = run.read_record()
    assert record is not None
    assert (record.status, record.ended is None, run.checkpoints.exists()) == ("finished", False, False)
    assert run.result()["metrics"]["cost/steps"] == 5
    assert load_pretext(run, stored_config(run, (), ()), CPU)


def never(*arguments: object) -> Any:
    raise AssertionError("the images are opened")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setattr("mae.pipeline.load_data", never)
    return Workplace(tmp_path, "none", CPU, Silent(), StopRequest())


def test_images_are_not_opened_for_a_run_that_another_process_works_on(tiny: Config, work: Workplace) -> None:
    with RunDirectory(work.runs_dir / "abc").locked(), pytest.raises(Busy, match="another process"):
        run_pretraining(tiny, work, "abc")


def test_images_are_not_opened_for_a_planned_run_that_is_finished(tiny: Config, work: Workplace) -> None:
    run = RunDirectory(work.runs_dir / "abc")
    run.write_json("result.json", {})
    assert run_pretraining(tiny, work, "abc").path == run.path
