"""The encoder that every pretext task pretrains: a ViT, top to bottom in the order data flows, and what it is made of.

Images (B, C, H, W) have patches; clips (B, C, T, H, W) have tubelets in their place, patches that span some frames.
Parameters carry timm's and the official MAE release's names (`patch_embed.proj`, `blocks.0.attn.qkv` ...). Shapes in
comments: B images, N patches, K visible, D width, P = patch height * patch width * channels, in clips times frames.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mae.config.model_sections import TransformerConfig
from mae.config.tree import Config

Size = tuple[int, ...]
"""Height and width; of what belongs to clips, frames before them."""
Fuse = Callable[[Sequence[Tensor]], Tensor]
"""Makes the outputs (B, n, D) of all blocks into one, where the last one's is not what a task reads."""


def patchify(images: Tensor, patch: Size) -> Tensor:
    """Cut (B, C, H, W) images into (B, N, P) patches: row by row, and within a patch height, width, channel.

    Clips (B, C, T, H, W) are cut likewise, by time first, in patches and within one.
    """
    batch, channels, *sides = images.shape
    grid = [side // part for side, part in zip(sides, patch, strict=True)]
    pieces = images.reshape(batch, channels, *(side for cut in zip(grid, patch, strict=True) for side in cut))
    places = range(2, pieces.ndim, 2)
    pieces = pieces.permute(0, *places, *(place + 1 for place in places), 1)
    return pieces.reshape(batch, math.prod(grid), -1)


def unpatchify(patches: Tensor, patch: Size, grid: Size) -> Tensor:
    """Put (B, N, P) patches back together as (B, C, H, W) images, or clips; the inverse of `patchify`."""
    pieces = patches.reshape(patches.shape[0], *grid, *patch, -1)
    places = [axis for place in range(1, 1 + len(grid)) for axis in (place, place + len(grid))]
    sides = (count * part for count, part in zip(grid, patch, strict=True))
    return pieces.permute(0, -1, *places).reshape(patches.shape[0], -1, *sides)


def gather_tokens(tokens: Tensor, indexes: Tensor) -> Tensor:
    """Return tokens (B, N, D), or (1, N, D) for all images, at indexes (B, K) as (B, K, D)."""
    return tokens.expand(len(indexes), -1, -1).gather(1, indexes[..., None].expand(-1, -1, tokens.shape[2]))


def pool(tokens: Tensor, kind: str) -> Tensor:
    """Return features (B, D), or (B, 2 D) for both, of tokens (B, 1 + N, D), class token first."""
    class_token, patch_mean = tokens[:, 0].clone(), tokens[:, 1:].mean(dim=1)  # a view would keep all tokens in memory
    return {"class_token": class_token, "patch_mean": patch_mean, "both": torch.cat([class_token, patch_mean], 1)}[kind]


def sincos_positions(dim: int, grid: Size) -> Tensor:
    """Return fixed sin-cos positions (1, 1 + N, dim) in two directions, or three; the class token's is zero.

    The first half of the channels encodes the column, the second the row, each as sines then cosines with
    frequencies from 1 down to 1/10000: the channel order of the official release. In clips the time follows, in a third
    of the channels, as nearly as all parts remain even.
    """
    of_time = 4 * max(1, round(dim / 12)) if len(grid) == 3 else 0
    widths = [(dim - of_time) // 2, (dim - of_time) // 2, of_time][: len(grid)]
    places = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    parts = []
    for position, width in zip(reversed(places), widths, strict=True):
        frequencies = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width // 2))
        angles = position.flatten()[:, None].double() * frequencies
        parts += [angles.sin(), angles.cos()]
    positions = torch.cat(parts, dim=1).float()
    return torch.cat([torch.zeros(1, dim), positions])[None]


class TubeletEmbed(nn.Module):
    """What takes the place of timm's `PatchEmbed` in an encoder of clips: a convolution over tubelets."""

    def __init__(self, size: Size, patch: Size, channels: int, dim: int):
        super().__init__()
        self.grid_size = tuple(side // part for side, part in zip(size, patch, strict=True))
        self.proj = nn.Conv3d(channels, dim, patch, patch)  # type: ignore[arg-type]


class ViT(nn.Module):
    """What every encoder is: tokens, a class token first, blocks, and a norm after the last. One of clips takes
    (B, C, T, H, W) where the others take images (B, C, H, W)."""

    cls_token: nn.Parameter
    pos_embed: Tensor
    blocks: "Blocks"
    norm: nn.LayerNorm

    def tokens(self, images: Tensor) -> Tensor:
        """Return tokens (B, 1 + N, D) of whole images (B, C, H, W) as they enter the first block."""
        raise NotImplementedError

    def forward(self, images: Tensor, fuse: Fuse | None = None) -> Tensor:
        """Return normalised tokens (B, 1 + N, D) of whole images (B, C, H, W), class token first; nothing is hidden."""
        return self._through_blocks(self.tokens(images), fuse)

    def after(self, images: Tensor, layer: int) -> Tensor:
        """Return the tokens after block `layer`, counted from 1, as the next block reads them: after its norm."""
        if layer == len(self.blocks):
            return self(images)
        tokens = self.tokens(images)
        for block in islice(self.blocks, layer):
            tokens = block(tokens)
        following: Any = self.blocks[layer]
        normed: Tensor = following.norm1(tokens)
        return normed

    def _through_blocks(self, tokens: Tensor, fuse: Fuse | None) -> Tensor:
        normed: Tensor = self.norm(fuse(self.blocks.outputs(tokens)) if fuse else self.blocks(tokens))
        return normed


class Encoder(ViT):
    """A ViT that reads visible patches only, or all of them (section 3, "MAE encoder")."""

    def __init__(
        self,
        config: TransformerConfig,
        image_size: Size,
        patch: Size,
        channels: int,
        mask_tokens: bool,
        recompute: bool,
        eps: float,
    ):
        super().__init__()
        self.patch = patch
        embed: Any = PatchEmbed if len(patch) == 2 else TubeletEmbed
        self.patch_embed = embed(image_size, patch, channels, config.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        if mask_tokens:  # Table 1c; not the decoder's `mask_token`, which has another width
            self.encoder_mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.register_buffer("pos_embed", sincos_positions(config.dim, self.patch_embed.grid_size))
        self.blocks = Blocks(config, recompute, eps)
        self.norm = nn.LayerNorm(config.dim, eps)
        self.apply(initialise)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(config.dim, -1))
        nn.init.normal_(self.cls_token, std=0.02)
        if mask_tokens:
            nn.init.normal_(self.encoder_mask_token, std=0.02)

    def tokens(self, images: Tensor) -> Tensor:
        return self._with_class_token(self._embed(patchify(images, self.patch)) + self.pos_embed[:, 1:])

    def forward_visible(self, patches: Tensor, visible: Tensor, fuse: Fuse | None = None) -> Tensor:
        """Return tokens (B, 1 + K, D) of the patches (B, N, P) at `visible` (B, K) indexes; only those are embedded."""
        return self.forward_at(gather_tokens(patches, visible), visible, fuse)

    def forward_at(self, patches: Tensor, places: Tensor, fuse: Fuse | None = None) -> Tensor:
        """Return tokens (B, 1 + K, D) of patches (B, K, P) that stand at `places` (B, K), indexes of the grid."""
        tokens = self._embed(patches)  # (B, K, D)
        return self._transform(tokens + gather_tokens(self.pos_embed[:, 1:], places), fuse)

    def forward_with_mask_tokens(self, patches: Tensor, order: Tensor, kept: int, fuse: Fuse | None = None) -> Tensor:
        """Return tokens (B, 1 + N, D) in `order` (B, N), mask tokens past the first `kept` (Table 1c)."""
        visible = self._embed(gather_tokens(patches, order[:, :kept]))
        hidden = self.encoder_mask_token.expand(len(order), order.shape[1] - kept, -1)
        tokens = torch.cat([visible, hidden.to(visible.dtype)], dim=1)  # (B, N, D)
        return self._transform(tokens + gather_tokens(self.pos_embed[:, 1:], order), fuse)

    def _embed(self, patches: Tensor) -> Tensor:
        """(B, n, P) to (B, n, D): the convolution's kernel as a matrix over (height, width, channel)."""
        weight = self.patch_embed.proj.weight.movedim(1, -1).flatten(1)
        return F.linear(patches, weight, self.patch_embed.proj.bias)

    def _transform(self, tokens: Tensor, fuse: Fuse | None) -> Tensor:
        return self._through_blocks(self._with_class_token(tokens), fuse)

    def _with_class_token(self, tokens: Tensor) -> Tensor:
        first = (self.cls_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)  # len() would fix it in ONNX
        return torch.cat([first.to(tokens.dtype), tokens], dim=1)


def build_encoder(config: Config) -> Encoder:
    """Return the encoder of patches alone, untrained."""
    data, model, recompute = config.data, config.model, config.train.checkpoint_blocks
    sizes = data.seen, config.patch, data.channels
    return Encoder(model.encoder, *sizes, config.encoder_mask_tokens, recompute, model.norm_eps)


class Blocks(nn.Sequential):
    """Pre-norm ViT blocks, one after the other; with `recompute`, training keeps no activations within a block."""

    def __init__(self, config: TransformerConfig, recompute: bool, eps: float):
        norm: Any = partial(nn.LayerNorm, eps=eps)
        make = partial(Block, config.dim, config.heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm)
        super().__init__(*(make() for _ in range(config.depth)))
        self.recompute = recompute

    def forward(self, tokens: Tensor, read_from: int = 0, between: Sequence[Callable[[Tensor], Tensor]] = ()) -> Tensor:
        """Return (B, n - read_from, D): of tokens (B, n, D), the last ones, computed in the last block as in all.

        `between` is what follows each block but the last, if anything does.
        """
        *first, last = self
        for number, block in enumerate(first):
            tokens = self._through(block, tokens)
            if between:
                tokens = self._through(between[number], tokens)
        return self._through(partial(block_from, last, read_from) if read_from else last, tokens)

    def outputs(self, tokens: Tensor) -> list[Tensor]:
        """Return what tokens (B, n, D) are after every block."""
        found = []
        for block in self:
            tokens = self._through(block, tokens)
            found.append(tokens)
        return found

    def _through(self, block: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        if self.recompute and self.training and torch.is_grad_enabled():
            again: Tensor = checkpoint(block, tokens, use_reentrant=False, preserve_rng_state=False)
            return again
        return block(tokens)


def block_from(block: Any, start: int, tokens: Tensor) -> Tensor:
    """Return a block's output for the tokens (B, n, D) from `start` on, which attend to all: (B, n - start, D).

    The others are nothing but keys and values: queries, projection and MLP, five sixths of a block, leave them out.
    """
    attention, (count, _, dim) = block.attn, tokens.shape
    normed = block.norm1(tokens)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    queries = F.linear(normed[:, start:], weight[:dim], bias[:dim])
    keys, values = F.linear(normed, weight[dim:], bias[dim:]).chunk(2, dim=2)
    heads = (each.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for each in (queries, keys, values))
    attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(count, -1, dim)
    tokens = tokens[:, start:] + attention.proj(attended)
    result: Tensor = tokens + block.mlp(block.norm2(tokens))
    return result


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases, as the official release starts."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
