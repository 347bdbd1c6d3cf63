"""`features`, `neighbours` and `confusion` on images and a probe of a run of seconds."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from typer.testing import CliRunner

import mae
from analysis.images.confusion import confusion, confusion_figure, find_probe, per_class
from analysis.images.files import class_of, image_files
from cli import app
from mae.errors import UserError
from mae.probing.predictions import read_predictions, write_predictions
from mae.runs.directory import RunDirectory
from tests.conftest import TINY

PROBED = TINY | {"train.epochs": 1, "run.knn_every": 0, "probe.kinds": ["knn"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run with a k-NN probe, made once for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        return RunDirectory(mae.run(PROBED, runs_dir=tmp_path_factory.mktemp("own") / "runs").folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images, two classes, one without a class, of several sizes."""
    draws = np.random.default_rng(0)
    for name in ("cat/a.png", "cat/more/b.jpg", "dog/c.png", "dog/d.png", "e.png", "dog/.hidden/f.png"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        side = int(draws.integers(8, 20))
        Image.fromarray(draws.integers(0, 256, (side, 12, 3), dtype=np.uint8)).save(file)
    return tmp_path / "photos"


def say(run: RunDirectory, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*arguments, "--runs-dir", str(run.path.parent)])
    return result.exit_code, result.stdout, result.stderr


def test_features_are_those_that_the_encoder_gives_from_python(finished: RunDirectory, photos: Path) -> None:
    to = photos.parent / "f.parquet"
    code, said, _ = say(finished, "features", finished.path.name[:6], str(photos), str(to), "--json")
    table = pd.read_parquet(to)
    assert (code, json.loads(said)["images"]) == (0, 5)
    assert list(table["path"]) == ["cat/a.png", "cat/more/b.jpg", "dog/c.png", "dog/d.png", "e.png"]
    assert list(table["class"]) == ["cat", "cat", "dog", "dog", ""]
    encoder = mae.load_encoder(finished.path)
    with Image.open(photos / "dog" / "c.png") as image:
        pixels = np.asarray(image.convert("L"))
    # PIL rounds to whole pixels when it resizes, so that numbers agree nearly
    expected = encoder(torch.from_numpy(pixels.copy())[None, None])[0]
    assert torch.allclose(torch.tensor(table.iloc[2, 2:].to_numpy("float32")), expected, atol=0.05)


def test_settings_of_probes_say_what_is_read(finished: RunDirectory, photos: Path) -> None:
    to = photos.parent / "f.csv"
    code, _, _ = say(finished, "features", finished.path.name, str(photos), str(to), "--set", "probe.features=both")
    assert code == 0
    assert pd.read_csv(to).shape == (5, 2 + 2 * 16)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["/nowhere", "f.csv"], "there is no such folder"),
        (["PHOTOS", "f.xlsx"], "expected a name ending in .csv or .parquet"),
        (["PHOTOS", "f.csv", "--set", "mask.ratio=0.5"], "mask.ratio cannot be changed"),
    ],
)
def test_what_has_no_table_is_refused(finished: RunDirectory, photos: Path, arguments: list[str], told: str) -> None:
    given = [str(photos) if each == "PHOTOS" else each for each in arguments]
    code, _, error = say(finished, "features", finished.path.name, *given)
    assert (code, told in error) == (2, True), error


def test_a_file_that_cannot_be_read_is_named_or_left_out(finished: RunDirectory, photos: Path) -> None:
    (photos / "cat" / "torn.png").write_bytes(b"no image")
    given = ["features", finished.path.name, str(photos), str(photos.parent / "f.csv")]
    code, _, error = say(finished, *given)
    assert code == 2
    assert "torn.png is not an image that can be read; --set data.skip_bad_images=true" in error
    code, said, _ = say(finished, *given, "--set", "data.skip_bad_images=true", "--json")
    told = json.loads(said.splitlines()[-1])
    assert (code, told["images"], len(told["left_out"])) == (0, 5, 1)


def test_neighbours_of_given_images_come_from_the_folder_without_themselves(
    finished: RunDirectory, photos: Path
) -> None:
    to = photos.parent / "n.png"
    asked = [str(photos / "e.png"), str(photos / "dog" / "c.png")]
    given = ["neighbours", finished.path.name, str(photos), *asked, "--to", str(to), "--count", "9", "--json"]
    code, said, error = say(finished, *given)
    assert code == 0, error
    rows = json.loads(said.splitlines()[-1])["rows"]
    assert [row["image"] for row in rows] == asked
    for row in rows:
        paths = [each["path"] for each in row["neighbours"]]
        assert len({*paths}) == 4
        assert row["image"] not in paths
        similarity = [each["similarity"] for each in row["neighbours"]]
        assert similarity == sorted(similarity, reverse=True)
    assert Image.open(to).format == "PNG"


