"""What tasks share that reconstruct images: the encoder, a light decoder that is thrown away, and a target.

Parameters carry the official MAE release's names. Shapes in comments: B images, N patches, D encoder width, E decoder
width, P = patch height * patch width * channels.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from mae.config.model_sections import DecoderConfig
from mae.config.tree import Config
from mae.data.augmentation import centre
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
from mae.pretext.base import Pretext, Surroundings, under
from mae.pretext.decoder_context import Convolutions, Fusion
from mae.pretext.masking import Mask
from mae.pretext.targets import TARGETS, Pixels

FITTED_ON = 2048
"""Training images whose patches a target is fitted on."""


class Decoder(nn.Module):
    """The light decoder of pretraining (section 3, "MAE decoder")."""

    decoder_pos_embed: Tensor

    def __init__(self, config: DecoderConfig, encoder_dim: int, grid: Size, outputs: int, recompute: bool, eps: float):
        super().__init__()
        self.decoder_embed = nn.Linear(encoder_dim, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.register_buffer("decoder_pos_embed", sincos_positions(config.dim, grid))
        self.decoder_blocks = Blocks(config, recompute, eps)
        self.decoder_norm = nn.LayerNorm(config.dim, eps)
        self.decoder_pred = nn.Linear(config.dim, outputs)
        self.apply(initialise)
        nn.init.normal_(self.mask_token, std=0.02)
        self._add_context(config, encoder_dim, grid, eps)

    def _add_context(self, config: DecoderConfig, encoder_dim: int, grid: Size, eps: float) -> None:
        """Add what the config asks for; last, so that all other parts start from the same numbers without it."""
        between = config.depth - 1 if config.mixing == "convolutions" else 0
        self.decoder_mixing = nn.ModuleList(Convolutions(config.dim, config.kernels, grid, eps) for _ in range(between))
        self.decoder_fusion = Fusion(config.fusion, encoder_dim) if config.fusion else None
        self.decoder_global = nn.Linear(encoder_dim, config.dim) if config.global_token else None
        if self.decoder_fusion is not None:
            self.decoder_fusion.apply(initialise)
        if self.decoder_global is not None:  # nothing at first, so that training starts as without it
            nn.init.zeros_(self.decoder_global.weight)
            nn.init.zeros_(self.decoder_global.bias)

    def forward(self, encoded: Tensor, order: Tensor, read_from: int) -> Tensor:
        """Return predictions (B, N - read_from, outputs) for the patches of `order` (B, N) from `read_from` on.

        `encoded` is (B, 1 + n, D): the class token and the first n patches of `order`; mask tokens fill the rest.
        Tokens stay in `order`, each with its own position: attention does not mind, and nothing is moved back.
        """
        tokens = self.decoder_embed(encoded)  # (B, 1 + n, E)
        missing = order.shape[1] + 1 - tokens.shape[1]
        hidden = self._mask_tokens(encoded).expand(len(tokens), missing, -1)
        tokens = torch.cat([tokens, hidden.to(tokens.dtype)], dim=1)
        positions = gather_tokens(self.decoder_pos_embed[:, 1:], order)
        first = self.decoder_pos_embed[:, :1].expand(len(tokens), -1, -1)
        tokens = tokens + torch.cat([first, positions], dim=1)  # (B, 1 + N, E)
        read = self.decoder_blocks(tokens, 1 + read_from, self._mixing(order))
        return self.decoder_pred(self.decoder_norm(read))

    def _mask_tokens(self, encoded: Tensor) -> Tensor:
        """Return the mask token of all images (1, 1, E), or of each (B, 1, E): with the mean of its visible patches."""
        if self.decoder_global is None:
            return self.mask_token
        return self.mask_token + self.decoder_global(encoded[:, 1:].mean(dim=1, keepdim=True))

    def _mixing(self, order: Tensor) -> list[Callable[[Tensor], Tensor]]:
        """Return what follows each decoder block but the last."""
        if not self.decoder_mixing:
            return []
        places = order.argsort(dim=1)
        return [partial(mix, order=order, places=places) for mix in self.decoder_mixing]


def build_decoder(config: Config, outputs: int) -> Decoder:
    """Return the decoder alone, untrained, that predicts `outputs` numbers per patch."""
    model = config.model
    sizes = model.encoder.dim, config.grid, outputs
    return Decoder(model.decoder, *sizes, config.train.checkpoint_blocks, model.norm_eps)


class Autoencoder(Pretext):
    """An encoder and a decoder that predicts the target of patches."""

    encoder: Encoder
    target: Pixels

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        self.patch = config.patch
        target, fitted = TARGETS[config.target.kind], under(surroundings.fitted, "target.")
        if surroundings.fitted:
            self.target = target.saved(config, fitted, surroundings)
        else:
            self.target = target.fit(config, self._patches_to_fit, surroundings)
        self.encoder = build_encoder(config)
        self.decoder = build_decoder(config, self.target.outputs)

    def shown(self, patches: Tensor) -> Tensor:
        """Return images (B, C, H, W) in 0..1 of normalised patches (B, N, P)."""
        images = unpatchify(patches, self.patch, self.config.grid)
        return self.as_pixels(images)

    def greyed(self, images: Tensor, mask: Mask) -> Tensor:
        """Return images (B, C, H, W) in 0..1 whose hidden patches are grey."""
        return greyed(images, mask, self.patch)

    def _patches_to_fit(self) -> Tensor:
        """Return normalised patches (n, P) of training images."""
        images = centre(self.surroundings.sample(FITTED_ON), self.config.data)
        return patchify(self.look(images), self.patch).flatten(0, 1)


def greyed(images: Tensor, mask: Mask, patch: Size) -> Tensor:
    """Return images (B, C, H, W) in 0..1 whose hidden patches are grey."""
    patches = patchify(images, patch)
    where = mask.hidden[..., None].expand(-1, -1, patches.shape[2])
    grid = tuple(side // part for side, part in zip(images.shape[2:], patch, strict=True))
    return unpatchify(patches.scatter(1, where, 0.5), patch, grid)
