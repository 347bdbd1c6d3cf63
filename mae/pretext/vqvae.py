"""VQ-VAE (van den Oord et al., 2017): a patch's code is the nearest entry of a codebook that follows the encoder.

Kept: nearest code by Euclidean distance, gradients that pass the codes as if these were not there, the commitment loss,
and the codebook as moving averages of what is assigned to each code (appendix A.1). Adapted: a ViT and MAE's decoder in
place of convolutions, a code per patch. Added: codes out of use start anew. They come from codes in use, as in LBG's
splitting (Linde et al., 1980), not from a batch's patches as in Jukebox (Dhariwal et al., 2020): what a step needs is
then a sum over the batch, which processes and micro-batches can share.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.tree import Config
from mae.models.vit import initialise
from mae.pretext.base import Surroundings
from mae.pretext.pixel_noise import BITS, normal
from mae.pretext.tokenizer import Tokenizer, use_of
from mae.runtime.autocast import full

DEAD = 0.1
"""A code in use for fewer patches than this share of the mean code's is out of use."""


class VectorQuantiser(Tokenizer):
    """Nearest codes, straight-through gradients and a codebook of moving averages."""

    recent_use: Tensor
    """Moving average of the share of patches that had each code, (K,)."""

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        count, width = config.tokenizer.codes, config.tokenizer.width
        self.to_code = nn.Linear(config.model.encoder.dim, width)
        self.to_code.apply(initialise)
        self.register_buffer("codebook", torch.randn(count, width))
        self.register_buffer("recent_use", torch.zeros(count))

    def codes(self, images: Tensor) -> Tensor:
        return self._nearest(self._vectors(self.encoder(images)[:, 1:]))

    def quantise(self, tokens: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return codes' vectors, the commitment, and means over all patches of what the codebook follows."""
        vectors = self._vectors(tokens)
        codes = self._nearest(vectors)
        chosen = F.embedding(codes, self.codebook)
        sums = torch.zeros_like(self.codebook).index_add(0, codes.flatten(), vectors.detach().flatten(0, 1))
        parts = {
            "commitment": (vectors - chosen).square().mean(),
            "use": use_of(codes, len(self.codebook)),
            "sums": sums / codes.numel(),
        }
        return vectors + (chosen - vectors).detach(), parts

    def total(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        weight = self.config.tokenizer.commitment
        return {"loss": parts["reconstruction"] + weight * parts["commitment"]} | parts

    def after_step(self, step: int, total: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move each code to the mean of what it had lately; give codes out of use a new start."""
        new = 1 - self.config.tokenizer.decay
        use, spread = found["use"], found["commitment"].sqrt()
        self.recent_use.lerp_(use, new)
        weight = new / self.recent_use.clamp(min=1e-12)
        self.codebook += weight[:, None] * (found["sums"] - use[:, None] * self.codebook)
        self._restart(step, spread)
        return super().after_step(step, total, found)

    def _restart(self, step: int, spread: Tensor) -> None:
        """Put codes out of use where patches of the codes in use may lie: around one of them each, most used first.

        `spread` is the standard deviation of patches around their codes. All is a function of the state and the step:
        every process does the same. A code and its new ones share its use.
        """
        count, width = self.codebook.shape
        dead = self.recent_use < DEAD * self.recent_use.mean()
        ranked = self.recent_use.argsort(descending=True, stable=True)
        place = (dead.cumsum(0) - 1) % (~dead).sum()
        own = torch.arange(count, device=dead.device)
        parent = torch.where(dead, ranked[place.clamp(min=0)], own)
        family = torch.zeros_like(own).scatter_add(0, parent, torch.ones_like(own))
        noise = normal(own + step * count & BITS, width) * spread
        self.codebook.copy_(self.codebook[parent] + torch.where(dead[:, None], noise, 0))
        self.recent_use.copy_(self.recent_use[parent] / family[parent])

    def _vectors(self, tokens: Tensor) -> Tensor:
        with full(tokens.device):  # distances are no less exact under mixed precision
            return self.to_code(tokens.float())

    @torch.no_grad()
    def _nearest(self, vectors: Tensor) -> Tensor:
        """Return the codes (B, N) nearest to vectors (B, N, W)."""
        with full(vectors.device):
            return (self.codebook.square().sum(dim=1) - 2 * vectors @ self.codebook.T).argmin(dim=-1)
