"""Contrasting clips of videos (CVRL, Qian et al., 2021): two clips of a video are alike, those of others are not.

Shapes in comments: B videos, N those of all processes, E the width of what is compared.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.pretext_sections import CvrlConfig
from mae.config.tree import Config
from mae.data import augmentation, distortion
from mae.data.augmentation import views
from mae.models.batch_norm import BatchNorm
from mae.models.vit import build_encoder
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.pictures import clip_rows
from mae.runtime.autocast import full
from mae.runtime.gathering import gathered, places
from mae.runtime.rng import branch


class Draws(NamedTuple):
    """Of the earlier and the later clip of each video: crops, whose own starts play no part, and distortions; `starts`
    int64 (count, 2) are the first frames of both."""

    crops: augmentation.Draws
    later_crops: augmentation.Draws
    distortion: distortion.Draws
    later_distortion: distortion.Draws
    starts: Tensor


class ContrastedClips(Pretext):
    """InfoNCE between two clips of each video, with all others of the batch as negatives (section 3.1). All frames of a
    clip are cropped and distorted in the same way (section 3.2); the time between the clips is drawn (section 3.3)."""

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        self.encoder = build_encoder(config)
        self.head = projection(config.model.encoder.dim, config.cvrl)
        self.chance_loss = math.log(2 * config.train.batch_size - 1)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        data, settings = self.config.data, self.config.views
        return Draws(
            self.crops(count, generator),
            augmentation.draw(data, count, data.stored, branch(generator, "later crops")),
            distortion.draw(settings, count, 0, branch(generator, "distortion")),
            distortion.draw(settings, count, 1, branch(generator, "later distortion")),
            draw_starts(data.stored[0] - data.seen[0], count, branch(generator, "starts")),
        )

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        seen = self.look(torch.cat(self.clips(batch.images, draws)))
        earlier, later = self.head(self.encoder(seen)[:, 1:].mean(dim=1)).float().chunk(2)
        with full(seen.device):  # a temperature multiplies errors of rounding
            loss, accuracy = contrast(earlier, later, self.config.cvrl.temperature)
        return {"loss": loss, "accuracy": accuracy}

    def clips(self, images: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the earlier and the later clips (B, C, T, H, W) in 0..1 of stored videos, uint8 (B, C, t, h, w)."""
        data, (first, second) = self.config.data, draws.starts.unbind(dim=1)
        earlier = views(images, data, draws.crops._replace(starts=first))
        later = views(images, data, draws.later_crops._replace(starts=second))
        return distorted(earlier, self.config, draws.distortion), distorted(later, self.config, draws.later_distortion)

    def pictured(self, images: Tensor) -> Tensor:
        return images.float() / 255  # whole videos: the two clips are cut out of them

    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Of videos (n, C, t, h, w): the two clips that are to be alike, frame beside frame."""
        earlier, later = self.clips((255 * images).round().byte(), draws)
        return clip_rows({"earlier": earlier, "later": later})


def draw_starts(room: int, count: int, generator: torch.Generator) -> Tensor:
    """Return the first frames, int64 (count, 2), of two clips of videos with `room` more frames than a clip.

    The time between them is t in 0..room with a probability that falls linearly, as room + 1 - t (Fig. 3, a); for the
    earlier one, every place that leaves room for t is equally likely.
    """
    places_left = torch.arange(room + 1, 0, -1, dtype=torch.float64)
    up_to = places_left.cumsum(0) / places_left.sum()
    draws = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    time = torch.searchsorted(up_to[:-1], draws[:, 0].contiguous(), right=True)
    earlier = (draws[:, 1] * places_left[time]).long()
    return torch.stack([earlier, earlier + time], dim=1)


def distorted(clips: Tensor, config: Config, how: distortion.Draws) -> Tensor:
    """Return clips (B, C, T, H, W) whose frames are all distorted as their clip's draws say."""
    frames = clips.shape[2]
    each = distortion.Draws(*(drawn.repeat_interleave(frames, dim=0) for drawn in how))
    changed = distortion.distort(clips.transpose(1, 2).flatten(0, 1), config.views, each)
    return changed.unflatten(0, (-1, frames)).transpose(1, 2)


def projection(width: int, settings: CvrlConfig) -> nn.Sequential:
    """Return the head that is thrown away, from vectors (B, width) to (B, E)."""
    widths = [width, *(settings.hidden for _ in range(settings.hidden_layers))]
    hidden = [(nn.Linear(a, b, bias=False), BatchNorm(b), nn.ReLU()) for a, b in pairwise(widths)]
    return nn.Sequential(*(layer for layers in hidden for layer in layers), nn.Linear(widths[-1], settings.outputs))


def contrast(earlier: Tensor, later: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return InfoNCE of clips' vectors (B, E) in nats, and how often, in percent, the other clip of a video is closest.

    Each of a video's two clips has the other as its positive, among 2 N - 1: all clips but itself.
    """
    own = F.normalize(torch.cat([earlier, later]), dim=1)  # (2 B, E)
    all_clips = torch.cat([gathered(half) for half in own.chunk(2)])  # (2 N, E)
    here, videos = places(earlier), len(all_clips) // 2
    itself, other = torch.cat([here, here + videos]), torch.cat([here + videos, here])
    scores = (own @ all_clips.T / temperature).scatter(1, itself[:, None], -torch.inf)
    return F.cross_entropy(scores, other), 100 * (scores.argmax(dim=1) == other).float().mean()
