"""Pictures of tasks: how images are laid out, and what stands above them."""

from pathlib import Path

import torch
from PIL import Image

from mae.config.resolve import build
from mae.pretext.pictures import draw, image_rows
from mae.pretext.registry import PRETEXTS
from tests.helpers.pretexts import stored, surroundings


def test_images_are_eight_in_a_line_and_those_that_are_left_begin_another() -> None:
    images = torch.rand(9, 3, 6, 4)
    figure = image_rows({"original": images, "masked": images})
    assert len(figure.axes) == 2 * 9
    assert len({axis.get_position().y0 for axis in figure.axes}) == 2 * 2


def test_names_are_no_formulas(tmp_path: Path) -> None:
    config = build({"data.image_size": 8, "model.patch_size": 4})
    pretext = PRETEXTS["mae"](config, surroundings(config))
    assert draw(pretext, stored(config, 2), tmp_path / "drawn.png", r"a $\foo$", [r"$\bar$.jpg", "b.jpg"])
    assert Image.open(tmp_path / "drawn.png").size[0] > 100
