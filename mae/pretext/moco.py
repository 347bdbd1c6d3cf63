"""Momentum Contrast: tell by its key which other view an image has; keys are made by a moving average of the encoder.

`moco.version=v2` (He et al., 2020; Chen et al., 2020) contrasts with a queue of earlier keys, `v3` (Chen et al., 2021)
with the keys of the batch, both ways, by a predictor. Kept: heads, temperature, momentum, which in v3 rises to 1, and
the option of a patch projection that stays random. Adapted: v2 reads the class token of a ViT, as v3 does. A ViT has no
batch norm, as a ResNet has; without any, all keys drift together, and the newest are told from those in the queue by
their age alone: so v2's heads end in one (`moco.batch_norm`). It is over the batch of all processes, which gives no
answer away, so images are not shuffled among them. Added: keys of an image are no negatives of itself, so that a queue
may be longer than the training set.

A step puts its keys into the queue. What `after_step` gets is a mean over parts of the batch: so each part returns a
table of the whole batch, with its keys in their rows and zeros elsewhere.
"""

import math
from copy import deepcopy
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.tree import Config
from mae.data import augmentation
from mae.models.batch_norm import BatchNorm
from mae.models.vit import build_encoder
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.contrastive import info_nce, normalised, perceptron, share_right
from mae.pretext.two_views import ViewDraws, draw, picture_of, two_views, views_of_centres
from mae.runtime.autocast import full


class Draws(NamedTuple):
    """Crops of the first views, the rest of both, and the images' places in the batch, int64 (count,)."""

    crops: augmentation.Draws
    views: ViewDraws
    rows: Tensor


class MomentumContrast(Pretext):
    """An encoder with a head, their moving averages, and a queue of keys."""

    queue: Tensor
    """Keys of length 1, (K, D)."""
    queued: Tensor
    """Indexes of their images, int64 (K,); -1 at first, when keys are random."""

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        inputs, hidden, dim = config.model.encoder.dim, config.moco.hidden, config.moco.dim
        self.symmetric = config.moco.version == "v3"
        self.chance_loss = self._chance_loss(config)
        self.encoder = build_encoder(config)
        if self.symmetric:
            self.encoder.patch_embed.requires_grad_(not config.moco.frozen_patches)
            self.head = perceptron(inputs, hidden, dim, layers=3)
            self.predictor = perceptron(dim, hidden, dim, layers=2)
        else:
            norm = [BatchNorm(dim, affine=False)] if config.moco.batch_norm else []
            self.head = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, dim), *norm)
            self.register_buffer("queue", normalised(torch.randn(config.moco.queue, dim)))
            self.register_buffer("queued", torch.full((config.moco.queue,), -1))
        self.key_encoder = deepcopy(self.encoder).requires_grad_(False)
        self.key_head = deepcopy(self.head).requires_grad_(False)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        return Draws(self.crops(count, generator), draw(self.config, count, generator), torch.arange(count))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        first, second = two_views(batch.images, self.config, draws.crops, draws.views)
        if not self.symmetric:
            return self._against_the_queue(self._queries(first)[0], self._keys(second)[0], batch.indexes, draws.rows)
        temperature = self.config.moco.temperature
        queries, keys = self._queries(first, second), self._keys(first, second)
        one, other = (info_nce(queries[i], keys[1 - i], temperature) for i in (0, 1))
        return {"loss": 2 * temperature * (one[0] + other[0]), "accuracy": (one[1] + other[1]) / 2}

    def _against_the_queue(self, queries: Tensor, keys: Tensor, indexes: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Return InfoNCE of queries and their keys (B, D) against the queue, and what goes into it."""
        with full(queries.device):  # similarities are no less exact under mixed precision
            others = (queries @ self.queue.T).masked_fill(self.queued == indexes[:, None], -math.inf)
            positive = (queries * keys).sum(dim=1, keepdim=True)
        logits = torch.cat([positive, others], dim=1) / self.config.moco.temperature
        right = torch.zeros_like(rows)
        loss, whole = F.cross_entropy(logits, right), self.config.train.batch_size
        table = keys.new_zeros(whole, keys.shape[1]).index_copy(0, rows, keys)
        images = keys.new_zeros(whole).index_copy(0, rows, indexes.float())  # whole numbers, whose mean is rounded
        parts = whole / len(rows)
        return {
            "loss": loss,
            "accuracy": share_right(logits, right),
            "keys": table * parts,
            "indexes": images * parts,
        }

    def _chance_loss(self, config: Config) -> float:
        """Return the loss where no key is nearer than another one."""
        if self.symmetric:
            return 4 * config.moco.temperature * math.log(config.train.batch_size)
        return math.log(1 + config.moco.queue)

    @torch.no_grad()
    def after_step(self, step: int, total: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Let the moving averages follow, and the batch's keys take the place of the oldest ones."""
        momentum = self.config.moco.momentum
        if self.symmetric:
            momentum = 1 - (1 - momentum) * (1 + math.cos(math.pi * step / total)) / 2
        for own, key in ((self.encoder, self.key_encoder), (self.head, self.key_head)):
            for source, average in zip(own.parameters(), key.parameters(), strict=True):
                average.lerp_(source, 1 - momentum)
        if not self.symmetric:
            self._enqueue(step, normalised(found["keys"]), found["indexes"].round().long())
        return {name: value for name, value in found.items() if name not in ("keys", "indexes")}

    def _enqueue(self, step: int, keys: Tensor, indexes: Tensor) -> None:
        """Enter keys (B, D) of the images at `indexes` (B,); of a batch longer than the queue, its end."""
        length, count = len(self.queue), len(keys)
        last = min(length, count)
        place = (torch.arange(count - last, count, device=keys.device) + (step - 1) * count) % length
        self.queue[place] = keys[-last:]
        self.queued[place] = indexes[-last:]

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        first, second = views_of_centres(images, self.config, draws.crops, draws.views)
        return picture_of(first, second, self._queries(first)[0] @ self._keys(second)[0].T)

    def _queries(self, *views: Tensor) -> list[Tensor]:
        """Return queries (B, D) of length 1 of each view."""
        classes = self.encoder(self.look(torch.cat(views)))[:, 0].chunk(len(views))
        found = [self.head(part) for part in classes]
        return [normalised(self.predictor(each) if self.symmetric else each) for each in found]

    @torch.no_grad()
    def _keys(self, *views: Tensor) -> list[Tensor]:
        """Return keys (B, D) of length 1 of each view."""
        classes = self.key_encoder(self.look(torch.cat(views)))[:, 0].chunk(len(views))
        return [normalised(self.key_head(part)) for part in classes]
