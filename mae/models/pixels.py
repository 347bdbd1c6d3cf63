"""The encoder whose tokens are pixels: colours of a palette where a ViT has patches.

It has the parts of a ViT under their names, so that all probes read it alike. Shapes in comments: B images, N pixels,
C channels, K colours, D width.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.model_sections import TransformerConfig
from mae.config.tree import Config
from mae.models.vit import Blocks, Size, ViT, initialise, sincos_positions


class ColorEmbed(nn.Module):
    """What takes the place of a ViT's patch projection: the nearest colour of a palette, and a vector for each."""

    palette: Tensor

    def __init__(self, grid: Size, channels: int, colors: int, dim: int):
        super().__init__()
        self.grid = grid[0], grid[1]
        self.register_buffer("palette", torch.zeros(colors, channels))  # normalised, as images are
        self.color = nn.Embedding(colors, dim)  # of standard normal numbers, about the size of the positions

    def pixels(self, images: Tensor) -> Tensor:
        """Return the pixels (B, N, C) of images (B, C, H, W), row by row, averaged down to the grid."""
        small = images if tuple(images.shape[2:]) == self.grid else F.adaptive_avg_pool2d(images, self.grid)
        return small.flatten(2).transpose(1, 2)

    def colors(self, images: Tensor) -> Tensor:
        """Return the nearest colours, int64 (B, N) in 0..K-1, of images (B, C, H, W); of equal ones the first."""
        # Differences, channel by channel: a matrix product would be rounded as autocast and TF32 say.
        channels = zip(self.pixels(images).unbind(2), self.palette.unbind(1), strict=True)
        distances = ((pixels[..., None] - palette).square() for pixels, palette in channels)  # (B, N, K) each
        return reduce(torch.add, distances).argmin(dim=2)

    def shown(self, colors: Tensor) -> Tensor:
        """Return normalised images (B, C, rows, columns) of colours (B, N)."""
        return self.palette[colors].transpose(1, 2).unflatten(2, self.grid)

    def forward(self, colors: Tensor) -> Tensor:
        """Return vectors (B, N, D) of colours (B, N)."""
        vectors: Tensor = self.color(colors)
        return vectors


class CausalAttention(Attention):
    """Attention in which a token reads itself and those before it; the first one, the class token, reads all."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = True) -> Tensor:
        heads = (each.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, dim=2))
        queries, keys, values = heads  # (B, heads, 1 + N, D / heads)
        first = F.scaled_dot_product_attention(queries[:, :, :1], keys, values)
        own, before, told = (each[:, :, 1:] for each in (queries, keys, values))
        read = torch.cat([first, F.scaled_dot_product_attention(own, before, told, is_causal=True)], dim=2)
        result: Tensor = self.proj(read.transpose(1, 2).flatten(2))
        return result


class PixelEncoder(ViT):
    """A ViT that reads the colours of pixels, all of them or, if it is `causal`, those before each."""

    patch_embed: ColorEmbed

    def __init__(
        self,
        config: TransformerConfig,
        grid: Size,
        channels: int,
        colors: int,
        causal: bool,
        recompute: bool,
        eps: float,
    ):
        super().__init__()
        self.causal = causal
        self.patch_embed = ColorEmbed(grid, channels, colors, config.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.register_buffer("pos_embed", sincos_positions(config.dim, grid))
        self.blocks = Blocks(config, recompute, eps)
        if causal:
            for block in self.blocks:
                block.attn = CausalAttention(config.dim, config.heads, qkv_bias=True)
        self.norm = nn.LayerNorm(config.dim, eps)
        self.apply(initialise)
        nn.init.normal_(self.cls_token, std=0.02)

    def tokens(self, images: Tensor) -> Tensor:
        return self.tokens_of(self.patch_embed.colors(images))

    def tokens_of(self, colors: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return tokens (B, 1 + N, D) of colours (B, N) as they enter the first block.

        Where `seen` (B, N) is 0 instead of 1 there is nothing but the position. A causal encoder's tokens are shifted
        by one: each has the colour before its own position, the first pixel's is `cls_token`, the start of every
        sequence. The class token has the last colour, which no other has: what follows a whole image.
        """
        vectors = self.patch_embed(colors)
        start = self.cls_token.expand(colors.shape[0], -1, -1)  # len() would fix it in ONNX
        if seen is not None:
            vectors = vectors * seen[..., None]
        parts = [vectors[:, -1:], start, vectors[:, :-1]] if self.causal else [start, vectors]
        return torch.cat(parts, dim=1) + self.pos_embed

    def forward_colors(self, colors: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return normalised tokens (B, 1 + N, D) of colours (B, N), class token first."""
        normed: Tensor = self.norm(self.blocks(self.tokens_of(colors, seen)))
        return normed

    def complete(self, colors: Tensor, known: int, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Return colours (B, N): the first `known` of those given, then chosen ones, one after the other.

        `choose` makes of normalised tokens (B, D) the colours (B,) that follow. Keys and values are kept: a pixel
        passes the blocks once.
        """
        colors, past = colors.clone(), dict.fromkeys(self.blocks)
        for place in range(known, colors.shape[1]):
            tokens = self.tokens_of(colors)[:, 1:][:, place if place > known else 0 : place + 1]
            for block in self.blocks:
                tokens, past[block] = read_on(block, tokens, past[block])
            colors[:, place] = choose(self.norm(tokens[:, -1]))
        return colors


def read_on(block: Any, tokens: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return a causal block's output for the tokens (B, n, D) that come next, and keys and values of all until now.

    `past` are those of the tokens before, (2, B, heads, m, D / heads), and then n is 1; or None if there are none.
    """
    attention = block.attn
    heads = attention.qkv(block.norm1(tokens)).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    seen = heads[1:] if past is None else torch.cat([past, heads[1:]], dim=3)
    attended = F.scaled_dot_product_attention(heads[0], seen[0], seen[1], is_causal=past is None)
    tokens = tokens + attention.proj(attended.transpose(1, 2).flatten(2))
    return tokens + block.mlp(block.norm2(tokens)), seen


def build_pixel_encoder(config: Config) -> PixelEncoder:
    """Return the encoder of pixels alone, untrained; its palette is black."""
    model, causal = config.model, config.pretext.kind == "igpt_ar"
    sizes = config.grid, config.data.channels, config.colors
    return PixelEncoder(model.encoder, *sizes, causal, config.train.checkpoint_blocks, model.norm_eps)
