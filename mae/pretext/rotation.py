"""Rotation prediction (Gidaris et al., 2018): by how many quarter turns has an image been turned?"""

from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.tree import Config
from mae.data import augmentation
from mae.data.augmentation import views
from mae.models.vit import build_encoder
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.pictures import image_rows
from mae.runtime.rng import branch


class Draws(NamedTuple):
    """Crops, and quarter turns, int64 (count,) in 0..3."""

    crops: augmentation.Draws
    turns: Tensor


class Rotation(Pretext):
    """A linear classifier of four rotations on the class token. Every image is shown in one of them per epoch, where
    the paper shows all four in one batch."""

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        self.encoder = build_encoder(config)
        self.head = nn.Linear(config.model.encoder.dim, 4)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        return Draws(self.crops(count, generator), torch.randint(4, (count,), generator=branch(generator, "turns")))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        turned = turn(views(batch.images, self.config.data, draws.crops), draws.turns)
        scores = self._scores(turned)
        right = (scores.argmax(dim=1) == draws.turns).float().mean()
        return {"loss": F.cross_entropy(scores.float(), draws.turns), "accuracy": 100 * right}

    def picture(self, images: Tensor, draws: Draws) -> Figure:
        turned = turn(images, draws.turns)
        back = turn(turned, -self._scores(turned).argmax(dim=1))
        return image_rows({"original": images, "turned": turned, "turned back": back})

    def _scores(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.look(images))[:, 0])


def turn(images: Tensor, turns: Tensor) -> Tensor:
    """Return images (B, C, S, S), each turned counter-clockwise by its number of quarter turns (B,)."""
    turned = torch.stack([images.rot90(quarter, (2, 3)) for quarter in range(4)])
    return turned[turns % 4, torch.arange(len(images), device=images.device)]
