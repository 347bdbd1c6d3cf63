"""SimSiam (Chen and He, 2021): from one view of an image, predict what the same encoder makes of another one.

Kept: a projector of 3 layers, a predictor with a bottleneck, batch norm in both (over all processes), the symmetric
negative cosine and the stop-gradient, without which all outputs become one (section 4.1): `output_std` detects that.
Adapted: the class token of a ViT in place of a ResNet's mean; AdamW under the schedule of all tasks for all parts,
where the paper has SGD and a constant rate for the predictor.
"""

from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mae.config.tree import Config
from mae.data import augmentation
from mae.models.vit import build_encoder
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.contrastive import normalised, perceptron
from mae.pretext.two_views import ViewDraws, draw, picture_of, two_views, views_of_centres
from mae.runtime.gathering import mean_of_all


class Draws(NamedTuple):
    """Crops of the first views, and the rest of both."""

    crops: augmentation.Draws
    views: ViewDraws


class SimSiam(Pretext):
    """An encoder with a projector, and a predictor of the other view's projection."""

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        width, bottleneck = config.simsiam.dim, config.simsiam.bottleneck
        self.encoder = build_encoder(config)
        self.projector = perceptron(config.model.encoder.dim, width, width, layers=3)
        self.predictor = perceptron(width, bottleneck, width, layers=2, closing_norm=False)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        return Draws(self.crops(count, generator), draw(self.config, count, generator))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        views = two_views(batch.images, self.config, draws.crops, draws.views)
        first, second = self._projections(*views)
        loss = (self._distance(first, second) + self._distance(second, first)) / 2
        return {"loss": loss, "output_std": (spread(first.detach()) + spread(second.detach())) / 2}

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        views = views_of_centres(images, self.config, draws.crops, draws.views)
        first, second = self._projections(*views)
        return picture_of(*views, normalised(self.predictor(first)) @ normalised(second).T)

    def _projections(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Return the projections (B, D) of two views; statistics are those of a view."""
        classes = self.encoder(self.look(torch.cat([first, second])))[:, 0]
        return [self.projector(part) for part in classes.chunk(2)]

    def _distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the mean negative cosine, -1 to 1, of what is predicted from one view's projection to the other's."""
        target = other.detach() if self.config.simsiam.stop_gradient else other
        return -(normalised(self.predictor(one)) * normalised(target)).sum(dim=1).mean()


def spread(outputs: Tensor) -> Tensor:
    """Return the standard deviation over the batch of outputs (B, D), scaled to length 1, times the root of D.

    About 1 where outputs use all directions alike, 0 where they have collapsed to one point (section 4.1, Fig. 2).
    """
    unit = normalised(outputs)
    centred = unit - mean_of_all(unit.mean(dim=0))
    deviations = mean_of_all(centred.square().mean(dim=0)).sqrt()
    return deviations.mean() * outputs.shape[1] ** 0.5
