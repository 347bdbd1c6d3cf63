"""Reconstruction targets: what a patch's prediction is compared with (Table 1d).

A target maps patches (..., P) to what the decoder predicts for them (..., outputs). To add one, write a module and
enter it in `build_target`.
"""

import math

import torch
from torch import Tensor, nn

from mae.config.tree import Config


class Pixels(nn.Module):
    """The patch itself: the paper's default, "w/o norm"."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs

    def forward(self, patches: Tensor) -> Tensor:
        return patches


class NormalizedPixels(Pixels):
    """Each patch less its own mean, over its own standard deviation (section 3, "Reconstruction target")."""

    def forward(self, patches: Tensor) -> Tensor:
        mean = patches.mean(dim=-1, keepdim=True)
        variance = patches.var(dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()


class PrincipalComponents(nn.Module):
    """The coefficients of a patch in the training patches' largest principal components."""

    mean: Tensor
    components: Tensor

    def __init__(self, mean: Tensor, components: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)  # (P,)
        self.register_buffer("components", components)  # (outputs, P), orthonormal rows
        self.outputs = len(components)

    def forward(self, patches: Tensor) -> Tensor:
        return (patches - self.mean) @ self.components.T

    def pixels(self, coefficients: Tensor) -> Tensor:
        """Return the patches (..., P) that coefficients (..., outputs) stand for."""
        return coefficients @ self.components + self.mean


Target = Pixels | PrincipalComponents


def fit_principal_components(patches: Tensor, variance: float) -> PrincipalComponents:
    """Fit on patches (n, P); keep the fewest components that explain at least the share `variance`, 0 to 1."""
    centred = patches.double()
    mean = centred.mean(dim=0)
    centred = centred - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))  # ascending
    explained = values.flip(0).clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
    kept = int((explained < variance - 1e-9).sum()) + 1
    return PrincipalComponents(mean.float(), vectors.flip(1)[:, :kept].T.float().contiguous())


def build_target(config: Config, training_patches: Tensor) -> Target:
    """Return the config's target; `training_patches` (n, P), normalised as in training, are what PCA is fitted on."""
    if config.target.kind == "pca":
        return fit_principal_components(training_patches, config.target.pca_variance)
    return _unfitted(config)


def saved_target(config: Config, state: dict[str, Tensor]) -> Target:
    """Return the config's target as it was fitted: `state` is its `state_dict`."""
    return PrincipalComponents(**state) if config.target.kind == "pca" else _unfitted(config)


def _unfitted(config: Config) -> Pixels:
    kinds = {"pixels": Pixels, "normalized_pixels": NormalizedPixels}
    return kinds[config.target.kind](math.prod(config.model.patch_size) * config.data.channels)
