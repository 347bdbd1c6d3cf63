"""Jigsaw puzzles: pieces of an image are read without their places, which have to be told.

Of tiles (`mae.pretext.jigsaw_tiles`), or of all patches (`mae.pretext.jigsaw_patches`).
"""

import math
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from mae.config.tree import Config
from mae.data import augmentation
from mae.data.augmentation import views
from mae.models.vit import Encoder, build_encoder
from mae.pretext import jigsaw_patches, jigsaw_tiles
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.pictures import image_rows

PUZZLES: dict[str, type[jigsaw_tiles.TilePuzzle | jigsaw_patches.PatchPuzzle]] = {
    "tiles": jigsaw_tiles.TilePuzzle,
    "patches": jigsaw_patches.PatchPuzzle,
}


class Draws(NamedTuple):
    """Crops, and what the puzzle draws."""

    crops: augmentation.Draws
    puzzle: Any


class Jigsaw(Pretext):
    """An encoder, and a puzzle with its classifier."""

    encoder: Encoder

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        self.encoder = build_encoder(config)
        self.puzzle = PUZZLES[config.jigsaw.pieces](config)
        self.chance_loss = math.log(self.puzzle.answers)
        if not config.positions:
            self.encoder.pos_embed.zero_()

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        return Draws(self.crops(count, generator), self.puzzle.draw(count, generator))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        images = views(batch.images, self.config.data, draws.crops)
        scores, truth = self.puzzle(self.encoder, images, draws.puzzle, self.look)
        right = (scores.argmax(dim=2) == truth).float().mean()
        return {"loss": F.cross_entropy(scores.float().flatten(0, 1), truth.flatten()), "accuracy": 100 * right}

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Original, the pieces as they are given, and as they are put back."""
        return image_rows({"original": images} | self.puzzle.rows(self.encoder, images, draws.puzzle, self.look))
