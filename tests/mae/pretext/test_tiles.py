"""Tiles: what is cut, what is left of their colours, and that the encoder cannot know where they were."""

from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.models.vit import build_encoder, patchify
from mae.pretext.context_prediction import ContextPrediction
from mae.pretext.tiles import Reading, cut, draw_reading, encode, paste, project, without_shortcuts
from mae.runtime.rng import generator
from tests.conftest import TINY
from tests.helpers.pretexts import surroundings


def config_of(**more: Any) -> Config:
    return change(build(TINY), {"pretext.kind": "context", "data.channels": 3} | more)


def tiles_of(config: Config) -> Tensor:
    h, w = (rows * patch for rows, patch in zip(config.tile_grid, config.model.patch_size, strict=True))
    return torch.rand(5, 2, 3, h, w, generator=generator(0, "tiles"))


def test_a_tile_that_is_not_resized_is_a_piece_of_its_image() -> None:
    config = config_of(**{"data.image_size": 34, "model.patch_size": 2, "context.magnify": False})
    assert (config.tile_size, config.tile_grid) == ((8, 8), (4, 4))
    images = torch.rand(2, 3, 34, 34)
    boxes = torch.tensor([[[0, 3, 8, 8], [26, 26, 8, 8]], [[5, 9, 8, 8], [1, 0, 8, 8]]])
    found = cut(images, boxes, config)
    for image, tiles, places in zip(images, found, boxes.tolist(), strict=True):
        for tile, (top, left, height, width) in zip(tiles, places, strict=True):
            torch.testing.assert_close(tile, image[:, top : top + height, left : left + width])


def test_a_magnified_tile_is_as_large_as_an_image() -> None:
    config = config_of(**{"data.image_size": [8, 12]})
    boxes = torch.tensor([[[1, 2, 2, 3]]])
    images = torch.full((1, 3, 8, 12), 0.25)
    images[:, :, :, 8:] = 0.75  # beyond the tile, which shows nothing of it
    torch.testing.assert_close(cut(images, boxes, config), torch.full((1, 1, 3, 8, 12), 0.25))


def test_a_tile_is_read_like_an_image_of_which_nothing_else_is_visible() -> None:
    config = config_of(**{"data.image_size": 32, "model.patch_size": 4, "context.magnify": False})
    assert (config.tile_grid, config.grid) == ((2, 2), (8, 8))
    encoder, tiles = build_encoder(config), tiles_of(config)
    reading = draw_reading(5, 2, config, generator(0, "step"))
    found = encode(encoder, tiles, reading)
    for index in range(5):
        for number in range(2):
            row, column = reading.places[index, number].tolist()
            image = torch.zeros(1, 3, 32, 32)
            image[0, :, 4 * row : 4 * row + 8, 4 * column : 4 * column + 8] = tiles[index, number]
            visible = torch.tensor([[8 * r + c for r in (row, row + 1) for c in (column, column + 1)]])
            expected = encoder.forward_visible(patchify(image, (4, 4)), visible)[0, 0]
            torch.testing.assert_close(found[index, number], expected, rtol=1e-4, atol=1e-5)


def test_tiles_are_read_at_every_place_of_the_grid_where_they_fit() -> None:
    config = config_of(**{"data.image_size": 32, "model.patch_size": 4, "context.magnify": False})
    places = draw_reading(500, 2, config, generator(0, "step")).places.flatten(0, 1)
    assert {tuple(place) for place in places.tolist()} == {(row, column) for row in range(7) for column in range(7)}


def test_a_projected_tile_has_no_green_against_magenta_and_keeps_its_greys() -> None:
    tiles = torch.rand(2, 3, 3, 4, 4)
    found = project(tiles)
    red, green, blue = found.unbind(dim=2)
    torch.testing.assert_close(2 * green, red + blue)
    torch.testing.assert_close(found.mean(dim=2), tiles.mean(dim=2))
    torch.testing.assert_close(red - blue, tiles[:, :, 0] - tiles[:, :, 2])


