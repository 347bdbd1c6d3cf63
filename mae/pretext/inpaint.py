"""Context Encoders (Pathak et al., CVPR 2016): fill in a region that was cut out of an image.

Kept: the regions; the training mean in their place; a squared error on the region, whose band along the border is seen
by the encoder and weighs 10 times as much (section 4); an adversarial loss with a convolutional discriminator, of
weight 0.001, which sees the predicted region alone where that is the centre (section 3.2). Adapted: a ViT that sees all
positions and MAE's decoder in place of AlexNet's layers and their transpose; shapes are smooth noise above a threshold,
in place of segmentations of another data set; other regions are judged as whole images, with the prediction in place;
each image's error is a mean, over its own region.

Both players share one optimiser: learning rate (the paper's discriminator has a tenth), schedule, weight decay, and
`train.clip_norm`, which shortens the gradient of both together.
"""

from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mae.config.tree import Config
from mae.data import augmentation
from mae.data.augmentation import views
from mae.models.vit import unpatchify
from mae.pretext.autoencoder import Autoencoder
from mae.pretext.base import Batch, Surroundings
from mae.pretext.discriminator import Discriminator
from mae.pretext.pictures import image_rows
from mae.pretext.regions import REGIONS, window, without_border
from mae.runtime.rng import branch

BORDER_WEIGHT = 10
"""Of the error on the band that the encoder sees, within the region."""


class Draws(NamedTuple):
    """Crops, and what `REGIONS` are made of, None where nothing of them is random."""

    crops: augmentation.Draws
    region: Tensor | None


class ContextEncoder(Autoencoder):
    """An encoder that reads images with a hole, a decoder that predicts all pixels, and a discriminator, if any."""

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        centre, (height, width) = config.inpaint.region == "centre", config.data.image_size
        self.judged_part = window(config) if centre else (slice(0, height), slice(0, width))
        size = config.piece_size if centre else config.data.image_size
        adversarial = config.inpaint.adversarial_weight > 0
        self.discriminator = Discriminator(config.data.channels, size) if adversarial else None

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        crops = self.crops(count, generator)
        region = REGIONS[self.config.inpaint.region]
        return Draws(crops, region.draw(branch(generator, "region"), count, self.config))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Return the generator's loss, whose gradient holds the discriminator's too, and the parts of both."""
        images = self.look(views(batch.images, self.config.data, draws.crops))
        region, hole = self.region(draws.region)
        predicted = self.fill(images, hole)
        error = _error(predicted - images, region, hole)
        if self.discriminator is None:
            return {"loss": error, "error": error}
        game = self.discriminator.play(self._judged(images), self._judged(torch.where(region, predicted, images)))
        weight = self.config.inpaint.adversarial_weight
        loss = (1 - weight) * error + weight * game.generator
        return {
            "loss": loss + (game.discriminator - game.discriminator.detach()),  # adds a gradient and no value
            "error": error,
            "adversarial": game.generator,
            "discriminator_accuracy": 100 * game.right,
        }

    def region(self, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the pixels that are predicted, and those of them that the encoder does not see, bool (B, 1, H, W) or
        (1, 1, H, W)."""
        region = REGIONS[self.config.inpaint.region].covered(draws, self.config, self.mean.device)
        return region, without_border(region, self.config.overlap_pixels)

    def fill(self, images: Tensor, hole: Tensor) -> Tensor:
        """Cut a hole into normalised images and predict them, all pixels (B, C, H, W) in float32."""
        encoded = self.encoder(images.masked_fill(hole, 0), self.decoder.decoder_fusion)
        order = torch.arange(self.config.patches, device=images.device).expand(len(images), -1)
        return unpatchify(self.decoder(encoded, order, 0).float(), self.patch, self.config.grid)

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Original, with the region cut out, filled in, one above the other."""
        seen = self.look(images)
        _, hole = self.region(draws.region)
        filled = torch.where(hole, self.fill(seen, hole), seen)
        return image_rows(
            {
                "original": images,
                "cut out": self.as_pixels(seen.masked_fill(hole, 0)),
                "filled in": self.as_pixels(filled),
            }
        )

    def _judged(self, images: Tensor) -> Tensor:
        """Return what the discriminator sees of images (B, C, H, W)."""
        rows, columns = self.judged_part
        return images[..., rows, columns]


def _error(difference: Tensor, region: Tensor, hole: Tensor) -> Tensor:
    """Return the mean squared difference (B, C, H, W) in the region, its border weighing more: of each image, then of
    all."""
    weights = torch.where(hole, 1.0, BORDER_WEIGHT) * region  # (B or 1, 1, H, W)
    shares = weights / weights.sum(dim=(2, 3), keepdim=True)
    return (difference.square().mean(dim=1, keepdim=True) * shares).sum() / len(difference)
