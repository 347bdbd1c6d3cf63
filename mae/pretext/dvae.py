"""DALL-E's discrete VAE (Ramesh et al., 2021, section 2.1): an encoder that says how likely each code is for a patch.

Kept: Gumbel-softmax in training, whose temperature falls by half a cosine, and a loss on the KL divergence from the
uniform distribution, whose weight rises from 0; the likeliest code otherwise. Adapted: a ViT and MAE's decoder in place
of convolutions; the squared error of normalised pixels in place of the logit-Laplace likelihood, so that the weight has
another scale; temperature and weight change over the whole training.
"""

import math

import torch
from torch import Tensor, nn

from mae.config.tree import Config
from mae.models.vit import initialise
from mae.pretext.base import Surroundings
from mae.pretext.pixel_noise import hashed
from mae.pretext.tokenizer import Tokenizer, annealed, use_of
from mae.runtime.autocast import full


class DiscreteVAE(Tokenizer):
    """A distribution over codes per patch, and mixtures of codes that gradients pass."""

    schedule_state = ("progress",)
    progress: Tensor
    """Share of the training that is done, 0..1."""

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        count, width = config.tokenizer.codes, config.tokenizer.width
        self.to_code = nn.Linear(config.model.encoder.dim, count)
        self.to_code.apply(initialise)
        self.codebook = nn.Parameter(torch.randn(count, width))
        self.register_buffer("progress", torch.zeros(()))

    def codes(self, images: Tensor) -> Tensor:
        return self._logits(self.encoder(images)[:, 1:]).argmax(dim=-1)

    def quantise(self, tokens: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return mixtures of codes' vectors and the KL divergence in nats per patch."""
        logits = self._logits(tokens)
        with full(tokens.device):
            log = logits.log_softmax(dim=-1)
            divergence = (log.exp() * log).sum(dim=-1).mean() + math.log(len(self.codebook))
            temperature = annealed(self.progress, *self.config.tokenizer.temperature)
            shares = ((logits + gumbel(noise, logits[0].numel()).view_as(logits)) / temperature).softmax(dim=-1)
            mixed = shares @ self.codebook
        return mixed, {"divergence": divergence, "use": use_of(logits.argmax(dim=-1), len(self.codebook))}

    def total(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        weight = annealed(self.progress, 0.0, self.config.tokenizer.kl_weight)
        return {"loss": parts["reconstruction"] + weight * parts["divergence"]} | parts

    def after_step(self, step: int, total: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        self.progress.fill_(step / total)
        return super().after_step(step, total, found)

    def _logits(self, tokens: Tensor) -> Tensor:
        """Return the logarithms (B, N, K) of what codes' probabilities are in proportion to."""
        with full(tokens.device):
            return self.to_code(tokens.float())


def gumbel(seeds: Tensor, count: int) -> Tensor:
    """Return `count` numbers of a standard Gumbel distribution for each seed (B,), float32 (B, count)."""
    uniform = ((hashed(seeds, count) >> 9).float() + 0.5) / (1 << 23)  # 23 bits: never 0 or 1
    return -(-uniform.log()).log()
