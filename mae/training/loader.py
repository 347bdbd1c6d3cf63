"""Micro-batches made ready on the device before a step asks for them, so that it never waits for the host.

A thread gathers images, draws random numbers and starts their copies, `AHEAD` micro-batches before they are needed. To
a GPU they go from pinned memory on a stream of the thread's own, beside the kernels of the step.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_leaves

from mae.pretext.base import Batch
from mae.runtime.rng import generator, on_device
from mae.training.step import Piece, Trainer

AHEAD = 2

Item = TypeVar("Item")


def micro_batches(trainer: Trainer) -> Generator[Piece]:
    """Yield those of all steps that are left, in order, on the trainer's device; close it where it is left early."""
    device = trainer.device
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def moved() -> Iterator[tuple[Piece, torch.cuda.Event | None]]:
        for piece in _pieces(trainer, first):
            yield on_device(piece, device), stream.record_event() if stream else None

    first = trainer.position.step
    with closing(ahead(moved(), AHEAD, stream)) as pieces:
        for piece, copied in pieces:
            if copied is not None:
                _receive(piece, copied)
            yield piece


def batches(trainer: Trainer, epoch: int, first: int = 0) -> Iterator[Batch]:
    """Yield of the batches of an epoch, from number `first` on, this process's share.

    The order of images is a function of (seed, epoch).
    """
    size, train = trainer.config.train.batch_size, trainer.data.train
    order = torch.randperm(len(train.labels), generator=generator(trainer.config.train.seed, "order", epoch))
    part = trainer.processes.part(size)
    shares = [order[index * size : (index + 1) * size][part] for index in range(first, trainer.steps_per_epoch)]
    for chosen, images in zip(shares, train.images.batches(shares), strict=True):
        yield Batch(images, chosen, train.labels[chosen])


def _pieces(trainer: Trainer, first: int) -> Iterator[Piece]:
    epoch, skipped = divmod(first, trainer.steps_per_epoch)
    for number in range(epoch, trainer.config.epochs):
        for batch in batches(trainer, number, skipped if number == epoch else 0):
            yield from trainer.pieces(batch, first)
            first += 1


def _receive(piece: Piece, copied: torch.cuda.Event) -> None:
    """Let the step's stream wait for a copy, and its memory for the step."""
    here = torch.cuda.current_stream()
    here.wait_event(copied)
    for tensor in tree_leaves(piece):
        if isinstance(tensor, torch.Tensor):
            tensor.record_stream(here)


def ahead(items: Iterator[Item], count: int, stream: torch.cuda.Stream | None = None) -> Generator[Item]:
    """Yield items in order; a thread, whose GPU work is on `stream`, makes the `count` next ones meanwhile.

    What it raises is raised here, in its turn.
    """
    end: Any = object()
    thread = ThreadPoolExecutor(1, "loader", lambda: torch.cuda.set_stream(stream) if stream else None)
    try:
        waiting = deque(thread.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
