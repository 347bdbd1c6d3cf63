"""The pretext task: masking, target and loss around an autoencoder (section 3; footnote 1).

What pretraining asks of an objective: `encoder`, `loss(images, order)`, and the usual of an `nn.Module`.
"""

import torch
from torch import Tensor, nn

from mae.config.tree import Config
from mae.models.vit import MaskedAutoencoder, gather_tokens, load_official_state, patchify
from mae.pretext.masking import sample_order
from mae.pretext.targets import Target, saved_target

TARGET = "target."
"""What the names of a fitted target's tensors start with, among those of the decoder."""


def reconstruction_loss(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean squared error over patches: prediction and target (B, n, outputs), weights (n,) per patch."""
    per_patch = (prediction.float() - target.float()).square().mean(dim=-1)  # (B, n)
    return (per_patch * weights).sum() / (weights.sum() * len(per_patch))


class MaskedReconstruction(nn.Module):
    """MAE as an objective: hides patches, predicts them, compares."""

    def __init__(self, config: Config, target: Target):
        super().__init__()
        self.config, self.target = config, target
        self.model = MaskedAutoencoder(config, target.outputs)

    @property
    def encoder(self) -> nn.Module:
        """What is kept after pretraining."""
        return self.model.encoder

    def decoder_state(self) -> dict[str, Tensor]:
        """Return what reconstruction needs beside the encoder: the decoder under its official names, and what a target
        was fitted to under `target.*`."""
        fitted = {f"{TARGET}{name}": value for name, value in self.target.state_dict().items()}
        return {**self.model.decoder.state_dict(), **fitted}

    def sample(self, generator: torch.Generator, count: int) -> Tensor:
        """Return the masks of `count` images as an order of patches (count, N), the visible first."""
        config = self.config
        return sample_order(config.mask.sampling, generator, count, config.grid, config.kept_patches)

    def forward(self, images: Tensor, order: Tensor) -> Tensor:
        """Return the loss, a scalar, of normalised images (B, C, H, W) under masks `order` (B, N)."""
        patches = patchify(images, self.model.patch)
        visible_weight = self.config.loss.weight_of_visible
        hidden_only = visible_weight == 0
        prediction = self.model(patches, order, hidden_only)
        read = order[:, self.model.kept :] if hidden_only else order
        weights = torch.ones(read.shape[1], device=images.device)
        if not hidden_only:
            weights[: self.model.kept] = visible_weight
        with torch.autocast(images.device.type, enabled=False):  # a target may multiply matrices, and is no less exact
            target = self.target(patches)
        return reconstruction_loss(prediction, gather_tokens(target, read), weights)


def saved_objective(config: Config, encoder: dict[str, Tensor], decoder: dict[str, Tensor]) -> MaskedReconstruction:
    """Return the objective with the weights of a finished run: the encoder's, and what `decoder_state` returned."""
    fitted = {name.removeprefix(TARGET): value for name, value in decoder.items() if name.startswith(TARGET)}
    objective = MaskedReconstruction(config, saved_target(config, fitted))
    weights = {name: value for name, value in decoder.items() if not name.startswith(TARGET)}
    load_official_state(objective.model, {**encoder, **weights})
    return objective
