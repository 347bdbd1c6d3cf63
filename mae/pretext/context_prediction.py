"""Context Prediction (Doersch et al., ICCV 2015): on which of eight sides of a tile does another one lie?

Kept: eight neighbours, a gap of half a tile and a jitter of 7 pixels of 96 against edges that go on, colours dropped or
projected against the lens (section 3.1), both tiles through one encoder and their features together through two layers
("late fusion", Fig. 3). Adapted: a ViT reads a tile as a small grid of patches, at positions that are drawn
(`mae.pretext.tiles`); tiles are as large as leaves room for three in a row, so that all eight sides are there, and the
first is the middle one of a view whose crop is drawn, where the paper's grid lies anywhere in a larger image. Left out:
the noise in dropped channels, which are the training mean here, and tiles of lower resolution.
"""

import math
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.tree import Config
from mae.data import augmentation
from mae.data.augmentation import views
from mae.models.vit import Encoder, build_encoder
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.pictures import image_rows
from mae.pretext.tiles import Reading, cut, draw_reading, encode, paste, without_shortcuts
from mae.runtime.rng import branch

SIDES = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""Where the second tile may lie, in rows and columns of tiles."""


class Draws(NamedTuple):
    """Crops; `sides` int64 (count,) in 0..7; `jitter` int64 (count, 2, 2), pixels down and right that either tile is
    moved; and how both are read."""

    crops: augmentation.Draws
    sides: Tensor
    jitter: Tensor
    reading: Reading


class ContextPrediction(Pretext):
    """A classifier of eight sides on the class tokens of two tiles."""

    encoder: Encoder

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        dim = config.model.encoder.dim
        self.encoder = build_encoder(config)
        self.head = nn.Sequential(nn.Linear(2 * dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, len(SIDES)))
        self.chance_loss = math.log(len(SIDES))

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        most = torch.tensor([round(self.config.context.jitter * size) for size in self.config.tile_size])
        moves = torch.rand(count, 2, 2, generator=branch(generator, "jitter")) * (2 * most + 1)
        sides = torch.randint(len(SIDES), (count,), generator=branch(generator, "sides"))
        reading = draw_reading(count, 2, self.config, generator)
        return Draws(self.crops(count, generator), sides, moves.long() - most, reading)

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        images = views(batch.images, self.config.data, draws.crops)
        scores = self._scores(cut(images, self.boxes(draws.sides, draws.jitter), self.config), draws.reading)
        right = (scores.argmax(dim=1) == draws.sides).float().mean()
        return {"loss": F.cross_entropy(scores.float(), draws.sides), "accuracy": 100 * right}

    def boxes(self, sides: Tensor, jitter: Tensor) -> Tensor:
        """Return the two tiles (B, 2, 4) of views, the middle one first: top, left, height, width in pixels."""
        (height, width), tile = self.config.data.image_size, self.config.tile_size
        size = torch.tensor(tile, device=sides.device)
        middle = (torch.tensor([height, width], device=sides.device) - size) // 2
        step = torch.tensor([each + round(self.config.context.gap * each) for each in tile], device=sides.device)
        second = middle + torch.tensor(SIDES, device=sides.device)[sides] * step
        start = torch.stack([middle.expand_as(second), second], dim=1) + jitter
        return torch.cat([start, size.expand_as(start)], dim=2)

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Original, the two tiles as the encoder sees them, and with the second one where it is taken to lie."""
        boxes = self.boxes(draws.sides, draws.jitter)
        tiles = cut(images, boxes, self.config)
        guessed = self.boxes(self._scores(tiles, draws.reading).argmax(dim=1), draws.jitter)
        seen = self.as_pixels(without_shortcuts(tiles, draws.reading, self.config, self.look))
        size = self.config.data.image_size
        return image_rows(
            {"original": images, "two tiles": paste(size, seen, boxes), "as predicted": paste(size, seen, guessed)}
        )

    def _scores(self, tiles: Tensor, reading: Reading) -> Tensor:
        seen = without_shortcuts(tiles, reading, self.config, self.look)
        return self.head(encode(self.encoder, seen, reading).flatten(1))