def test_without_a_folder_neighbours_are_test_images(finished: RunDirectory, tmp_path: Path) -> None:
    code, said, _ = say(finished, "neighbours", finished.path.name, "--to", str(tmp_path / "n.png"), "--json")
    rows = json.loads(said.splitlines()[-1])["rows"]
    assert (code, len(rows), rows[0]["image"]) == (0, 8, 0)
    assert all(len(row["neighbours"]) == 8 for row in rows)


def test_the_matrix_counts_what_the_probe_has_predicted(finished: RunDirectory) -> None:
    probe = find_probe(finished, "knn")
    counts, kept = confusion(finished, probe), read_predictions(probe)
    assert np.array_equal(counts.to_numpy(), confusion_matrix(kept.labels, kept.predicted, labels=range(10)))
    right = 100 * np.trace(counts.to_numpy()) / counts.to_numpy().sum()
    assert right == pytest.approx(probe.result()["metrics"]["knn/top1"])
    assert len(confusion_figure(counts, "digits").axes) == 2


def test_the_command_writes_picture_and_table_and_tells_the_worst_class_first(
    finished: RunDirectory, tmp_path: Path
) -> None:
    to = tmp_path / "c.png"
    code, said, _ = say(finished, "confusion", finished.path.name, "--to", str(to), "--json")
    classes = json.loads(said.splitlines()[-1])["classes"]
    assert code == 0
    accuracies = [each["top1"] for each in classes]
    assert accuracies == sorted(accuracies)
    assert pd.read_csv(tmp_path / "c.csv", index_col=0).shape == (10, 10)
    assert to.exists()


def test_a_class_is_told_with_what_it_is_taken_for() -> None:
    counts = pd.DataFrame([[3, 1, 0], [0, 2, 0], [0, 0, 0]], index=["a", "b", "c"], columns=["a", "b", "c"])
    told = per_class(counts)
    assert list(told["class"]) == ["a", "b"]  # c has no test images
    assert list(told["top1"]) == [75.0, 100.0]
    assert list(told["taken_for"]) == ["b (1)", ""]


def test_a_long_title_of_a_matrix_stays_in_the_picture() -> None:
    counts = pd.DataFrame(np.eye(3, dtype=int), index=list("abc"), columns=list("abc"))
    figure = confusion_figure(
        counts, "linear probe with labels_per_class=5 features=both of 113fd07402ce: 74.6 % right"
    )
    figure.draw_without_rendering()
    assert figure.texts  # the title
    box = figure.texts[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_probes_without_predictions_or_with_damaged_ones_are_told(tmp_path: Path) -> None:
    probe = RunDirectory(tmp_path / "knn-0")
    probe.path.mkdir()
    with pytest.raises(UserError, match="before predictions were kept; delete"):
        read_predictions(probe)
    write_predictions(probe, torch.tensor([0, 1]), torch.tensor([1, 1]))
    assert read_predictions(probe).predicted.tolist() == [1, 1]
    for torn in ("", "image,class,predicted\n0,1", "x"):
        (probe.path / "predictions.csv").write_text(torn)
        with pytest.raises(UserError, match="is damaged"):
            read_predictions(probe)


def test_a_probe_that_is_not_there_is_refused(finished: RunDirectory) -> None:
    code, _, error = say(finished, "confusion", finished.path.name, "--probe", "finetune")
    assert code == 2
    assert "there are: knn-" in error


def test_layouts_of_training_images_tell_classes(tmp_path: Path) -> None:
    for name, expected in (("a.png", ""), ("cat/a.png", "cat"), ("train/cat/x/a.png", "cat"), ("val/a.png", "")):
        assert class_of(tmp_path / name, tmp_path) == expected
    with pytest.raises(UserError, match="no images; expected files that end in"):
        image_files(tmp_path)


def test_python_takes_a_finished_run_as_the_command_does(finished: RunDirectory) -> None:
    again = mae.run(PROBED, runs_dir=finished.path.parent)
    assert again.folder == finished.path
    assert {"knn/top1", "train/final_loss"} <= again.metrics.keys()
    with pytest.raises(UserError, match="unknown key"):
        mae.run({"mask.ratoi": 0.5}, runs_dir=finished.path.parent)
