"""Instance discrimination (Wu et al., 2018): each training image is a class of its own, and the classifier is a memory
bank, with one unit vector per image.

Kept: vectors on the unit sphere, non-parametric softmax with temperature (equation 2), noise-contrastive estimation
with uniform noise and a constant Z that the first batch tells (equations 4 to 8), proximal regularisation (equation
10), and the bank, which follows an image's vector at each visit by the momentum of the release. Adapted: a linear head
on the mean of the patches, as images are probed by default, in place of a ResNet's last layer; until the first step Z
is that of random unit vectors.

The bank changes between steps only, so that parts of a batch make the whole. A part puts its vectors into their places
in the batch; the mean of these tensors over parts is the batch's, whichever micro-batch or process had each image.
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
from mae.models.vit import build_encoder, initialise, pool
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.pictures import image_rows
from mae.pretext.pixel_noise import draw_seeds, hashed
from mae.runtime.autocast import full
from mae.runtime.rng import branch

GALLERY, SIDE = 512, 64
"""Training images among which a picture looks for neighbours, and the longest side at which they are kept, pixels."""

NEIGHBOURS = 3
"""Rows of neighbours in a picture."""


class Draws(NamedTuple):
    """Crops and distortion, the place of each image in the batch, and the seed of its negatives, int64 (count,)."""

    crops: augmentation.Draws
    distortion: distortion.Draws
    places: Tensor
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
        self.head = nn.Linear(config.model.encoder.dim, settings.width)
        self.head.apply(initialise)
        count, temperature = surroundings.images, settings.temperature
        self.register_buffer("bank", F.normalize(torch.randn(count, settings.width), dim=1))
        # Cosines of random unit vectors have a variance of 1 / width: of exp(cosine / temperature) this is the mean.
        mean = math.exp(min(1 / temperature, 1 / (2 * settings.width * temperature**2)))
        self.register_buffer("z", torch.tensor(count * mean))
        self._keep_gallery(surroundings)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        distorted = distortion.draw(self.config.views, count, 0, branch(generator, "distortion"))
        seeds = draw_seeds(count, branch(generator, "negatives"))
        return Draws(self.crops(count, generator), distorted, torch.arange(count), seeds)

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        images = views(batch.images, self.config.data, draws.crops)
        vectors = self.vectors(distortion.distort(images, self.config.views, draws.distortion))
        with full(vectors.device):  # exponentials of cosines over a temperature
            old = F.embedding(batch.indexes, self.bank)
            judge = self._softmax if self.config.instance.loss == "softmax" else self._nce
            found = judge(vectors, old, batch.indexes, draws.seeds)
            moved = (vectors - old).square().sum(dim=1).mean()
        found["loss"] = found["loss"] + self.config.instance.proximal * moved
        return found | {"moved": moved.detach()} | self._in_place(vectors.detach(), batch.indexes, draws.places)

    def after_step(self, step: int, total: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move the bank towards the batch's vectors, and after the first step set Z."""
        tracked = dict(found)
        there, vectors, indexes = (tracked.pop(name) for name in ("there", "vectors", "indexes"))
        if "z" in tracked and step == 1:
            self.z.copy_(tracked["z"])
        share = 1 / there.clamp(min=1e-12)
        rows = (indexes * share).round().long()
        old = F.embedding(rows, self.bank)
        momentum = self.config.instance.momentum
        new = F.normalize(momentum * old + (1 - momentum) * vectors * share[:, None].float(), dim=1)
        self.bank.index_add_(0, rows, torch.where(there[:, None] > 0, new - old, 0))
        return tracked

    def vectors(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, W), float32, of images (B, C, H, W) in 0..1."""
        tokens = self.encoder(self.look(images))
        return F.normalize(self.head(pool(tokens, "patch_mean")).float(), dim=1)

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

    def _in_place(self, vectors: Tensor, indexes: Tensor, places: Tensor) -> dict[str, Tensor]:
        """Return what `after_step` has to know of the batch: vectors (batch, W), indexes and whether there is an image.

        All are scaled so that the mean over the parts of a batch is the whole batch's.
        """
        size = self.config.train.batch_size
        rows = torch.cat([vectors.double(), indexes[:, None], torch.ones_like(indexes)[:, None]], dim=1)
        whole = rows.new_zeros(size, rows.shape[1]).index_copy(0, places, rows * (size / len(places)))
        return {"vectors": whole[:, :-2].float(), "indexes": whole[:, -2], "there": whole[:, -1]}

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
        near = (self.vectors(images) @ self.bank[self.gallery_indexes].T).topk(NEIGHBOURS, dim=1).indices
        rows = {f"nearest {place + 1}": self.gallery[near[:, place]].float() / 255 for place in range(NEIGHBOURS)}
        return image_rows({"image": images} | rows)


def _small(images: Tensor) -> Tensor:
    """Return images (n, C, H, W) in 0..1 as uint8 of at most `SIDE` pixels a side."""
    scale = min(1.0, SIDE / max(images.shape[2:]))
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return (255 * F.interpolate(images, size=size, mode="area")).round().to(torch.uint8)
