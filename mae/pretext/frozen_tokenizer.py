"""A finished run's tokenizer within another run's task, which predicts its codes.

Its weights and its settings are part of that task's state: a finished run is probed, shown and sent elsewhere without
the folder of its tokenizer.
"""

import tomllib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mae.config.resolve import build, flatten, to_toml
from mae.config.tree import Config
from mae.pretext.base import Surroundings, under
from mae.runtime.autocast import full

SETTINGS = "tokenizer_settings"


class FrozenTokenizer(nn.Module):
    """Codes of images, and images of codes; nothing in it is trained."""

    def __init__(self, surroundings: Surroundings, fitted: Mapping[str, Tensor]):
        super().__init__()
        known = surroundings.tokenizer
        assert known is not None  # a config with target.tokenizer comes with it
        self.register_buffer(SETTINGS, torch.tensor(list(to_toml(known.config).encode()), dtype=torch.uint8))
        with torch.random.fork_rng(devices=[]):  # the encoder's first weights are the same under every target
            self.task: Any = known.make(known.config)
        if state := under(fitted, "task.") or known.state:
            self.task.load_state_dict(dict(state))
        self.requires_grad_(False)
        self.count: int = known.config.tokenizer.codes

    @torch.no_grad()
    def codes(self, images: Tensor) -> Tensor:
        """Return the codes, int64 (B, N), of images (B, C, H, W) in 0..1: those of float32 under every precision."""
        with full(images.device):
            found: Tensor = self.task.codes(self.task.look(images.float()))
        return found

    @torch.no_grad()
    def images(self, codes: Tensor) -> Tensor:
        """Return images (B, C, H, W) in 0..1 of codes (B, N)."""
        shown: Tensor = self.task.shown(self.task.patches(codes))
        return shown


def accuracy(logits: Tensor, codes: Tensor) -> Tensor:
    """Return the share of codes (B, n) that are the likeliest under logits (B, n, K), percent."""
    return 100 * (logits.argmax(dim=-1) == codes).float().mean()


def settings_in(state: Mapping[str, Tensor]) -> Config | None:
    """Return the config of the tokenizer in a task's state, None if there is none."""
    found = [value for name, value in state.items() if name.split(".")[-1] == SETTINGS]
    if not found:
        return None
    return build(flatten(tomllib.loads(bytes(found[0].tolist()).decode())))
