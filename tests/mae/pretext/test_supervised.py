"""Training with labels: every image needs one, and the labels are what is learned."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner

from cli import app
from mae.config.resolve import build, change
from mae.errors import ImpossibleSettings
from mae.pretext.supervised import Supervised, check_supervision
from mae.runtime.rng import generator
from tests.conftest import TINY
from tests.helpers.pretexts import batch_of, stored, surroundings


def made(**more: Any) -> Supervised:
    torch.manual_seed(0)
    config = change(build(TINY), {"pretext.kind": "supervised", "data.augmentation": "none"} | more)
    return Supervised(config, surroundings(config))


@pytest.mark.parametrize("features", ["class_token", "patch_mean", "both"])
def test_the_labels_of_the_batch_are_what_is_learned(features: str) -> None:
    pretext = made(**{"supervised.features": features})
    labels = torch.arange(6) % 4
    batch = batch_of(stored(pretext.config, 6))._replace(labels=labels)
    tokens = pretext.encoder(pretext.look(batch.images.float() / 255))
    first, mean = tokens[:, 0], tokens[:, 1:].mean(dim=1)
    read = {"class_token": first, "patch_mean": mean, "both": torch.cat([first, mean], dim=1)}[features]
    chances = F.linear(read, pretext.head.weight, pretext.head.bias).softmax(dim=1)
    expected = -chances[torch.arange(6), labels].log().mean()
    found = pretext(batch, pretext.draw(6, generator(0, "step")))
    torch.testing.assert_close(found["loss"], expected)
    assert found["accuracy"].item() == pytest.approx(100 * (chances.argmax(dim=1) == labels).float().mean().item())


def test_images_without_labels_are_refused() -> None:
    config = made().config
    with pytest.raises(ImpossibleSettings, match="supervised: 2 of 3 training images have no label; expected one for"):
        check_supervision(config, torch.tensor([-1, 0, -1]), 2)
    with pytest.raises(ImpossibleSettings, match="expected at least 2 classes; the images have 1"):
        check_supervision(config, torch.zeros(3).long(), 1)
    check_supervision(change(config, {"pretext.kind": "rotation"}), torch.tensor([-1]), 0)


def test_a_folder_without_classes_is_refused_before_anything_is_written(tmp_path: Any) -> None:
    (folder := tmp_path / "images" / "train").mkdir(parents=True)
    for index in range(4):
        Image.new("L", (8, 8), index).save(folder / f"{index}.png")
    (tmp_path / "images" / "test").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "test" / "0.png")
    settings = {**TINY, "pretext.kind": "supervised", "data.source": f"folder:{tmp_path / 'images'}"}
    settings["train.batch_size"] = 4
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    runs = tmp_path / "runs"
    result = CliRunner().invoke(app, ["pretrain", *given, "--runs-dir", str(runs), "--tracking-uri", "none"])
    assert result.exit_code == 2, result.output
    assert not list(runs.glob("*/result.json"))
    assert not list(runs.glob("*/record.json"))


def test_a_picture_names_the_likeliest_class() -> None:
    pretext = made()
    pretext.surroundings = replace(pretext.surroundings, class_names=tuple("abcdefghij"))
    images = torch.rand(3, 1, 8, 8)
    figure = pretext.picture(images, pretext.draw(3, generator(0, "picture")))
    with torch.no_grad():
        likeliest = pretext._scores(images).argmax(dim=1)
    assert [axis.get_xlabel()[0] for axis in figure.axes] == ["abcdefghij"[number] for number in likeliest]
