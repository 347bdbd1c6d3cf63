"""The puzzle for a ViT: an encoder without positions reads some patches and tells of each where it was.

MP3 (Zhai et al., ICML 2022, arXiv 2207.07611) pretrains so; Jigsaw-ViT (Chen et al., 2023, arXiv 2207.11971) has it
beside classification. Kept: no positions, so that the order of patches says nothing and none is shuffled; patches left
out at random (Jigsaw-ViT, section 3.2; MP3 lets all attend to some); a linear classifier of all places on each patch.
Adapted: the encoder has no positions afterwards either, so that probes read it as it was trained, where both papers
give it positions for what comes then.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mae.config.tree import Config
from mae.models.vit import Encoder, patchify, unpatchify
from mae.pretext.autoencoder import greyed
from mae.pretext.masking import SAMPLERS, Mask
from mae.runtime.rng import branch


class Draws(NamedTuple):
    """What the order of patches is made of."""

    mask: Tensor


class PatchPuzzle(nn.Module):
    """A linear classifier of places on the patches."""

    def __init__(self, config: Config):
        super().__init__()
        self.config, self.answers = config, config.patches
        self.head = nn.Linear(config.model.encoder.dim, self.answers)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        sizes = count, self.config.grid, self.config.jigsaw_patches
        return Draws(SAMPLERS["random"].draw(branch(generator, "mask"), *sizes))

    def mask(self, draws: Draws) -> Mask:
        """Return which patches (B, N) the encoder gets."""
        return Mask(
            SAMPLERS["random"].order(draws.mask, self.config.grid, self.config.mask), self.config.jigsaw_patches
        )

    def forward(
        self, encoder: Encoder, images: Tensor, draws: Draws, look: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return scores (B, K, N) of the places of K patches of images (B, C, H, W) in 0..1, and the places (B, K)."""
        mask = self.mask(draws)
        tokens = encoder.forward_visible(patchify(look(images), encoder.patch), mask.visible)
        return self.head(tokens[:, 1:]), mask.visible

    def rows(
        self, encoder: Encoder, images: Tensor, draws: Draws, look: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Return rows of a picture: the patches that the encoder gets, and where it takes them to have been."""
        scores, places = self(encoder, images, draws, look)
        patches = patchify(images, encoder.patch)
        put = torch.full_like(patches, 0.5)
        for image, given, seen, guessed in zip(put, patches, places, scores.argmax(dim=2), strict=True):
            image[guessed] = given[seen]
        return {
            "given": greyed(images, self.mask(draws), encoder.patch),
            "put back": unpatchify(put, encoder.patch, self.config.grid),
        }
