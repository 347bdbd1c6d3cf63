"""A LARS probe that was killed continues: after an epoch its state is saved, so rarely that it costs 1 % of the time.

Orders of images and crops depend on seed and epoch only, so the state is all that the rest depends on.
"""

import time
from collections.abc import Callable
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from mae.training import checkpoints

LEAST_SECONDS, APART = 10.0, 100
"""Time between checkpoints: at least so many seconds, and so many times what the last one took."""


class LarsCheckpoints:
    """Checkpoints of a probe under `folder`, or none if that is None; `warn` tells of a damaged one."""

    def __init__(self, folder: Path | None = None, warn: Callable[[str], None] = lambda message: None) -> None:
        self.folder, self.warn = folder, warn
        self.saved, self.took = time.monotonic(), 0.0

    def restore(self, head: nn.Module, optimizer: Optimizer) -> int:
        """Put back what was saved last; return how many epochs are done, 0 if nothing was saved."""
        state = None if self.folder is None else checkpoints.latest(self.folder, self.warn)
        if state is None:
            return 0
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def save_if_due(self, head: nn.Module, optimizer: Optimizer, epochs: int) -> None:
        """Save the state after so many epochs, batch norm's statistics in it, if that is due."""
        began = time.monotonic()
        if self.folder is None or began - self.saved < max(LEAST_SECONDS, APART * self.took):
            return
        state = {"step": epochs, "head": head.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoints.save(self.folder, epochs, state)
        self.saved = time.monotonic()
        self.took = self.saved - began
