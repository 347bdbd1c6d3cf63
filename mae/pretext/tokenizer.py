"""What tokenizers share: the encoder makes a code of each patch, a decoder the image of the codes.

Other runs predict the codes of a finished one. Shapes in comments: B images, N patches, K codes, W width of a code, P =
patch height * patch width * channels.
"""

import math
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.tree import Config
from mae.data import augmentation
from mae.data.augmentation import views
from mae.models.vit import initialise, patchify
from mae.pretext.autoencoder import Autoencoder
from mae.pretext.base import Batch, Surroundings
from mae.pretext.pictures import image_rows
from mae.pretext.pixel_noise import BITS, draw_seeds, hashed
from mae.runtime.rng import branch


class Draws(NamedTuple):
    """Crops, and a seed of noise per image, int64 (count,)."""

    crops: augmentation.Draws
    noise: Tensor


class Tokenizer(Autoencoder):
    """An encoder whose patches become one of K codes each, and a decoder that reads nothing else.

    All tokens are read from, the class token too, but only codes of patches reach the decoder: MAE's, over all
    positions, with a zero in the class token's place.
    """

    codebook: Tensor
    """Codes (K, W)."""

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        self.from_code = nn.Linear(config.tokenizer.width, config.model.encoder.dim)
        self.from_code.apply(initialise)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        return Draws(self.crops(count, generator), draw_seeds(count, branch(generator, "noise")))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Return the loss and its parts; `use` (K,) is the share of patches that had each code."""
        images = self.look(views(batch.images, self.config.data, draws.crops))
        vectors, parts = self.quantise(self.encoder(images)[:, 1:], draws.noise)
        errors = (self.decode(vectors).float() - patchify(images, self.patch)).square()
        return self.total({"reconstruction": errors.mean(), **parts})

    def codes(self, images: Tensor) -> Tensor:
        """Return the codes, int64 (B, N) in 0..K-1, of normalised images (B, C, H, W)."""
        raise NotImplementedError

    def quantise(self, tokens: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return vectors (B, N, W) that gradients pass, of the encoder's tokens (B, N, D), and what `total` needs."""
        raise NotImplementedError

    def total(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the parts with the `loss` that they come to."""
        raise NotImplementedError

    def decode(self, vectors: Tensor) -> Tensor:
        """Return normalised patches (B, N, P) of codes' vectors (B, N, W)."""
        order = torch.arange(self.config.patches, device=vectors.device).expand(len(vectors), -1)
        return self.decoder(F.pad(self.from_code(vectors), (0, 0, 1, 0)), order, 0)

    def patches(self, codes: Tensor) -> Tensor:
        """Return normalised patches (B, N, P) of codes (B, N)."""
        return self.decode(F.embedding(codes, self.codebook)).float()

    def after_step(self, step: int, total: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Track, in place of the use of each code, how many codes of the batch are in use, and evenly so."""
        use = found["use"]
        told = {"codes_used": 100 * (use > 0).float().mean(), "perplexity": torch.special.entr(use).sum().exp()}
        return {name: value for name, value in found.items() if value.ndim == 0} | told

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Original, codes as colours, reconstruction, one above the other."""
        codes = self.codes(self.look(images))
        return image_rows(
            {
                "original": images,
                "codes": code_colours(codes).unflatten(2, self.config.grid),
                "reconstruction": self.shown(self.patches(codes)),
            }
        )


def use_of(codes: Tensor, count: int) -> Tensor:
    """Return the share of codes (B, N) that each of `count` has, float32 (count,)."""
    flat = codes.flatten()
    return torch.zeros(count, device=codes.device).index_add(0, flat, torch.ones_like(flat, dtype=torch.float32)) / (
        flat.numel()
    )


def code_colours(codes: Tensor) -> Tensor:
    """Return a colour in 0..1 for each code, (B, 3, N): equal ones for equal codes."""
    return (hashed(codes.flatten(), 3) / BITS).view(*codes.shape, 3).movedim(2, 1)


def annealed(progress: Tensor, start: float, end: float) -> Tensor:
    """Return half a cosine from `start` to `end` as `progress` goes from 0 to 1."""
    return end + (start - end) * (1 + torch.cos(math.pi * progress)) / 2
