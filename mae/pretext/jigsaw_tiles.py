"""The puzzle of Noroozi & Favaro (ECCV 2016): in which of a set of permutations have nine tiles been laid?

Kept: 3 x 3 tiles, each anywhere in its ninth of the image and normalised by itself, so that neither borders that go on
nor brightness tell their order (section 3.3); one encoder for each tile alone, two layers for all features together
(the "context-free network", section 3.1); the set of permutations. Adapted: a ViT reads a tile as a small grid of
patches (`mae.pretext.tiles`); colours are dropped or projected, as Context Prediction does, where the paper displaces
channels and mixes in grey images.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mae.config.tree import Config
from mae.models.vit import Encoder
from mae.pretext.permutations import PIECES, far_permutations
from mae.pretext.tiles import Reading, cut, draw_reading, encode, paste, without_shortcuts
from mae.runtime.rng import branch

EPS = 1e-6
"""Added to a tile's variance: a tile of one value has none."""


class Draws(NamedTuple):
    """`which` int64 (count,), the permutation, and `order` int64 (count, 9), the tile that lies at each place by it;
    `starts` float32 (count, 9, 2) in 0..1, where in their ninth the tiles are cut; and how they are read."""

    which: Tensor
    order: Tensor
    starts: Tensor
    reading: Reading


class TilePuzzle(nn.Module):
    """A classifier of permutations on the class tokens of nine tiles."""

    def __init__(self, config: Config):
        super().__init__()
        self.config, dim = config, config.model.encoder.dim
        self.permutations = far_permutations(config.jigsaw.permutations, config.train.seed)
        self.answers = config.jigsaw.permutations
        self.head = nn.Sequential(nn.Linear(PIECES * dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, self.answers))

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        which = torch.randint(len(self.permutations), (count,), generator=branch(generator, "permutations"))
        order = torch.as_tensor(self.permutations)[which].long()
        room = torch.tensor(self.config.data.image_size) // 3 - torch.tensor(self.config.tile_size)
        starts = torch.rand(count, PIECES, 2, generator=branch(generator, "starts")) * (room + 1)
        return Draws(which, order, starts.long(), draw_reading(count, PIECES, self.config, generator))

    def forward(
        self, encoder: Encoder, images: Tensor, draws: Draws, look: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return scores (B, 1, permutations) of images (B, C, H, W) in 0..1, and which is right (B, 1)."""
        return self._scores(encoder, self.laid(images, draws), draws, look), draws.which[:, None]

    def rows(
        self, encoder: Encoder, images: Tensor, draws: Draws, look: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Return rows of a picture: tiles as they are laid, and as the predicted permutation puts them back."""
        laid, size = self.laid(images, draws), self.config.data.image_size
        guessed = self._scores(encoder, laid, draws, look).argmax(dim=2)[:, 0].cpu()
        back = torch.from_numpy(self.permutations[guessed.numpy()]).long().to(images.device).argsort(dim=1)
        boxes = self._boxes(torch.zeros_like(draws.starts))
        put_back = laid.gather(1, back[:, :, None, None, None].expand_as(laid))
        return {"shuffled": paste(size, laid, boxes), "put back": paste(size, put_back, boxes)}

    def laid(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the tiles (B, 9, C, h, w) of images (B, C, H, W), in the order in which they are laid."""
        boxes = self._boxes(draws.starts)
        return cut(images, boxes.gather(1, draws.order[..., None].expand_as(boxes)), self.config)

    def _boxes(self, starts: Tensor) -> Tensor:
        """Return all tiles (B, 9, 4), row by row: top, left, height, width in pixels."""
        size = torch.tensor(self.config.tile_size, device=starts.device)
        image = torch.tensor(self.config.data.image_size, device=starts.device)
        number = torch.arange(PIECES, device=starts.device)
        corner = (image % 3) // 2 + torch.stack([number // 3, number % 3], dim=1) * (image // 3)
        return torch.cat([corner + starts, size.expand_as(starts)], dim=2)

    def _scores(self, encoder: Encoder, laid: Tensor, draws: Draws, look: Callable[[Tensor], Tensor]) -> Tensor:
        seen = without_shortcuts(laid, draws.reading, self.config, look)
        mean, variance = seen.mean(dim=(3, 4), keepdim=True), seen.var(dim=(3, 4), keepdim=True, correction=0)
        alike = (seen - mean) / (variance + EPS).sqrt()
        return self.head(encode(encoder, alike, draws.reading).flatten(1))[:, None]
