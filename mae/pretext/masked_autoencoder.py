"""Masked autoencoding (He et al., 2021): hide patches, encode the rest, predict what was hidden (section 3, Fig. 1).

Parameters carry the official release's names. Shapes in comments: B images, N patches, K visible, M = N - K hidden,
P = patch height * patch width * channels.
"""

from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from mae.data import augmentation
from mae.data.augmentation import views
from mae.models.vit import gather_tokens, patchify
from mae.pretext.autoencoder import Autoencoder
from mae.pretext.base import Batch
from mae.pretext.frozen_tokenizer import accuracy
from mae.pretext.masking import Mask, draw_masks, masks
from mae.pretext.pictures import image_rows
from mae.runtime.autocast import full
from mae.runtime.rng import branch


class Draws(NamedTuple):
    """What is random in a batch: crops, and what `masks` are made of."""

    crops: augmentation.Draws
    mask: Tensor


class MaskedAutoencoder(Autoencoder):
    """The asymmetric autoencoder and its loss."""

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        return Draws(self.crops(count, generator), draw_masks(self.config, count, branch(generator, "mask")))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        images = views(batch.images, self.config.data, draws.crops)
        prediction, target, weights = self.compared(self.look(images), self.mask(draws))
        losses = {"loss": reconstruction_loss(prediction, target, weights)}
        return losses | ({"accuracy": accuracy(prediction, target[..., 0])} if self.config.predicts_codes else {})

    def mask(self, draws: Draws) -> Mask:
        """Return the masks of a batch (B, N)."""
        return masks(self.config, draws.mask)

    def loss(self, images: Tensor, mask: Mask) -> Tensor:
        """Return the loss, a scalar, of normalised images (B, C, H, W)."""
        return reconstruction_loss(*self.compared(images, mask))

    def compared(self, images: Tensor, mask: Mask) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the loss reads of normalised images (B, C, H, W): predictions of n patches, targets, weights."""
        patches = patchify(images, self.patch)
        visible_weight = self.config.loss.weight_of_visible
        prediction = self.predict(patches, mask, hidden_only=visible_weight == 0)
        read = mask.order if visible_weight else mask.hidden
        weights = torch.ones(read.shape[1], device=images.device)
        if visible_weight:
            weights[: mask.kept] = visible_weight
        with full(images.device):  # a target may multiply matrices, and is no less exact
            target = self.target(gather_tokens(self.target.of_images(patches), read))
        return prediction, target, weights

    def predict(self, patches: Tensor, mask: Mask, hidden_only: bool = True) -> Tensor:
        """Return predictions from patches (B, N, P), in the mask's order: (B, M, outputs) of the hidden, or all (B, N,
        outputs)."""
        fuse = self.decoder.decoder_fusion
        if self.config.model.encoder_mask_tokens:
            encoded = self.encoder.forward_with_mask_tokens(patches, mask.order, mask.kept, fuse)
        else:
            encoded = self.encoder.forward_visible(patches, mask.visible, fuse)
        return self.decoder(encoded, mask.order, read_from=mask.kept if hidden_only else 0)

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        """Return (masked, reconstruction), both (B, C, H, W) in 0..1, of images (B, C, H, W) in 0..1.

        Hidden patches are grey in `masked`; in the reconstruction they hold the prediction, beside the visible patches.
        """
        patches = patchify(self.look(images), self.patch)
        completed = self.target.completed(self.predict(patches, mask).float(), patches, mask.hidden)
        return self.greyed(images, mask), self.shown(completed)

    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Original, masked, reconstruction, one above the other (Fig. 2)."""
        masked, completed = self.reconstruct(images, self.mask(draws))
        return image_rows({"original": images, "masked": masked, "reconstruction": completed})


def reconstruction_loss(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean squared error over patches: prediction and target (B, n, outputs), weights (n,) per patch.

    Of codes, int64 (B, n, 1), it is the mean cross-entropy.
    """
    if target.dtype == torch.int64:
        per_patch = F.cross_entropy(prediction.float().movedim(2, 1), target[..., 0], reduction="none")
    else:
        per_patch = (prediction.float() - target.float()).square().mean(dim=-1)  # (B, n)
    return (per_patch * weights).sum() / (weights.sum() * len(per_patch))
