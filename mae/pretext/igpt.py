"""Generative Pretraining from Pixels (Chen et al., ICML 2020): a language model's two tasks, on pixels.

Images are made small, and each pixel is told as the nearest of 512 colours, which k-means finds among training images
(section 3.2). `igpt_ar` predicts each pixel from those before it, row by row; `igpt_bert` the pixels that are hidden
from all others: of a hidden one the encoder has the position only, and zeros in place of its colour (section 2).

Kept: palette, objectives, the start of a sequence and the shift of tokens by one, the mean over tokens as features.
Adapted: blocks, fixed positions and first weights are those of all encoders here, where the paper learns positions and
the release's norms take no mean away; `igpt_bert` hides a fixed number of each image's pixels, where the paper tosses a
coin for each, and is probed with nothing hidden. Both have a class token: of `igpt_bert` it is one more token, of
`igpt_ar` the one that follows the last pixel, and has read them all.
"""

import math
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.tree import Config
from mae.data import augmentation
from mae.data.augmentation import centre, views
from mae.models.pixels import PixelEncoder, build_pixel_encoder
from mae.models.vit import gather_tokens
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.palette import fit_palette
from mae.pretext.pictures import image_rows
from mae.pretext.pixel_noise import draw_seeds, hashed
from mae.runtime.rng import branch, generator

FITTED_ON = 1024, 2**16
"""Training images that a palette is fitted on, and most of their pixels."""


class PixelModel(Pretext):
    """What both tasks share: the palette, the encoder that has it, and a linear classifier of colours."""

    encoder: PixelEncoder

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        self.encoder = build_pixel_encoder(config)
        self.head = nn.Linear(config.model.encoder.dim, config.colors)
        nn.init.normal_(self.head.weight, std=0.02)  # a first guess is close to chance
        nn.init.zeros_(self.head.bias)
        palette = self.encoder.patch_embed.palette
        if surroundings.fitted:
            palette.copy_(surroundings.fitted["encoder.patch_embed.palette"])
        elif not palette.is_meta:  # where costs are counted there are no images
            palette.copy_(self._fitted_palette())

    def colors_of(self, batch: Batch, crops: augmentation.Draws) -> Tensor:
        """Return the colours (B, N) of a batch's views."""
        return self.encoder.patch_embed.colors(self.look(views(batch.images, self.config.data, crops)))

    def losses(self, tokens: Tensor, colors: Tensor) -> dict[str, Tensor]:
        """Return what to track of predictions from normalised tokens (B, n, D) of colours (B, n)."""
        scores = self.head(tokens).float()
        loss = F.cross_entropy(scores.flatten(0, 1), colors.flatten())
        right = (scores.argmax(dim=2) == colors).float().mean()
        return {"loss": loss, "bits_per_pixel": loss.detach() / math.log(2), "accuracy": 100 * right}

    def shown(self, colors: Tensor) -> Tensor:
        """Return small images (B, C, rows, columns) in 0..1 of colours (B, N)."""
        return self.as_pixels(self.encoder.patch_embed.shown(colors))

    def _fitted_palette(self) -> Tensor:
        images, most = FITTED_ON
        seen = self.look(centre(self.surroundings.sample(images), self.config.data))
        pixels, seed = self.encoder.patch_embed.pixels(seen).flatten(0, 1), self.config.train.seed
        chosen = torch.randperm(len(pixels), generator=generator(seed, "palette"))[:most]
        return fit_palette(pixels[chosen], self.config.colors, seed)


class AutoregressiveDraws(NamedTuple):
    """Crops alone."""

    crops: augmentation.Draws


class AutoregressivePixels(PixelModel):
    """Predicts each pixel from those before it."""

    def draw(self, count: int, generator: torch.Generator) -> AutoregressiveDraws:
        return AutoregressiveDraws(self.crops(count, generator))

    def forward(self, batch: Batch, draws: AutoregressiveDraws) -> dict[str, Tensor]:
        colors = self.colors_of(batch, draws.crops)
        return self.losses(self.encoder.forward_colors(colors)[:, 1:], colors)

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: AutoregressiveDraws) -> Figure:
        """Original, in the palette, upper half, and how it goes on: drawn, as the likeliest colours are all alike."""
        colors = self.encoder.patch_embed.colors(self.look(images))
        rows, columns = self.config.grid
        upper = self.shown(colors)
        upper[:, :, rows // 2 :] = 0.5
        draws_of_colors = generator(self.config.train.seed, "completion")

        def drawn(tokens: Tensor) -> Tensor:
            chances = self.head(tokens).float().softmax(dim=1).cpu()  # where draws are the same on every device
            return chances.multinomial(1, generator=draws_of_colors)[:, 0].to(tokens.device)

        completed = self.encoder.complete(colors, rows // 2 * columns, drawn)
        return image_rows(
            {"original": images, "palette": self.shown(colors), "upper half": upper, "completed": self.shown(completed)}
        )


class MaskedDraws(NamedTuple):
    """Crops, and the seed of what is hidden in an image, int64 (count,)."""

    crops: augmentation.Draws
    seeds: Tensor


class MaskedPixels(PixelModel):
    """Predicts hidden pixels from all others."""

    def draw(self, count: int, generator: torch.Generator) -> MaskedDraws:
        return MaskedDraws(self.crops(count, generator), draw_seeds(count, branch(generator, "pixels")))

    def forward(self, batch: Batch, draws: MaskedDraws) -> dict[str, Tensor]:
        colors, hidden = self.colors_of(batch, draws.crops), self.hidden(draws)
        return self.losses(self.tokens_at(hidden, colors), colors.gather(1, hidden))

    def hidden(self, draws: MaskedDraws) -> Tensor:
        """Return the indexes (B, M) of the pixels that are hidden, int64."""
        return hashed(draws.seeds, self.config.patches).argsort(dim=1)[:, : self.config.masked_pixels]

    def tokens_at(self, hidden: Tensor, colors: Tensor) -> Tensor:
        """Return normalised tokens (B, M, D) of the pixels at `hidden` (B, M), whose colours (B, N) are not read."""
        seen = torch.ones_like(colors, dtype=torch.float32).scatter(1, hidden, 0.0)
        return gather_tokens(self.encoder.forward_colors(colors, seen)[:, 1:], hidden)

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: MaskedDraws) -> Figure:
        """Original, in the palette, masked, and filled in with the likeliest colours."""
        colors, hidden = self.encoder.patch_embed.colors(self.look(images)), self.hidden(draws)
        told = self.shown(colors)
        where = hidden[:, None].expand(-1, told.shape[1], -1)
        masked = told.flatten(2).scatter(2, where, 0.5).unflatten(2, self.config.grid)
        likeliest = self.head(self.tokens_at(hidden, colors)).argmax(dim=2)
        filled = self.shown(colors.scatter(1, hidden, likeliest))
        return image_rows({"original": images, "palette": told, "masked": masked, "filled in": filled})
