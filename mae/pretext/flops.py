"""Cost of a model in floating-point operations, counted by torch on shapes alone: nothing is computed or allocated."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from mae.config.tree import Config
from mae.models.vit import MaskedAutoencoder, build_encoder


def training_flops(config: Config, outputs: int | None = None) -> float:
    """Return the FLOPs of one image's training step, forward and backward; a multiply-add counts as two.

    `outputs` are the numbers predicted per patch, the patch's pixels if not given. Matrix products and attention
    are counted; the optimiser, norms and activations are not.
    """
    height, width = config.model.patch_size
    pixels = height * width * config.data.channels
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = MaskedAutoencoder(config, outputs or pixels)
        order = torch.empty(1, config.patches, dtype=torch.int64)
        prediction = model(
            torch.empty(1, config.patches, pixels), order, hidden_only=config.loss.weight_of_visible == 0
        )
        prediction.sum().backward()
    return float(counter.get_total_flops())


def encoder_flops(config: Config) -> float:
    """Return the FLOPs of the encoder's forward pass on one whole image; a multiply-add counts as two."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        build_encoder(config)(torch.empty(1, config.data.channels, *config.data.image_size))
    return float(counter.get_total_flops())
