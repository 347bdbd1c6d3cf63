"""Reconstruction targets: what a patch's prediction is compared with (Table 1d).

A target maps patches (..., P) to what the decoder predicts for them (..., outputs), and predictions back to pixels. To
add one, write a class and enter it in `TARGETS`.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mae.config.tree import Config


class Pixels(nn.Module):
    """The patch itself: the paper's default, "w/o norm"."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs

    @classmethod
    def fit(cls, config: Config, patches: Callable[[], Tensor]) -> "Pixels":
        """Return the target of a config; `patches()` are training patches (n, P), normalised, if any are needed."""
        return cls(math.prod(config.model.patch_size) * config.data.channels)

    @classmethod
    def saved(cls, config: Config, state: Mapping[str, Tensor]) -> "Pixels":
        """Return the target of a finished run, whose `state_dict` it is."""
        return cls(math.prod(config.model.patch_size) * config.data.channels)

    def forward(self, patches: Tensor) -> Tensor:
        return patches

    def pixels(self, predicted: Tensor, original: Tensor) -> Tensor:
        """Return the patches (..., P) that predictions (..., outputs) of `original` patches (..., P) stand for."""
        return predicted


class NormalizedPixels(Pixels):
    """Each patch less its own mean, over its own standard deviation (section 3, "Reconstruction target")."""

    def forward(self, patches: Tensor) -> Tensor:
        mean, deviation = self._moments(patches)
        return (patches - mean) / deviation

    def pixels(self, predicted: Tensor, original: Tensor) -> Tensor:
        """Predictions do not say a patch's mean and spread; they are taken from the original, as is usual."""
        mean, deviation = self._moments(original)
        return predicted * deviation + mean

    @staticmethod
    def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
        return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()


class PrincipalComponents(Pixels):
    """The coefficients of a patch in the training patches' largest principal components."""

    mean: Tensor
    components: Tensor

    def __init__(self, mean: Tensor, components: Tensor):
        super().__init__(len(components))
        self.register_buffer("mean", mean)  # (P,)
        self.register_buffer("components", components)  # (outputs, P), orthonormal rows

    @classmethod
    def fit(cls, config: Config, patches: Callable[[], Tensor]) -> "PrincipalComponents":
        return fit_principal_components(patches(), config.target.pca_variance)

    @classmethod
    def saved(cls, config: Config, state: Mapping[str, Tensor]) -> "PrincipalComponents":
        return cls(**state)

    def forward(self, patches: Tensor) -> Tensor:
        return (patches - self.mean) @ self.components.T

    def pixels(self, predicted: Tensor, original: Tensor) -> Tensor:
        return predicted @ self.components + self.mean


def fit_principal_components(patches: Tensor, variance: float) -> PrincipalComponents:
    """Fit on patches (n, P); keep the fewest components that explain at least the share `variance`, 0 to 1."""
    centred = patches.double()
    mean = centred.mean(dim=0)
    centred = centred - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))  # ascending
    explained = values.flip(0).clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
    kept = int((explained < variance - 1e-9).sum()) + 1
    return PrincipalComponents(mean.float(), vectors.flip(1)[:, :kept].T.float().contiguous())


TARGETS: dict[str, type[Pixels]] = {
    "pixels": Pixels,
    "normalized_pixels": NormalizedPixels,
    "pca": PrincipalComponents,
}
