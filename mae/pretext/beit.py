"""BEiT (Bao et al., 2021): predict the codes of hidden patches, of which the encoder sees mask tokens.

Kept: blocks of patches hidden, 40 % of them; mask tokens in the encoder, a linear head on its tokens and no decoder;
cross-entropy of the hidden patches' codes. Adapted: the tokenizer is a run of `vqvae` or `dvae` and sees the same view,
in place of DALL-E's on images of half the size; blocks are those of `mask.sampling=block`, which hide exactly so many
patches; positions are fixed.
"""

from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.tree import Config
from mae.data import augmentation
from mae.data.augmentation import views
from mae.models.vit import Encoder, build_encoder, initialise, patchify
from mae.pretext.autoencoder import greyed
from mae.pretext.base import Batch, Pretext, Surroundings, under
from mae.pretext.frozen_tokenizer import FrozenTokenizer, accuracy
from mae.pretext.masking import SAMPLERS, Mask
from mae.pretext.pictures import image_rows
from mae.runtime.rng import branch


class Draws(NamedTuple):
    """Crops, and the rectangles that masks are made of."""

    crops: augmentation.Draws
    mask: Tensor


class Beit(Pretext):
    """An encoder with mask tokens, and a linear classifier of codes on its patches."""

    encoder: Encoder

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        self.patch = config.model.patch_size
        self.encoder = build_encoder(config)
        self.tokenizer = FrozenTokenizer(surroundings, under(surroundings.fitted, "tokenizer."))
        self.head = nn.Linear(config.model.encoder.dim, self.tokenizer.count)
        self.head.apply(initialise)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        crops = self.crops(count, generator)
        sizes = count, self.config.grid, self.config.kept_patches
        return Draws(crops, SAMPLERS["block"].draw(branch(generator, "mask"), *sizes))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        images, mask = views(batch.images, self.config.data, draws.crops), self.mask(draws)
        logits = self.predict(images, mask)
        codes = self.tokenizer.codes(images).gather(1, mask.hidden)
        loss = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())
        return {"loss": loss, "accuracy": accuracy(logits, codes)}

    def mask(self, draws: Draws) -> Mask:
        """Return the masks of a batch (B, N)."""
        order = SAMPLERS["block"].order(draws.mask, self.config.grid, self.config.mask)
        return Mask(order, self.config.kept_patches)

    def predict(self, images: Tensor, mask: Mask) -> Tensor:
        """Return logits (B, M, K) of codes of the hidden patches of images (B, C, H, W) in 0..1."""
        patches = patchify(self.look(images), self.patch)
        tokens = self.encoder.forward_with_mask_tokens(patches, mask.order, mask.kept)
        return self.head(tokens[:, 1 + mask.kept :])

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Original, masked, and what the tokenizer makes of the image's codes and of the predicted ones."""
        codes, mask = self.tokenizer.codes(images), self.mask(draws)
        predicted = codes.scatter(1, mask.hidden, self.predict(images, mask).argmax(dim=-1))
        return image_rows(
            {
                "original": images,
                "masked": greyed(images, mask, self.patch),
                "of its codes": self.tokenizer.images(codes),
                "of predicted": self.tokenizer.images(predicted),
            }
        )
