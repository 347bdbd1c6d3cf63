"""Training with labels: the upper end of the scale on which pretext tasks are compared.

The same encoder under the same schedule and augmentation learns the classes themselves, by cross-entropy of a linear
head on its pooled tokens. A batch has training labels only; those of the test images never come near a task.
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
from mae.errors import ImpossibleSettings
from mae.models.vit import build_encoder, initialise, pool
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.pictures import image_rows


class Draws(NamedTuple):
    """Crops alone."""

    crops: augmentation.Draws


class Supervised(Pretext):
    """A linear classifier of the images' classes."""

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        self.encoder = build_encoder(config)
        width = config.model.encoder.dim * (2 if config.supervised.features == "both" else 1)
        self.head = nn.Linear(width, surroundings.classes)
        self.head.apply(initialise)
        self.chance_loss = math.log(surroundings.classes) if surroundings.classes else None

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        return Draws(self.crops(count, generator))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        scores = self._scores(views(batch.images, self.config.data, draws.crops))
        right = (scores.argmax(dim=1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(scores, batch.labels), "accuracy": 100 * right}

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Images, and below each the likeliest class with its probability: without the truth, which a task is not told
        of images that it does not train on."""
        chance, classes = self._scores(images).softmax(dim=1).max(dim=1)
        figure = image_rows({"image": images})
        for axis, share, number in zip(figure.axes, chance.tolist(), classes.tolist(), strict=True):
            axis.set_xlabel(f"{self._name(number)} {100 * share:.0f} %")
        return figure

    def _name(self, number: int) -> str:
        names = self.surroundings.class_names
        return names[number] if names else f"class {number}"

    def _scores(self, images: Tensor) -> Tensor:
        tokens = self.encoder(self.look(images))
        scores: Tensor = self.head(pool(tokens, self.config.supervised.features)).float()
        return scores


def check_supervision(config: Config, labels: Tensor, classes: int) -> None:
    """Raise `ImpossibleSettings` if training needs labels and not every training image has one of at least two classes.

    `labels` are int64 (N,), -1 where there is none.
    """
    if config.pretext.kind != "supervised":
        return
    missing = int((labels < 0).sum())
    if missing:
        raise ImpossibleSettings(
            f"pretext.kind=supervised: {missing:,} of {len(labels):,} training images have no label; expected one for "
            "each: name images in class folders, or another task"
        )
    if classes < 2:
        raise ImpossibleSettings(f"pretext.kind=supervised: expected at least 2 classes; the images have {classes}")
