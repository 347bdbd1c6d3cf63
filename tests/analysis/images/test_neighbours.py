from pathlib import Path

import pytest
import torch
from analysis.studies.neighbours import nearest, neighbour_figure, read_folder
from PIL import Image

from mae.errors import UserError
from mae.exchange.feature_encoder import FeatureEncoder
from tests.mae.exchange.test_outgoing import model


def test_neighbours_are_images_of_the_most_similar_features_and_never_the_image_itself() -> None:
    encoder, images = FeatureEncoder(model()), torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    images[4] = images[1] // 2 + images[1] // 2  # all but the same
    found = nearest(encoder, images, 9)
    assert found.shape == (6, 5)
    assert (found[1, 0], found[4, 0]) == (4, 1)
    assert not any(index in row for index, row in enumerate(found.tolist()))
    assert len(neighbour_figure(images, found, [0, 4]).axes) == 2 * 6


def test_a_folder_is_read_whatever_the_sizes_of_its_images(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name, size in (("a.png", (40, 30)), ("more/b.jpg", (20, 50))):
        Image.new("RGB", size, (200, 10, 10)).save(tmp_path / name)
    assert read_folder(tmp_path, FeatureEncoder(model())).shape == (2, 3, 16, 16)
    with pytest.raises(UserError, match="no images; expected files that end in"):
        read_folder(tmp_path / "nowhere", FeatureEncoder(model()))