def test_a_tile_keeps_one_channel_and_has_the_training_mean_in_the_others() -> None:
    config = config_of()
    tiles, kept = tiles_of(config), torch.tensor([[0, 1], [2, 0], [1, 1], [2, 2], [0, 2]])
    found = without_shortcuts(tiles, Reading(kept, kept), config, lambda pixels: 2 * pixels - 1)
    for index in range(5):
        for number in range(2):
            for channel in range(3):
                expected = 2 * tiles[index, number, channel] - 1 if channel == kept[index, number] else 0.0
                torch.testing.assert_close(found[index, number, channel], torch.as_tensor(expected).expand(8, 8))


def test_grey_tiles_lose_nothing() -> None:
    config = config_of(**{"data.channels": 1})
    reading, tiles = draw_reading(5, 2, config, generator(0, "step")), torch.rand(5, 2, 1, 8, 8)
    assert reading.kept is None
    assert torch.equal(without_shortcuts(tiles, reading, config, lambda pixels: pixels), tiles)


def test_tiles_are_shown_where_they_were() -> None:
    images = torch.rand(2, 3, 8, 8)
    boxes = torch.tensor([[[0, 0, 4, 4], [4, 3, 4, 4]], [[1, 1, 4, 4], [4, 4, 4, 4]]])
    tiles = torch.stack(
        [
            torch.stack([image[:, top : top + 4, left : left + 4] for top, left, _, _ in each])
            for image, each in zip(images, boxes.tolist(), strict=True)
        ]
    )
    found = paste((8, 8), tiles, boxes)
    covered = paste((8, 8), torch.ones_like(tiles), boxes) == 1
    assert torch.equal(found[covered], images[covered])
    assert found[~covered].unique().tolist() == [0.5]


def aberrated(count: int, size: int) -> Tensor:
    """Return grey textures (count, 3, size, size), alike everywhere, under a lens that draws red and blue outwards.

    Sums of waves, so that no pixel is interpolated: how sharp a tile is does not tell its place either.
    """
    draws = generator(0, "textures")
    wave = torch.randn(count, 16, 2, generator=draws)
    phase = 2 * torch.pi * torch.rand(count, 16, 1, 1, generator=draws)
    place = torch.arange(size) - (size - 1) / 2
    channels = []
    for scale in (0.92, 1.0, 0.92):
        rows, columns = (wave[:, :, axis, None] * place * scale for axis in range(2))
        channels.append((rows[..., :, None] + columns[..., None, :] + phase).cos().sum(dim=1))
    return (0.5 + 0.06 * torch.stack(channels, dim=1)).clamp(0, 1)


def neighbours(tiles: Tensor) -> Tensor:
    """Return mean products (B, 81) of pixels with their neighbours in each pair of channels, of tiles (B, 3, h, w):
    of a texture that is Gaussian, and alike everywhere, there is no more to know."""
    centred = tiles - tiles.mean(dim=(2, 3), keepdim=True)
    inner = centred[:, :, 1:-1, 1:-1].flatten(2)
    around = F.unfold(centred, tiles.shape[3] - 2).unflatten(1, (3, -1)).transpose(2, 3)  # (B, 3, 9, pixels)
    return torch.einsum("bcp,bdnp->bcdn", inner, around).flatten(1)


@pytest.mark.parametrize(("color", "low", "high"), [("keep", 0.85, 1.0), ("project", 0.05, 0.35), ("drop", 0.05, 0.2)])
def test_an_aberration_tells_the_place_of_a_tile_until_its_colours_are_taken(
    color: str, low: float, high: float
) -> None:
    config = config_of(
        **{"data.image_size": 32, "model.patch_size": 4, "context.color": color, "context.magnify": False}
    )
    pretext = ContextPrediction(config, surroundings(config))
    draws = pretext.draw(3000, generator(0, "step"))
    tiles = cut(aberrated(3000, 32), pretext.boxes(draws.sides, draws.jitter), config)
    seen = without_shortcuts(tiles, draws.reading, config, pretext.look)[:, 1]
    found = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    features, sides = neighbours(seen).numpy(), draws.sides.numpy()
    score = found.fit(features[:2000], sides[:2000]).score(features[2000:], sides[2000:])
    assert low <= score <= high
