"""The contract of a pretext task, on which an encoder is pretrained. `mae.pretext.registry` lists the tasks.

A step is one function of weights, batch and draws. `draw` makes all random numbers of a batch, few and on the CPU, as a
pure function of its generator; `forward` does all heavy work where the batch is, so that it can be compiled, cut into
micro-batches and shared by processes: draws are cut like images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from mae.config.tree import Config
from mae.data import augmentation
from mae.data.facts import Statistics
from mae.runtime.rng import branch, on_device


class Batch(NamedTuple):
    """Training images, or clips, as they are stored, on the device."""

    images: Tensor
    """uint8 (B, C, h, w), or (B, C, T, h, w)."""
    indexes: Tensor
    """int64 (B,): their indexes in the training set."""
    labels: Tensor
    """int64 (B,): their classes, -1 where unknown."""


@dataclass(frozen=True)
class KnownTokenizer:
    """Another run's tokenizer: its config, with the mean and standard deviation of its images, what makes the task of a
    config, and the task's state, empty where one without training will do."""

    config: Config
    make: Callable[[Config], "Pretext"]
    state: Mapping[str, Tensor] = field(default_factory=dict)


def _unknown(count: int) -> Tensor:
    raise AssertionError("nobody has said which images a sample has")


@dataclass(frozen=True)
class Surroundings:
    """What a task may know of the training images when it is built, and what a finished run has fitted.

    `sample(n)` returns at most n of them as they are stored (see `Batch`), the same ones for one seed, and
    `sampled(n)` their indexes, int64 (n,). `fitted` is the state of a finished run's task: with it, nothing is fitted
    again, and no image is needed. `tokenizer` is there if the config names one.
    """

    images: int
    classes: int
    statistics: Statistics
    sample: Callable[[int], Tensor]
    fitted: Mapping[str, Tensor] = field(default_factory=dict)
    tokenizer: KnownTokenizer | None = None
    class_names: tuple[str, ...] = ()
    sampled: Callable[[int], Tensor] = _unknown

    @property
    def without_weights(self) -> "Surroundings":
        """The same without states, which a task that was built has taken over."""
        return replace(self, fitted={}, tokenizer=self.tokenizer and replace(self.tokenizer, state={}))


class Pretext(nn.Module):
    """A way to pretrain `encoder`, a ViT that maps images (B, C, H, W) to tokens (B, 1 + N, D), class token first.

    Where the source is one of clips, these are meant by images: (B, C, T, H, W).
    """

    encoder: nn.Module
    schedule_state: tuple[str, ...] = ()
    """Names in the state of what tells how far the training is, which starts anew with another run's weights."""
    chance_loss: float | None = None
    """The loss in nats of a guess that finds all answers alike, where the task is to choose one of some answers."""
    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__()
        self.config, self.surroundings = config, surroundings.without_weights
        for name in ("mean", "std"):  # of a run's data, which its record keeps
            values = torch.tensor(getattr(surroundings.statistics, name)).view(-1, *(1 for _ in config.data.seen))
            self.register_buffer(name, values, persistent=False)

    def draw(self, count: int, generator: torch.Generator) -> Any:
        """Return all random numbers of a batch: a named tuple of small CPU tensors (count, ...)."""
        raise NotImplementedError

    def forward(self, batch: Batch, draws: Any) -> dict[str, Tensor]:
        """Return `loss`, the mean over the batch as a scalar, and other means: numbers to track by name, and tensors
        for `after_step`."""
        raise NotImplementedError

    def look(self, images: Tensor) -> Tensor:
        """Return what the encoder takes when it is probed, of images (B, C, H, W) in 0..1: here, normalised pixels.

        It is a function of `mean`, `std` and `config`: an encoder that came without the rest of its task looks so too.
        """
        return (images - self.mean) / self.std

    def crops(self, count: int, generator: torch.Generator) -> augmentation.Draws:
        """Return the draws of a batch's crops: the same ones under every task with the seed."""
        data = self.config.data
        return augmentation.draw(data, count, data.stored, branch(generator, "crops"))

    def as_pixels(self, normalised: Tensor) -> Tensor:
        """Return images (..., C, H, W) in 0..1 of normalised pixels: what `look` does, undone."""
        return (normalised * self.std + self.mean).clamp(0, 1)

    def after_step(self, step: int, total: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Do what follows an optimiser step, here nothing; return the numbers to track.

        `found` is what `forward` returned, as means over micro-batches and processes: what is made of it and of the
        state is the same in all processes.
        """
        return found

    def pictured(self, images: Tensor) -> Tensor:
        """Return what `picture` takes of stored images, in 0..1: here, what the model reads of them."""
        return augmentation.centre(images, self.config.data)

    def picture(self, images: Tensor, draws: Any) -> Figure | None:
        """Return a picture of the task on images (n, C, H, W) in 0..1, for people, or None where there is none."""
        return None

    def cost(self) -> dict[str, float]:
        """Return FLOPs per image of a training step without augmentation and of the encoder alone, and parameters.

        Counted by PyTorch on shapes alone: matrix products, convolutions and attention, a multiply-add as two;
        optimiser, norms and activations are left out.
        """
        twin = self._on_meta()
        data = twin.config.data
        draws = on_device(twin.draw(1, torch.Generator().manual_seed(0)), torch.device("meta"))
        with torch.device("meta"):
            one = torch.empty(1, dtype=torch.int64)
            batch = Batch(torch.empty(1, data.channels, *data.stored, dtype=torch.uint8), one, one)
            image = torch.empty(1, data.channels, *data.seen)
        backward = {torch.ops.aten.convolution_backward: _backward_of_convolution}
        with FlopCounterMode(display=False, custom_mapping=backward) as step:
            twin(batch, draws)["loss"].backward()
        with FlopCounterMode(display=False) as encoding, torch.no_grad():
            twin.encoder(image)
        return {
            "gflops_per_image": step.get_total_flops() / 1e9,
            "gflops_encoder": encoding.get_total_flops() / 1e9,
            "parameters": parameter_count(self),
            "parameters_encoder": parameter_count(self.encoder),
        }

    def _on_meta(self) -> "Pretext":
        """Return the same task without augmentation, and without numbers in its tensors."""
        plain = self.config.data.model_copy(update={"augmentation": "none", "flip": False})
        fitted = {name: value.to("meta") for name, value in self.state_dict().items()}
        with torch.device("meta"):
            twin = type(self)(self.config.model_copy(update={"data": plain}), replace(self.surroundings, fitted=fitted))
        return twin.to("meta")


def parameter_count(module: nn.Module) -> int:
    """Return the number of trained parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _backward_of_convolution(
    gradient: list[int], images: list[int], weight: list[int], *others: Any, **more: Any
) -> int:
    """Return FLOPs: as many as forward for each gradient. PyTorch's own count takes a depthwise one for a full one."""
    transposed, wanted = others[4], others[7]
    return conv_flop_count(images, weight, gradient, transposed) * sum(wanted[:2])


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a state whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
