"""Steps of a training, and a request to stop it, for tests."""

import signal
from typing import Any

import torch
from torch import Tensor

from mae.data.dataset import ImageData
from mae.runtime.interruption import StopRequest
from mae.runtime.rng import on_device
from mae.training.step import Step, Trainer
from tests.helpers.pretexts import batch_of


class StopAfter(StopRequest):
    """Asks to stop once `checks` steps have looked."""

    def __init__(self, checks: int):
        self.left = checks

    @property
    def number(self) -> int:  # type: ignore[override]
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else 0


def first_images(digits: ImageData, count: int = 256) -> Tensor:
    return next(iter(digits.train.images.batches([torch.arange(count)])))


def take_step(trainer: Trainer, images: Tensor, index: int = 0) -> Step:
    """Take a step on the first images of a training set."""
    pieces = trainer.pieces(batch_of(images), index)
    return trainer.step((on_device(each, trainer.device) for each in pieces), index)


def step_and_gradients(trainer: Trainer, images: Tensor, index: int = 0) -> tuple[Step, dict[str, Tensor]]:
    """Take a step; return it, and the gradients that the optimiser got."""
    gradients: dict[str, Tensor] = {}

    def note(*arguments: Any) -> None:
        for name, parameter in trainer.pretext.named_parameters():
            if parameter.grad is not None:
                gradients[name] = parameter.grad.clone()

    with_note = trainer.optimizer.register_step_pre_hook(note)
    step = take_step(trainer, images, index)
    with_note.remove()
    return step, gradients


def gradients_of_a_step(trainer: Trainer, images: Tensor, index: int = 0) -> dict[str, Tensor]:
    """Take a step; return the gradients that the optimiser got."""
    return step_and_gradients(trainer, images, index)[1]
