"""Reconstruction targets: what a patch's prediction is compared with (Table 1d).

A target maps patches (..., P) to what the decoder predicts for them (..., outputs), and predictions back to pixels. One
that needs the whole image makes its patches in `of_images`. To add one, write a class and enter it in `TARGETS`.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mae.config.tree import Config
from mae.models.vit import gather_tokens, patchify, unpatchify
from mae.pretext.base import Surroundings, under
from mae.pretext.frozen_tokenizer import FrozenTokenizer


class Pixels(nn.Module):
    """The patch itself: the paper's default, "w/o norm"."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs

    @classmethod
    def fit(cls, config: Config, patches: Callable[[], Tensor], surroundings: Surroundings) -> "Pixels":
        """Return the target of a config; `patches()` are training patches (n, P), normalised, if any are needed."""
        return cls(math.prod(config.patch) * config.data.channels)

    @classmethod
    def saved(cls, config: Config, state: Mapping[str, Tensor], surroundings: Surroundings) -> "Pixels":
        """Return the target of a finished run, whose `state_dict` it is."""
        return cls(math.prod(config.patch) * config.data.channels)

    def of_images(self, patches: Tensor) -> Tensor:
        """Return the patches (B, N, P) that `forward` is given some of, made of all patches of images (B, N, P)."""
        return patches

    def forward(self, patches: Tensor) -> Tensor:
        return patches

    def pixels(self, predicted: Tensor, original: Tensor) -> Tensor:
        """Return the patches (..., P) that predictions (..., outputs) of `original` patches (..., P) stand for."""
        return predicted

    def completed(self, predicted: Tensor, patches: Tensor, hidden: Tensor) -> Tensor:
        """Return patches (B, N, P), those at indexes `hidden` (B, M) as predictions (B, M, outputs) have them."""
        shown = self.pixels(predicted, gather_tokens(patches, hidden))
        return patches.scatter(1, hidden[..., None].expand_as(shown), shown)


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
    def fit(cls, config: Config, patches: Callable[[], Tensor], surroundings: Surroundings) -> "PrincipalComponents":
        return fit_principal_components(patches(), config.target.pca_variance)

    @classmethod
    def saved(cls, config: Config, state: Mapping[str, Tensor], surroundings: Surroundings) -> "PrincipalComponents":
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


class LowPass(Pixels):
    """The image without its high frequencies (PixMIM, Liu et al., 2024).

    An ideal filter, a disc in the Fourier domain of the whole image. The paper filters pixels in 0..1 and normalises
    them then; the filter is linear and keeps the mean, so that normalised pixels give the same. Its disc has the zero
    frequency at its centre, where the paper's code has it half a step beside, and the result is real by itself.
    """

    disc: Tensor

    def __init__(self, config: Config):
        super().__init__(math.prod(config.model.patch_size) * config.data.channels)
        self.patch, self.grid = config.model.patch_size, config.grid
        height, width = config.data.image_size
        rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)  # cycles per pixel, up to 1/2
        radius = 2 * torch.hypot(rows[:, None].double(), columns.double())
        self.register_buffer("disc", (radius <= config.target.cutoff + 1e-6).float(), persistent=False)

    @classmethod
    def fit(cls, config: Config, patches: Callable[[], Tensor], surroundings: Surroundings) -> "LowPass":
        return cls(config)

    @classmethod
    def saved(cls, config: Config, state: Mapping[str, Tensor], surroundings: Surroundings) -> "LowPass":
        return cls(config)

    def of_images(self, patches: Tensor) -> Tensor:
        images = unpatchify(patches, self.patch, self.grid)
        low = torch.fft.irfft2(torch.fft.rfft2(images) * self.disc, images.shape[2:])
        return patchify(low, self.patch)


class Tokens(Pixels):
    """Codes of another run's tokenizer (Table 1d, "dVAE token"; BEiT, Bao et al., 2021): a decoder says how likely each
    is. The paper's tokenizer is DALL-E's; here it is any run of `vqvae` or `dvae`, and sees the same view."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, surroundings: Surroundings, state: Mapping[str, Tensor]):
        tokenizer = FrozenTokenizer(surroundings, under(state, "tokenizer."))
        super().__init__(tokenizer.count)
        self.tokenizer = tokenizer
        self.patch, self.grid = config.model.patch_size, config.grid
        for name in ("mean", "std"):
            values = torch.tensor(getattr(surroundings.statistics, name)).view(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    @classmethod
    def fit(cls, config: Config, patches: Callable[[], Tensor], surroundings: Surroundings) -> "Tokens":
        return cls(config, surroundings, {})

    @classmethod
    def saved(cls, config: Config, state: Mapping[str, Tensor], surroundings: Surroundings) -> "Tokens":
        return cls(config, surroundings, state)

    def of_images(self, patches: Tensor) -> Tensor:
        """Return codes, int64 (B, N, 1)."""
        images = unpatchify(patches, self.patch, self.grid) * self.std + self.mean
        return self.tokenizer.codes(images)[..., None]

    def completed(self, predicted: Tensor, patches: Tensor, hidden: Tensor) -> Tensor:
        """The likeliest codes become pixels among the codes of the visible patches, which keep their own pixels."""
        codes = self.of_images(patches)[..., 0].scatter(1, hidden, predicted.argmax(dim=-1))
        shown = patchify((self.tokenizer.images(codes) - self.mean) / self.std, self.patch)
        where = hidden[..., None].expand(-1, -1, patches.shape[2])
        return patches.scatter(1, where, shown.gather(1, where))


TARGETS: dict[str, type[Pixels]] = {
    "pixels": Pixels,
    "normalized_pixels": NormalizedPixels,
    "pca": PrincipalComponents,
    "low_pass": LowPass,
    "tokens": Tokens,
}
