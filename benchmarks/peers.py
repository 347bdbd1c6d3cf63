"""Training steps of other libraries' masked autoencoders, at the sizes of a config of ours.

Each takes uint8 images, moves and normalises them, and takes a step of fused AdamW.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.tree import Config
from mae.runtime.autocast import mixed

Step = Callable[[int], object]


def hugging_face(config: Config, images: Tensor, device: torch.device) -> Step:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    encoder, decoder = config.model.encoder, config.model.decoder
    sizes = ViTMAEConfig(
        hidden_size=encoder.dim,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.heads,
        intermediate_size=4 * encoder.dim,
        image_size=config.data.image_size[0],
        patch_size=config.model.patch_size[0],
        num_channels=config.data.channels,
        decoder_hidden_size=decoder.dim,
        decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.heads,
        decoder_intermediate_size=4 * decoder.dim,
        mask_ratio=config.mask.ratio,
    )
    model: Any = ViTMAEForPreTraining(sizes)
    model = model.to(device).train()
    return _step(config, model, lambda pixels: model(pixels).loss, images, device)


def lightly(config: Config, images: Tensor, device: torch.device) -> Step:
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    data, patch, encoder, decoder = config.data, config.model.patch_size[0], config.model.encoder, config.model.decoder
    vit = VisionTransformer(
        img_size=data.image_size[0],
        patch_size=patch,
        in_chans=data.channels,
        embed_dim=encoder.dim,
        depth=encoder.depth,
        num_heads=encoder.heads,
        num_classes=0,
    )
    backbone = MaskedVisionTransformerTIMM(vit)
    head = MAEDecoderTIMM(
        config.patches,
        patch,
        data.channels,
        embed_dim=encoder.dim,
        decoder_embed_dim=decoder.dim,
        decoder_depth=decoder.depth,
        decoder_num_heads=decoder.heads,
    )
    model = nn.ModuleList([backbone, head]).to(device).train()

    def loss(pixels: Tensor) -> Tensor:
        shape = len(pixels), backbone.sequence_length
        kept, hidden = utils.random_token_mask(shape, mask_ratio=config.mask.ratio, device=device)
        tokens = head.embed(backbone.encode(images=pixels, idx_keep=kept))
        whole = utils.repeat_token(head.mask_token, shape)
        whole = utils.set_at_index(whole, kept, tokens.type_as(whole))
        predicted = head.predict(utils.get_at_index(head.decode(whole), hidden))
        target = utils.get_at_index(utils.patchify(pixels, patch), hidden - 1)  # without the class token
        return F.mse_loss(predicted, target)

    return _step(config, model, loss, images, device)


def _step(
    config: Config, model: nn.Module, loss: Callable[[Tensor], Any], images: Tensor, device: torch.device
) -> Step:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=config.train.weight_decay, fused=True
    )

    def step(index: int) -> None:
        pixels = (images.to(device, non_blocking=True).float() / 255 - 0.5) / 0.25
        with mixed(config.train.precision, device):
            found = loss(pixels)
        found.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


PEERS = {"Hugging Face": ("transformers", hugging_face), "lightly": ("lightly", lightly)}
"""Name, the package it needs, and its step."""
