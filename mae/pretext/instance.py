"""Instance discrimination (Wu et al., 2018): each training image is a class of its own, and the classifier is a memory
bank, with one unit vector per image.

Kept: vectors on the unit sphere, non-parametric softmax with temperature (equation 2), noise-contrastive estimation
with uniform noise and a constant Z that the first batch tells (equations 4 to 8), proximal regularisation (equation
10), and the bank, which follows an image's vector at each visit by the momentum of the release. Adapted: a linear head
on the mean of the patches, as images are probed by default, and a batch norm behind it, in place of a ResNet, which has
its own; until the first step Z is that of random unit vectors.

An image's own row is the oldest of the bank, so whatever all vectors have in common and changes tells it from the
others: without the batch norm, which takes that away, a ViT's vectors flee from the bank together.
"""

import math
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.tree import Config
from mae.data import augmentation, distortion
from mae.data.augmentation import centre, views
from mae.models.batch_norm import BatchNorm
from mae.models.vit import build_encoder, initialise, pool
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.pictures import image_rows
from mae.pretext.pixel_noise import draw_seeds, hashed
from mae.runtime.autocast import full
from mae.runtime.gathering import gathered
from mae.runtime.rng import branch

GALLERY, SIDE = 512, 64
"""Training images among which a picture looks for neighbours, and the longest side at which they are kept, pixels."""

NEIGHBOURS, BESIDE = 3, 64
"""Rows of neighbours in a picture, and images of the gallery that are in its batch, for the statistics."""


class Draws(NamedTuple):
    """Crops and distortion, and the seed of each image's negatives, int64 (count,)."""

    crops: augmentation.Draws
    distortion: distortion.Draws
    seeds: Tensor


class InstanceDiscrimination(Pretext):
    """A linear head to unit vectors (B, W), and the `bank` (N, W) that has one for each training image."""

    bank: Tensor
    z: Tensor
    gallery: Tensor
    gallery_indexes: Tensor

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        settings = config.instance
        self.encoder = build_encoder(config)
        self.head = nn.Linear(config.model.encoder.dim, settings.width, bias=False)  # the norm takes one away
        self.head.apply(initialise)
        self.norm = BatchNorm(settings.width, affine=False)
        count, temperature = surroundings.images, settings.temperature
        self.chance_loss = math.log(count) if settings.loss == "softmax" else None
        self.register_buffer("bank", F.normalize(torch.randn(count, settings.width), dim=1))
        # Cosines of random unit vectors have a variance of 1 / width: of exp(cosine / temperature) this is the mean.
        mean = math.exp(min(1 / temperature, 1 / (2 * settings.width * temperature**2)))
        self.register_buffer("z", torch.tensor(count * mean))
        self._keep_gallery(surroundings)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        distorted = distortion.draw(self.config.views, count, 0, branch(generator, "distortion"))
        return Draws(self.crops(count, generator), distorted, draw_seeds(count, branch(generator, "negatives")))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        images = views(batch.images, self.config.data, draws.crops)
        vectors = self.vectors(distortion.distort(images, self.config.views, draws.distortion))
        with full(vectors.device):  # exponentials of cosines over a temperature
            old = F.embedding(batch.indexes, self.bank)
            judge = self._softmax if self.config.instance.loss == "softmax" else self._nce
            found = judge(vectors, old, batch.indexes, draws.seeds)
            moved = (vectors - old).square().sum(dim=1).mean()
        found["loss"] = found["loss"] + self.config.instance.proximal * moved
        visited = {"vectors": gathered(vectors.detach()), "indexes": gathered(batch.indexes.float())}
        return found | {"moved": moved.detach()} | visited

    def after_step(self, step: int, total: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move the bank towards the batch's vectors, and after the first step set Z."""
        tracked = dict(found)
        vectors, indexes = tracked.pop("vectors"), tracked.pop("indexes")
        if "z" in tracked and step == 1:
            self.z.copy_(tracked["z"])
        rows, momentum = indexes.round().long(), self.config.instance.momentum  # whole numbers, below 2^24 exactly
        self.bank[rows] = F.normalize(momentum * self.bank[rows] + (1 - momentum) * vectors, dim=1)
        return tracked

    def vectors(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, W), float32, of images (B, C, H, W) in 0..1."""
        tokens = self.encoder(self.look(images))
        return F.normalize(self.norm(self.head(pool(tokens, "patch_mean"))), dim=1)

    def _softmax(self, vectors: Tensor, old: Tensor, indexes: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy over all images (equations 2 and 3), and how often its own row is nearest, in %."""
        scores = vectors @ self.bank.T / self.config.instance.temperature
        right = (scores.argmax(dim=1) == indexes).float().mean()
        return {"loss": F.cross_entropy(scores, indexes), "accuracy": 100 * right}

    def _nce(self, vectors: Tensor, old: Tensor, indexes: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """Return the loss of telling an image's own row from rows of noise (equation 7), how often its own is nearest,
        in %, and what Z is estimated to be (equation 8)."""
        settings, count = self.config.instance, len(self.bank)
        noise = self._cosines(vectors, hashed(seeds, settings.negatives) % count) / settings.temperature
        own = (vectors * old).sum(dim=1) / settings.temperature
        # h = P / (P + m / n), of P = exp(score) / Z: the sigmoid of this.
        shift = torch.log(settings.negatives * self.z / count)
        loss = F.softplus(shift - own) + F.softplus(noise - shift).sum(dim=1)
        z = count * noise.detach().exp().mean()
        right = (own > noise.amax(dim=1)).float().mean()
        return {"loss": loss.mean(), "accuracy": 100 * right, "z": z}

    def _cosines(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Return the cosines (B, m) of vectors (B, W) with rows (B, m) of the bank, the way that takes less memory."""
        if len(self.bank) <= rows.shape[1] * vectors.shape[1]:
            return (vectors @ self.bank.T).gather(1, rows)
        return torch.einsum("bw,bmw->bm", vectors, F.embedding(rows, self.bank))

    def _keep_gallery(self, surroundings: Surroundings) -> None:
        """Keep training images small, with their indexes, for pictures of a finished run, which has no images."""
        fitted = surroundings.fitted
        if fitted:
            images, indexes = fitted["gallery"], fitted["gallery_indexes"]
        elif self.bank.is_meta:  # where costs are counted there are no images
            images, indexes = torch.zeros(0), torch.zeros(0)
        else:
            images = _small(centre(surroundings.sample(GALLERY), self.config.data))
            indexes = surroundings.sampled(GALLERY)
        self.register_buffer("gallery", images)
        self.register_buffer("gallery_indexes", indexes)

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Images, and the training images of a sample whose rows of the bank are nearest to them."""
        beside = F.interpolate(self.gallery[:BESIDE].float() / 255, size=images.shape[2:], mode="area")
        vectors = self.vectors(torch.cat([images, beside]))[: len(images)]
        near = (vectors @ self.bank[self.gallery_indexes].T).topk(NEIGHBOURS, dim=1).indices
        rows = {f"nearest {place + 1}": self.gallery[near[:, place]].float() / 255 for place in range(NEIGHBOURS)}
        return image_rows({"image": images} | rows)


def _small(images: Tensor) -> Tensor:
    """Return images (n, C, H, W) in 0..1 as uint8 of at most `SIDE` pixels a side."""
    scale = min(1.0, SIDE / max(images.shape[2:]))
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return (255 * F.interpolate(images, size=size, mode="area")).round().to(torch.uint8)
