"""No pretext task: the encoder as it is initialised, the lower end of the scale on which tasks are compared.

It takes no step, so that it costs nothing to train. What probes make of it is what the architecture and the probe do by
themselves; in every table it is the baseline "untrained" of the runs of its seed.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mae.data import augmentation
from mae.data.augmentation import views
from mae.pretext.base import Batch
from mae.pretext.encoder_only import EncoderOnly


class Draws(NamedTuple):
    """Crops."""

    crops: augmentation.Draws


class Untrained(EncoderOnly):
    """An encoder alone. Its loss is 0 whatever the weights are: a step, which only measurements take, moves nothing."""

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        return Draws(self.crops(count, generator))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        images = views(batch.images, self.config.data, draws.crops)
        return {"loss": 0 * self.encoder(self.look(images)).float().sum()}

    def cost(self) -> dict[str, float]:
        return super().cost() | {"gflops_per_image": 0.0}
