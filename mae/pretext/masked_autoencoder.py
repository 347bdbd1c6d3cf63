"""Masked autoencoding (He et al., 2021): hide patches, encode the rest, predict what was hidden (section 3, Fig. 1).

Parameters carry the official release's names. Shapes in comments: B images, N patches, K visible, M = N - K hidden,
D encoder width, E decoder width, P = patch height * patch width * channels.
"""

from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mae.config.tree import Config, TransformerConfig
from mae.data import augmentation
from mae.data.augmentation import centre, views
from mae.models.vit import (
    Blocks,
    Encoder,
    Size,
    build_encoder,
    gather_tokens,
    initialise,
    patchify,
    sincos_positions,
    unpatchify,
)
from mae.pretext.base import Batch, Pretext, Surroundings, under
from mae.pretext.masking import SAMPLERS, Mask
from mae.pretext.pictures import image_rows
from mae.pretext.targets import TARGETS, Pixels
from mae.runtime.autocast import full
from mae.runtime.rng import branch

FITTED_ON = 2048
"""Training images whose patches a target is fitted on."""


class Draws(NamedTuple):
    """What is random in a batch: crops, and what `Sampler.order` makes masks of."""

    crops: augmentation.Draws
    mask: Tensor


class Decoder(nn.Module):
    """The light decoder of pretraining (section 3, "MAE decoder")."""

    decoder_pos_embed: Tensor

    def __init__(
        self, config: TransformerConfig, encoder_dim: int, grid: Size, outputs: int, recompute: bool, eps: float
    ):
        super().__init__()
        self.decoder_embed = nn.Linear(encoder_dim, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.register_buffer("decoder_pos_embed", sincos_positions(config.dim, grid))
        self.decoder_blocks = Blocks(config, recompute, eps)
        self.decoder_norm = nn.LayerNorm(config.dim, eps)
        self.decoder_pred = nn.Linear(config.dim, outputs)
        self.apply(initialise)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, encoded: Tensor, order: Tensor, read_from: int) -> Tensor:
        """Return predictions (B, N - read_from, outputs) for the patches of `order` (B, N) from `read_from` on.

        `encoded` is (B, 1 + n, D): the class token and the first n patches of `order`; mask tokens fill the rest.
        Tokens stay in `order`, each with its own position: attention does not mind, and nothing is moved back.
        """
        tokens = self.decoder_embed(encoded)  # (B, 1 + n, E)
        missing = order.shape[1] + 1 - tokens.shape[1]
        tokens = torch.cat([tokens, self.mask_token.expand(len(tokens), missing, -1).to(tokens.dtype)], dim=1)
        positions = gather_tokens(self.decoder_pos_embed[:, 1:], order)
        first = self.decoder_pos_embed[:, :1].expand(len(tokens), -1, -1)
        tokens = tokens + torch.cat([first, positions], dim=1)  # (B, 1 + N, E)
        read = self.decoder_blocks(tokens, 1 + read_from)
        return self.decoder_pred(self.decoder_norm(read))


def build_decoder(config: Config, outputs: int) -> Decoder:
    """Return the decoder alone, untrained, that predicts `outputs` numbers per patch."""
    model = config.model
    sizes = model.encoder.dim, config.grid, outputs
    return Decoder(model.decoder, *sizes, config.train.checkpoint_blocks, model.norm_eps)


class MaskedAutoencoder(Pretext):
    """The asymmetric autoencoder and its loss."""

    encoder: Encoder
    target: Pixels

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        model = config.model
        self.patch = model.patch_size
        target, fitted = TARGETS[config.target.kind], under(surroundings.fitted, "target.")
        self.target = target.saved(config, fitted) if surroundings.fitted else target.fit(config, self._patches_to_fit)
        self.encoder = build_encoder(config)
        self.decoder = build_decoder(config, self.target.outputs)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        config = self.config
        return Draws(
            augmentation.draw(config.data, count, config.data.stored, branch(generator, "crops")),
            SAMPLERS[config.mask.sampling].draw(branch(generator, "mask"), count, config.grid, config.kept_patches),
        )

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        images = views(batch.images, self.config.data, draws.crops)
        return {"loss": self.loss(self.look(images), self.mask(draws))}

    def mask(self, draws: Draws) -> Mask:
        """Return the masks of a batch (B, N)."""
        config = self.config
        return Mask(SAMPLERS[config.mask.sampling].order(draws.mask, config.grid), config.kept_patches)

    def loss(self, images: Tensor, mask: Mask) -> Tensor:
        """Return the loss, a scalar, of normalised images (B, C, H, W)."""
        patches = patchify(images, self.patch)
        visible_weight = self.config.loss.weight_of_visible
        prediction = self.predict(patches, mask, hidden_only=visible_weight == 0)
        read = mask.order if visible_weight else mask.hidden
        weights = torch.ones(read.shape[1], device=images.device)
        if visible_weight:
            weights[: mask.kept] = visible_weight
        with full(images.device):  # a target may multiply matrices, and is no less exact
            target = self.target(gather_tokens(patches, read))
        return reconstruction_loss(prediction, target, weights)

    def predict(self, patches: Tensor, mask: Mask, hidden_only: bool = True) -> Tensor:
        """Return predictions from patches (B, N, P), in the mask's order: (B, M, outputs) of the hidden, or all (B, N,
        outputs)."""
        if self.config.model.encoder_mask_tokens:
            encoded = self.encoder.forward_with_mask_tokens(patches, mask.order, mask.kept)
        else:
            encoded = self.encoder.forward_visible(patches, mask.visible)
        return self.decoder(encoded, mask.order, read_from=mask.kept if hidden_only else 0)

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        """Return (masked, reconstruction), both (B, C, H, W) in 0..1, of images (B, C, H, W) in 0..1.

        Hidden patches are grey in `masked`; in the reconstruction they hold the prediction, beside the visible patches.
        """
        grid, patches = self.config.grid, patchify(self.look(images), self.patch)
        predicted = self.target.pixels(self.predict(patches, mask).float(), gather_tokens(patches, mask.hidden))
        where = mask.hidden[..., None].expand(-1, -1, patches.shape[2])
        filled = unpatchify(patches.scatter(1, where, predicted), self.patch, grid)
        seen = torch.ones_like(mask.order, dtype=images.dtype).scatter(1, mask.hidden, 0.0)
        seen = unpatchify(seen[..., None].expand_as(patches), self.patch, grid)
        return images * seen + 0.5 * (1 - seen), (filled * self.std + self.mean).clamp(0, 1)

    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Original, masked, reconstruction, one above the other (Fig. 2)."""
        masked, completed = self.reconstruct(images, self.mask(draws))
        return image_rows({"original": images, "masked": masked, "reconstruction": completed})

    def _patches_to_fit(self) -> Tensor:
        """Return normalised patches (n, P) of training images."""
        images = centre(self.surroundings.sample(FITTED_ON), self.config.data)
        return patchify(self.look(images), self.patch).flatten(0, 1)


def reconstruction_loss(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean squared error over patches: prediction and target (B, n, outputs), weights (n,) per patch."""
    per_patch = (prediction.float() - target.float()).square().mean(dim=-1)  # (B, n)
    return (per_patch * weights).sum() / (weights.sum() * len(per_patch))
