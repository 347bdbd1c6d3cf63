"""The second player of adversarial losses: a small network that tells real images from made ones (DCGAN's, Radford et
al., 2016, as in Context Encoders).

Adapted: norms are per image, not per batch, so that an image's score is the same in any part of a batch; half of the
paper's channels.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mae.models.vit import Size

CHANNELS, GROUPS = 32, 8
"""Channels of the first layer, twice as many in each that follows, and groups of them that are normalised together."""


class Game(NamedTuple):
    """What both players lose, scalars, and the share of images that the discriminator tells rightly."""

    generator: Tensor
    discriminator: Tensor
    right: Tensor


class Discriminator(nn.Module):
    """Scores images (B, C, *size): above 0 means real. Each layer halves them; there are two at least, and as many
    as leave 4 pixels of the shorter side."""

    def __init__(self, channels: int, size: Size):
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(max(2, int(math.log2(min(size) / 4)))):
            width = CHANNELS * 2**index
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1)]
            layers += [nn.GroupNorm(GROUPS, width)] if index else []  # as in DCGAN, none on what is seen
            layers += [nn.LeakyReLU(0.2)]
            channels, size = width, ((size[0] + 1) // 2, (size[1] + 1) // 2)
        self.layers = nn.Sequential(*layers)
        self.score = nn.Linear(channels * math.prod(size), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, float32 (B,)."""
        scores: Tensor = self.score(self.layers(images).flatten(1))
        return scores[:, 0].float()

    def play(self, real: Tensor, made: Tensor) -> Game:
        """Return both players' losses on images (B, C, *size), of which one backward pass trains both.

        Each loss reaches its own player alone: the discriminator learns from made images that are constants, the
        generator from a discriminator whose weights are. So the weight that a task gives to the generator's loss is no
        matter of the discriminator's. The generator's is the one that does not saturate, as in the paper's code: a
        reversed gradient would vanish where the discriminator wins.
        """
        of_real, of_made = self(torch.cat([real, made.detach()])).chunk(2)
        own = F.softplus(-of_real).mean() + F.softplus(of_made).mean()
        constant = {name: parameter.detach() for name, parameter in self.named_parameters()}
        judged: Tensor = functional_call(self, constant, made)
        right = torch.cat([of_real > 0, of_made <= 0]).float().mean()
        return Game(F.softplus(-judged).mean(), own, right)
