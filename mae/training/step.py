"""A step of pretraining and all that a checkpoint has to hold (appendix A.1)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.errors import ImpossibleSettings, SettingsError
from mae.pretext.base import Batch, KnownTokenizer
from mae.pretext.beginning import Beginning
from mae.pretext.registry import new_pretext
from mae.runtime.autocast import mixed
from mae.runtime.distributed import ALONE, Processes
from mae.runtime.rng import generator, on_device, piece
from mae.training import checkpoints
from mae.training.compilation import REPLAYED, compiled, keep_gradients
from mae.training.schedule import lr_at, peak_lr, set_rates


@dataclass
class Position:
    """Where pretraining stands: optimiser steps taken, and seconds worked."""

    step: int = 0
    seconds: float = 0.0


class Piece(NamedTuple):
    """What a forward pass takes: a micro-batch and its draws."""

    batch: Batch
    draws: Any


class Step(NamedTuple):
    """What a step found, over the whole batch: `loss` and other numbers, and the gradient's norm, on the device."""

    losses: dict[str, Tensor]
    norm: Tensor
    lr: float


class Trainer:
    """A pretext task with its optimiser, and the step, which `processes` take together."""

    def __init__(
        self,
        config: Config,
        data: ImageData,
        device: torch.device,
        processes: Processes = ALONE,
        tokenizer: KnownTokenizer | None = None,
        beginning: Beginning | None = None,
    ):
        self.config, self.data, self.device, self.processes = config, data.on(device), device, processes
        self.steps_per_epoch = steps_per_epoch(config, data)
        self.pretext = new_pretext(config, data, tokenizer=tokenizer, beginning=beginning).to(device)
        self.parallel = processes.parallel(compiled(self.pretext, config.train.compile), device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.pretext, config.train.weight_decay), lr=0.0, betas=(0.9, 0.95), fused=True
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
        self.replayed = config.train.compile in REPLAYED
        if self.replayed:
            keep_gradients(self.pretext)
        self.position = Position()
        self.bad_step = torch.full((), -1, device=device)  # first step whose loss or gradient was not finite
        if processes.count > 1:
            self._settle_buckets()

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.epochs

    def pieces(self, batch: Batch, index: int) -> Iterator[Piece]:
        """Yield the micro-batches of this process's share of a batch, with their part of the draws of step `index`."""
        train = self.config.train
        draws = self.pretext.draw(train.batch_size, generator(train.seed, "step", index))  # of the whole batch
        draws = piece(draws, self.processes.part(train.batch_size))
        size = len(batch.images) // train.micro_batches
        for start in range(0, len(batch.images), size):
            part = slice(start, start + size)
            yield Piece(piece(batch, part), piece(draws, part))

    def step(self, pieces: Iterable[Piece], index: int) -> Step:
        """Take optimiser step `index` on its micro-batches, which are on the device one at a time.

        Nothing here waits for the device.
        """
        train = self.config.train
        lr = lr_at(index / self.steps_per_epoch, peak_lr(train.base_lr, train.batch_size), train.warmup, train.epochs)
        set_rates(self.optimizer, lr)
        losses: dict[str, Tensor] = {}
        for number, micro_batch in enumerate(pieces, 1):
            with self.processes.exchanging(self.parallel, now=number == train.micro_batches):
                found = self._forward(micro_batch)
                self.scaler.scale(found["loss"] / train.micro_batches).backward()
            for name, value in found.items():
                losses[name] = losses.get(name, 0) + value.detach() / train.micro_batches
        losses = {name: self.processes.mean(value) for name, value in losses.items()}
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.pretext, train.clip_norm)
        # fp16 skips steps whose gradients overflow; elsewhere a number that is not finite is the end of the run.
        finite = losses["loss"].isfinite() & (norm.isfinite() | self.scaler.is_enabled())
        self.bad_step = torch.where((self.bad_step < 0) & ~finite, index, self.bad_step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=not self.replayed)
        tracked = self.pretext.after_step(index + 1, self.total_steps, losses)
        self.position.step = index + 1
        return Step(tracked, norm, lr)

    def _forward(self, micro_batch: Piece) -> dict[str, Tensor]:
        if self.replayed:
            torch.compiler.cudagraph_mark_step_begin()  # the losses of the pass before have been read
        with mixed(self.config.train.precision, self.device):
            found: dict[str, Tensor] = self.parallel(*micro_batch)
        return found

    def _settle_buckets(self) -> None:
        """Pass backwards once: DDP then fixes the order in which it sums, which would else differ in a resumed run."""
        data, train = self.config.data, self.config.train
        count = train.batch_size // (self.processes.count * train.micro_batches)
        black, first = torch.zeros(count, data.channels, *data.stored, dtype=torch.uint8), torch.zeros(count).long()
        micro_batch = Piece(Batch(black, first, first), self.pretext.draw(count, generator(0, "settle")))
        self._forward(on_device(micro_batch, self.device))["loss"].backward()
        self.optimizer.zero_grad(set_to_none=not self.replayed)

    def state(self) -> dict[str, Any]:
        """Return all that resuming needs, as tensors and plain values."""
        return {
            "config": self.config.model_dump(mode="json"),
            "data_digest": self.data.digest,
            "pretext": self.pretext.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.position.step,
            "seconds": self.position.seconds,
            "processes": self.processes.count,
            "random": checkpoints.random_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned, with its number of threads only if the config asks for the same bits."""
        self.pretext.load_state_dict(state["pretext"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.position = Position(state["step"], state["seconds"])
        same_processes = state.setdefault("processes", 1) == self.processes.count
        if self.config.train.deterministic and same_processes:  # with others the bits differ anyway
            torch.set_num_threads(state["random"]["threads"])
        checkpoints.restore_random_state(state["random"])


def check_finite(bad_step: int) -> None:
    """Raise `SettingsError` if a step since the start was not finite; nothing that follows it has been saved."""
    if bad_step >= 0:
        raise SettingsError(f"loss or gradient is not finite at step {bad_step}; the last checkpoint is sound")


def gradient_norm(module: nn.Module, clip_norm: float | None) -> Tensor:
    """Return the norm of all gradients together, and shorten them to `clip_norm` if there is one.

    Without one the gradients are read, not written: PyTorch's `clip_grad_norm_` would multiply them by 1.
    """
    trained = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
    if clip_norm:
        nn.utils.clip_grads_with_norm_(trained, clip_norm, norm)
    return norm


def steps_per_epoch(config: Config, data: ImageData) -> int:
    """Return the optimiser steps of an epoch, a last incomplete batch left out; `ImpossibleSettings` if there
    is none."""
    images, batch = len(data.train.labels), config.train.batch_size
    if images < batch:
        raise ImpossibleSettings(f"train.batch_size={batch}: expected at most {images}, the number of training images")
    return images // batch


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into decayed and not: biases and norms (vectors) are not, matrices and tokens are."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
