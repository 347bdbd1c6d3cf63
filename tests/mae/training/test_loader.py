import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from queue import Queue

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mae.config.resolve import build
from mae.data.dataset import ImageData, Split
from mae.errors import RunError
from mae.runtime.distributed import ALONE, Processes
from mae.runtime.rng import generator
from mae.training.loader import ahead, batches, micro_batches
from mae.training.step import Trainer
from tests.conftest import TINY

CPU = torch.device("cpu")


class Asked:
    """Images that remember which ones they were asked for."""

    def __init__(self) -> None:
        self.indexes: list[list[int]] = []

    def batches(self, indexes: Sequence[Tensor]) -> Iterator[Tensor]:
        for chosen in indexes:
            self.indexes.append(chosen.tolist())
            yield torch.zeros(len(chosen), 1, 8, 8, dtype=torch.uint8)


def asked(
    digits: ImageData, epoch: int, first: int = 0, seed: int = 0, processes: Processes = ALONE
) -> list[list[int]]:
    """Return the images that each batch of an epoch asks for, from number `first` on."""
    work, images = Trainer(build({**TINY, "train.seed": seed}), digits, CPU), Asked()
    work.processes, work.data = processes, replace(digits, train=Split(images, digits.train.labels))
    assert len(list(batches(work, epoch, first))) == len(images.indexes)
    return images.indexes


def test_an_epoch_takes_each_image_once_at_most_in_an_order_of_its_own(digits: ImageData) -> None:
    found = asked(digits, 1)
    assert [len(batch) for batch in found] == [256] * 5
    assert len({index for batch in found for index in batch}) == 5 * 256
    assert asked(digits, 1) == found
    assert found != asked(digits, 0)
    assert found != asked(digits, 1, seed=1)
    assert asked(digits, 1, first=3) == found[3:]


def test_the_order_of_images_follows_from_seed_and_epoch_alone(digits: ImageData) -> None:
    expected = torch.randperm(1437, generator=generator(3, "order", 1))[: 5 * 256]
    assert torch.tensor(asked(digits, 1, seed=3)).flatten().tolist() == expected.tolist()


def test_each_process_takes_its_share_of_every_batch(digits: ImageData) -> None:
    whole = asked(digits, 0)
    for rank in range(2):
        share = slice(128 * rank, 128 * (rank + 1))
        assert asked(digits, 0, processes=Processes(rank, 2)) == [batch[share] for batch in whole]


def test_a_training_has_the_micro_batches_of_every_step_that_is_left_with_the_draws_of_that_step(
    digits: ImageData,
) -> None:
    work = Trainer(build({**TINY, "train.micro_batches": 2}), digits, CPU)
    work.position.step = 8  # of 10, 5 per epoch
    found = list(micro_batches(work))
    expected = [
        piece
        for step, batch in zip((8, 9), batches(work, 1, first=3), strict=True)
        for piece in work.pieces(batch, step)
    ]
    assert [len(piece.batch.images) for piece in found] == [128] * 4
    for one, other in zip(found, expected, strict=True):
        assert all(a is b or a.equal(b) for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True))


def test_what_is_next_is_made_before_it_is_asked_for() -> None:
    made: Queue[int] = Queue()

    def items() -> Iterator[int]:
        for number in range(5):
            made.put(number)
            yield number

    with closing(ahead(items(), 2)) as numbers:
        assert next(numbers) == 0
        assert [made.get(timeout=10) for _ in range(3)] == [0, 1, 2]
        assert list(numbers) == [1, 2, 3, 4]


def test_what_goes_wrong_ahead_is_raised_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RunError("a disk is gone")

    numbers = ahead(items(), 2)
    assert next(numbers) == 1
    with pytest.raises(RunError, match="a disk is gone"):
        next(numbers)


def test_no_thread_is_left_where_a_training_ends_early() -> None:
    before = set(threading.enumerate())
    numbers = ahead(itertools.count(), 2)
    next(numbers)
    assert set(threading.enumerate()) > before
    numbers.close()
    assert set(threading.enumerate()) == before
