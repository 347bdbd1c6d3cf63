"""Denoising autoencoders (Vincent et al., 2008; 2010, JMLR): reconstruct an image from a corrupted one.

Kept: the three kinds of corruption, of which masking and salt-and-pepper noise hit a fixed number of pixels of each
image, drawn anew every time; and the emphasis on what was corrupted, here `loss.*`: the paper's alpha is 1, its beta
`loss.visible_weight`. Adapted: a ViT with MAE's decoder takes the place of one layer and its transpose, and nothing is
stacked; images are normalised, so that masking sets a pixel to its training mean, and all of its channels; the loss is
the squared error, for pixels that are no bits.

With `denoise.noise=masked_patches` a mask token takes the place of a patch in the encoder, which sees every position.
Patches, target and loss are those of `mae`; with the loss on the masked ones it is `mae` under
`model.encoder_mask_tokens=true`: denoising becomes masked autoencoding one setting at a time.
"""

from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mae.data import augmentation
from mae.data.augmentation import views
from mae.models.vit import gather_tokens, patchify
from mae.pretext.autoencoder import Autoencoder
from mae.pretext.base import Batch
from mae.pretext.masking import draw_masks, masks
from mae.pretext.pictures import image_rows
from mae.pretext.pixel_noise import PIXEL_NOISES, draw_seeds
from mae.runtime.autocast import full
from mae.runtime.rng import branch


class Draws(NamedTuple):
    """Crops, and what corrupts the images: what `masks` are made of, or a seed of noise per image, int64 (count,)."""

    crops: augmentation.Draws
    noise: Tensor


class Restored(NamedTuple):
    """Predictions (B, N, outputs) of the patches of `order` (B, N), and which numbers of the target were `corrupted`,
    bool, of a shape that expands to that of the predictions."""

    predictions: Tensor
    order: Tensor
    corrupted: Tensor


class DenoisingAutoencoder(Autoencoder):
    """An encoder that reads corrupted images, a decoder that predicts all of their patches."""

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        crops = self.crops(count, generator)
        if self.config.encoder_mask_tokens:
            return Draws(crops, draw_masks(self.config, count, branch(generator, "mask")))
        return Draws(crops, draw_seeds(count, branch(generator, "noise")))

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Return the loss and, where some of an image is clean, the mean errors of both parts."""
        images = self.look(views(batch.images, self.config.data, draws.crops))
        predictions, order, corrupted = self.restore(images, draws.noise)
        with full(images.device):  # a target may multiply matrices, and is no less exact
            target = self.target(gather_tokens(self.target.of_images(patchify(images, self.patch)), order))
        errors = (predictions.float() - target.float()).square()
        if self.config.denoise.noise == "gaussian":
            return {"loss": errors.mean()}
        weights = torch.where(corrupted, 1.0, self.config.loss.weight_of_visible)
        parts = {"error_corrupted": corrupted, "error_clean": ~corrupted}
        return {"loss": _mean(errors, weights)} | {name: _mean(errors, part) for name, part in parts.items()}

    def restore(self, images: Tensor, noise: Tensor) -> Restored:
        """Corrupt normalised images (B, C, H, W) and predict the target of what they were."""
        fuse = self.decoder.decoder_fusion
        if self.config.encoder_mask_tokens:
            mask, patches = masks(self.config, noise), patchify(images, self.patch)
            encoded = self.encoder.forward_with_mask_tokens(patches, mask.order, mask.kept, fuse)
            place = torch.arange(mask.order.shape[1], device=images.device)
            return Restored(self.decoder(encoded, mask.order, 0), mask.order, place[:, None] >= mask.kept)
        noisy, corrupted = self._with_noise(images, noise)
        order = torch.arange(self.config.patches, device=images.device).expand(len(images), -1)
        corrupted = patchify(corrupted.expand_as(images), self.patch)
        return Restored(self.decoder(self.encoder(noisy, fuse), order, 0), order, corrupted)

    @torch.inference_mode()
    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Original, corrupted, reconstruction, one above the other; all patches are predictions."""
        seen = self.look(images)
        predictions, order, _ = self.restore(seen, draws.noise)
        original = gather_tokens(patchify(seen, self.patch), order)
        restored = self.target.pixels(predictions.float(), original)
        where = order[..., None].expand_as(restored)
        return image_rows(
            {
                "original": images,
                "corrupted": self._corrupted(images, draws.noise),
                "reconstruction": self.shown(torch.empty_like(restored).scatter(1, where, restored)),
            }
        )

    def _corrupted(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return what is left of images (B, C, H, W) in 0..1, for people: hidden patches are grey."""
        if self.config.encoder_mask_tokens:
            return self.greyed(images, masks(self.config, noise))
        return self.as_pixels(self._with_noise(self.look(images), noise)[0])

    def _with_noise(self, images: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        extremes = self.look(torch.stack([torch.zeros_like(self.mean), torch.ones_like(self.mean)]))
        return PIXEL_NOISES[self.config.denoise.noise](images, seeds, extremes, self.config)


def _mean(errors: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of errors (B, N, n) under weights that expand to their shape."""
    weights = weights.float().expand_as(errors)
    return (errors * weights).sum() / weights.sum()
