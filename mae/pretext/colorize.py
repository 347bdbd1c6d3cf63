"""Colourisation (Zhang et al., 2016): which colours has an image of which only the lightness is seen?

Kept: Lab; a distribution over the bins of the ab plane at a quarter of the resolution; soft targets on the 5 nearest
bins; rare colours weigh more, by how often each is in training images; the annealed mean as the colour that is shown.
Regression of a and b, with which the paper compares, is a setting. Adapted: a ViT in place of convolutions, whose every
patch predicts the mean colours of its cells by one linear head; the 261 bins that an sRGB colour of 8 bits is nearest
to, where the release's file has 313 and does not tell which margin they have; frequencies of cells of a sample of the
training images, not of ImageNet's pixels. The encoder sees lightness in each of its three channels, in pretraining and
whenever it is probed.
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
from mae.models.vit import build_encoder, initialise, patchify, unpatchify
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.lab import gamut, lab_to_rgb, rgb_to_lab
from mae.pretext.pictures import image_rows
from mae.runtime.autocast import full

FITTED_ON = 2048
"""Training images that the frequencies of colours are measured on."""

NEIGHBOURS, SIGMA = 5, 5.0
"""Bins that a soft target lies on, and the deviation of its weights and of what smooths frequencies, units of ab."""

TEMPERATURE = 0.38
"""Of the annealed mean (equation 5)."""

AB = 110.0
"""What a and b are divided by where they are regressed: none is larger in sRGB."""

AT_ONCE = 32
"""Images of these whose cells are compared with all bins at a time."""


class Draws(NamedTuple):
    """Crops alone."""

    crops: augmentation.Draws


class Colorize(Pretext):
    """A linear head on the patches, and what it knows of colours: `bins` (Q, 2) and the weight (Q,) of each."""

    bins: Tensor
    weights: Tensor

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        self.encoder = build_encoder(config)
        self.classifies = config.colorize.loss == "classification"
        self.cell, self.cells = config.color_cell, math.prod(config.color_cells)
        bins = gamut()
        per_cell = len(bins) if self.classifies else 2
        self.head = nn.Linear(config.model.encoder.dim, self.cells * per_cell)
        self.head.apply(initialise)
        self.register_buffer("bins", bins.to(self.mean.device))
        self.register_buffer("weights", torch.ones_like(self.bins[:, 0]))
        if surroundings.fitted:
            self.weights = surroundings.fitted["weights"]
        elif self.classifies and not self.weights.is_meta:  # where costs are counted there are no images
            self.weights.copy_(self._fitted_weights())

    def look(self, images: Tensor) -> Tensor:
        """Return the lightness of images (B, 3, H, W) in 0..1, from -1 (black) to 1 (white), in each channel."""
        return (rgb_to_lab(images)[:, :1] / 50 - 1).expand(-1, 3, -1, -1)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        return Draws(self.crops(count, generator))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        images = views(batch.images, self.config.data, draws.crops)
        truth, predicted = self.colors_of(images), self.predict(images)
        found = self._classified(predicted, truth) if self.classifies else self._regressed(predicted, truth)
        apart = torch.linalg.vector_norm(self.mean_colors(predicted.detach()) - truth, dim=-1)
        return found | {"distance": apart.mean(), "distance_of_grey": torch.linalg.vector_norm(truth, dim=-1).mean()}

    def colors_of(self, images: Tensor) -> Tensor:
        """Return the mean a and b (B, M, 2) of the cells of images (B, 3, H, W) in 0..1, patch by patch."""
        color = F.avg_pool2d(rgb_to_lab(images)[:, 1:], self.cell)
        return patchify(color, self.config.color_cells).unflatten(2, (-1, 2)).flatten(1, 2)

    def predict(self, images: Tensor) -> Tensor:
        """Return what is predicted of the cells of images, (B, M, Q) scores of bins, or (B, M, 2) a and b over `AB`."""
        tokens = self.encoder(self.look(images))[:, 1:]
        scores: Tensor = self.head(tokens).float().unflatten(2, (self.cells, -1)).flatten(1, 2)
        return scores

    def mean_colors(self, predicted: Tensor) -> Tensor:
        """Return a and b (B, M, 2) of predictions: of scores, the annealed mean (section 2.3)."""
        if not self.classifies:
            return AB * predicted
        with full(predicted.device):  # means of bins that are far apart
            return (predicted / TEMPERATURE).softmax(dim=-1) @ self.bins

    def soft_targets(self, colors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bins nearest to colours (..., 2), nearest first, and the share of each: int64 and float, (..., k).

        They add up to 1 (section 2.2).
        """
        squares = (colors[..., None, :] - self.bins).square().sum(dim=-1)
        nearest = squares.topk(NEIGHBOURS, largest=False)
        return nearest.indices, (-nearest.values / (2 * SIGMA**2)).softmax(dim=-1)

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Original, lightness, lightness with the predicted colours, and with the true colours of the cells."""
        predicted, truth = self.mean_colors(self.predict(images)), self.colors_of(images)
        return image_rows(
            {
                "original": images,
                "lightness": self._colored(images, torch.zeros_like(truth)),
                "coloured": self._colored(images, predicted),
                "true cells": self._colored(images, truth),
            }
        )

    def _classified(self, scores: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Return the weighted cross-entropy of soft targets (equations 2 and 3), and how many bins are right, in %."""
        bins, shares = self.soft_targets(truth)
        entropy = -(shares * scores.log_softmax(dim=-1).gather(-1, bins)).sum(dim=-1)
        right = (scores.argmax(dim=-1) == bins[..., 0]).float().mean()
        return {"loss": (self.weights[bins[..., 0]] * entropy).mean(), "accuracy": 100 * right}

    def _regressed(self, predicted: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Return half the squared distance (equation 1)."""
        return {"loss": (predicted - truth / AB).square().sum(dim=-1).mean() / 2}

    def _colored(self, images: Tensor, colors: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in 0..1 with the lightness of `images` and colours of cells (B, M, 2)."""
        patches = colors.unflatten(1, (-1, self.cells)).flatten(2)
        small = unpatchify(patches, self.config.color_cells, self.config.grid)
        color = F.interpolate(small, size=images.shape[2:], mode="bilinear", align_corners=False)
        return lab_to_rgb(torch.cat([rgb_to_lab(images)[:, :1], color], dim=1))

    def _fitted_weights(self) -> Tensor:
        """Return the weight (Q,) of each bin: the inverse of its frequency among cells, smoothed and mixed with a
        uniform distribution, so that the weight of a cell is 1 on average (equation 4)."""
        counts = torch.zeros(len(self.bins))
        for images in self.surroundings.sample(FITTED_ON).split(AT_ONCE):
            nearest, _ = self.soft_targets(self.colors_of(centre(images, self.config.data)))
            counts += nearest[..., 0].flatten().bincount(minlength=len(counts))
        near = (-torch.cdist(self.bins, self.bins).square() / (2 * SIGMA**2)).exp()
        frequency = (near / near.sum(dim=0)) @ (counts / counts.sum())
        uniform = self.config.colorize.uniform
        weights = 1 / ((1 - uniform) * frequency + uniform / len(frequency))
        return weights / (frequency * weights).sum()
