"""Rotation prediction (Gidaris et al., 2018): by how many quarter turns has an image been turned?"""

import math
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
    """Crops, and quarter turns, int64 (count,) in 0..3, or None where every image is shown in all four."""

    crops: augmentation.Draws
    turns: Tensor | None


class Rotation(Pretext):
    """A linear classifier of four rotations on the class token. Every image is shown in one of them per epoch, or, with
    `rotation.all_four`, in all of them at once, as in the paper (section 2.1)."""

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        self.encoder = build_encoder(config)
        self.head = nn.Linear(config.model.encoder.dim, 4)
        self.chance_loss = math.log(4)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        crops = self.crops(count, generator)
        if self.config.rotation.all_four:
            return Draws(crops, None)
        return Draws(crops, torch.randint(4, (count,), generator=branch(generator, "turns")))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        images = views(batch.images, self.config.data, draws.crops)
        turns = draws.turns
        if turns is None:
            turns = torch.arange(4, device=images.device).repeat_interleave(len(images))
            images = images.repeat(4, 1, 1, 1)
        scores = self._scores(turn(images, turns))
        right = (scores.argmax(dim=1) == turns).float().mean()
        return {"loss": F.cross_entropy(scores.float(), turns), "accuracy": 100 * right}

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Original, turned, and turned back as predicted; one turn of each image, if all are trained."""
        turns = torch.arange(len(images), device=images.device) if draws.turns is None else draws.turns
        turned = turn(images, turns)
        back = turn(turned, -self._scores(turned).argmax(dim=1))
        return image_rows({"original": images, "turned": turned, "turned back": back})

    def _scores(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.look(images))[:, 0])


def turn(images: Tensor, turns: Tensor) -> Tensor:
    """Return images (B, C, S, S), each turned counter-clockwise by its number of quarter turns (B,)."""
    turned = torch.stack([images.rot90(quarter, (2, 3)) for quarter in range(4)])
    return turned[turns % 4, torch.arange(len(images), device=images.device)]
