"""A probe of hours that was killed continues: its state is saved, so rarely that this costs 1 % of the time.

Orders of images, crops and other draws depend on seed and position only, so the state is all that the rest depends on.
"""

import time
from collections.abc import Callable
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from mae.training import checkpoints
from mae.training.background_saving import seconds_apart

LEAST_SECONDS = 10.0
"""Least time between checkpoints; more where one takes long."""


class FitCheckpoints:
    """Checkpoints of a fit under `folder`, or none if that is None; `warn` tells of a damaged one."""

    def __init__(self, folder: Path | None = None, warn: Callable[[str], None] = lambda message: None) -> None:
        self.folder, self.warn = folder, warn
        self.saved, self.took = time.monotonic(), 0.0

    def restore(self, module: nn.Module, optimizer: Optimizer) -> int:
        """Put back what was saved last; return how many epochs or steps are done, 0 if nothing was saved."""
        state = None if self.folder is None else checkpoints.latest(self.folder, self.warn)
        if state is None:
            return 0
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def save_if_due(self, module: nn.Module, optimizer: Optimizer, done: int) -> None:
        """Save the state after so many epochs or steps, batch norm's statistics in it, if that is due."""
        if time.monotonic() - self.saved >= seconds_apart(LEAST_SECONDS, self.took):
            self.save(module, optimizer, done)

    def save(self, module: nn.Module, optimizer: Optimizer, done: int) -> None:
        """Save the state after so many epochs or steps now."""
        if self.folder is None:
            return
        began = time.monotonic()
        state = {"step": done, "module": module.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoints.save(self.folder, done, state)
        self.saved = time.monotonic()
        self.took = self.saved - began
