"""Instance discrimination (Wu et al., 2018): each training image is a class of its own, and the classifier is a memory
bank, with one unit vector per image.

Kept: vectors on the unit sphere, non-parametric softmax with temperature (equation 2), noise-contrastive estimation
with uniform noise and a constant Z (equations 4 to 7), proximal regularisation (equation 10), and the bank, which
follows an image's vector at each visit by the momentum of the release. Adapted, for a ViT, whose untrained features are
all but alike and which has no batch norms: a linear head on the mean of the patches, from whose outputs their moving
average is taken away, as DINO's centre (Caron et al., 2021), since all vectors would else flee from the bank together;
rows that are zero until their image's first visit, where random ones would draw all vectors to their mean. Z is that of
vectors all over the sphere, which is what equation 8 estimates with random rows.

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

CENTRE = 0.9
"""Share that the centre keeps at each step."""

SPREAD_ON = 128
"""Training images whose vectors are spread over the sphere at the start."""

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

    centre: Tensor
    bank: Tensor
    gallery: Tensor
    gallery_indexes: Tensor

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        settings = config.instance
        self.encoder = build_encoder(config)
        self.head = nn.Linear(config.model.encoder.dim, settings.width, bias=False)
        self.head.apply(initialise)
        count, temperature = surroundings.images, settings.temperature
        self.register_buffer("centre", torch.zeros(settings.width))
        self.register_buffer("bank", torch.zeros(count, settings.width))
        # Cosines of vectors all over the sphere have a variance of 1 / width: of exp(cosine / temperature) the mean is
        mean = math.exp(min(1 / temperature, 1 / (2 * settings.width * temperature**2)))
        self.log_z = math.log(count * mean) if count else 0.0
        self._keep_gallery(surroundings)
        if not surroundings.fitted and not self.bank.is_meta:  # where costs are counted there are no images
            self._spread(surroundings)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        distorted = distortion.draw(self.config.views, count, 0, branch(generator, "distortion"))
        seeds = draw_seeds(count, branch(generator, "negatives"))
        return Draws(self.crops(count, generator), distorted, torch.arange(count), seeds)

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        images = views(batch.images, self.config.data, draws.crops)
        outputs = self.outputs(distortion.distort(images, self.config.views, draws.distortion))
        vectors = F.normalize(outputs - self.centre, dim=1)
        with full(vectors.device):  # exponentials of cosines over a temperature
            old = F.embedding(batch.indexes, self.bank)
            judge = self._softmax if self.config.instance.loss == "softmax" else self._nce
            found = judge(vectors, old, batch.indexes, draws.seeds)
            moved = (vectors - old).square().sum(dim=1).mean()
        found["loss"] = found["loss"] + self.config.instance.proximal * moved
        found |= {"moved": moved.detach(), "mean": outputs.detach().mean(dim=0)}
        return found | self._in_place(vectors.detach(), batch.indexes, draws.places)

    def after_step(self, step: int, total: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move the bank towards the batch's vectors, and the centre towards the mean of its outputs."""
        tracked = dict(found)
        there, vectors, indexes = (tracked.pop(name) for name in ("there", "vectors", "indexes"))
        self.centre.lerp_(tracked.pop("mean"), 1 - CENTRE)
        share = 1 / there.clamp(min=1e-12)
        rows = (indexes * share).round().long()
        old = F.embedding(rows, self.bank)
        momentum = self.config.instance.momentum
        new = F.normalize(momentum * old + (1 - momentum) * vectors * share[:, None].float(), dim=1)
        self.bank.index_add_(0, rows, torch.where(there[:, None] > 0, new - old, 0))
        return tracked

    def vectors(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, W), float32, of images (B, C, H, W) in 0..1."""
        return F.normalize(self.outputs(images) - self.centre, dim=1)

    def outputs(self, images: Tensor) -> Tensor:
        """Return what the head makes of images, (B, W), float32."""
        tokens = self.encoder(self.look(images))
        scores: Tensor = self.head(pool(tokens, "patch_mean")).float()
        return scores

    def _softmax(self, vectors: Tensor, old: Tensor, indexes: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy over all images (equations 2 and 3), and how often its own row is nearest, in %."""
        scores = vectors @ self.bank.T / self.config.instance.temperature
        right = (scores.argmax(dim=1) == indexes).float().mean()
        return {"loss": F.cross_entropy(scores, indexes), "accuracy": 100 * right}

    def _nce(self, vectors: Tensor, old: Tensor, indexes: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """Return the loss of telling an image's own row from rows of noise (equation 7), and how often its own is
        nearest, in %."""
        settings, count = self.config.instance, len(self.bank)
        noise = self._cosines(vectors, hashed(seeds, settings.negatives) % count) / settings.temperature
        own = (vectors * old).sum(dim=1) / settings.temperature
        # h = P / (P + m / n), of P = exp(score) / Z: the sigmoid of this.
        shift = math.log(settings.negatives / count) + self.log_z
        loss = F.softplus(shift - own) + F.softplus(noise - shift).sum(dim=1)
        right = (own > noise.amax(dim=1)).float().mean()
        return {"loss": loss.mean(), "accuracy": 100 * right}

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

    @torch.no_grad()
    def _spread(self, surroundings: Surroundings) -> None:
        """Let the head whiten a sample's features, and the centre be the mean of its outputs.

        An untrained ViT's features are all but alike, and differ along few directions: the vectors would be one or two,
        and a bank of such rows tells no image from another.
        """
        images = centre(surroundings.sample(SPREAD_ON), self.config.data)
        features = pool(self.encoder(self.look(images)), "patch_mean")
        apart = features - features.mean(dim=0)
        variances, axes = torch.linalg.eigh(apart.T @ apart)
        scales = variances.clamp(min=max(1e-12, 1e-4 * variances[-1].item())).rsqrt()
        self.head.weight.copy_(self.head.weight @ (axes * scales) @ axes.T)
        self.centre.copy_(self.head(features.mean(dim=0)))

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
