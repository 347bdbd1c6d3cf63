"""Speeds of trainings and fits, and how one is taken with a clock: made-up clocks will do, PyTorch is not needed."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

PILOT, GROWTH, LONG = 2, 4, 1 / 16
"""Images of the first look at a training, by what they grow, and the share of the time that ends their growth."""

LEAST, BLOCKS = 2, 5
"""Times that are taken at least, and pieces that a long row of them is cut into."""


@dataclass(frozen=True)
class Size:
    """What a training takes on any machine: FLOPs per image of a step, and of its encoder alone; bytes on disk."""

    training: float
    encoder: float
    disk: int


@dataclass(frozen=True)
class Speed:
    """Seconds of one training: per image of a step, per whole image through the encoder alone, and to be built.

    `share` is what it takes of a GPU's memory, 0 to 1; 0 on a CPU.
    """

    step: float
    features: float
    build: float
    share: float = 0.0


@dataclass(frozen=True)
class FitSpeed:
    """Seconds of fitting a linear probe of width D: per evaluation of the loss whatever its size, per FLOP of one, and
    per D ** 3 of finding principal axes."""

    evaluation: float
    flop: float
    axes: float


def seconds_per_image(work: Callable[[int], object], most: int, seconds: float, clock: Callable[[], float]) -> float:
    """Return the seconds per image of `work(n)`, done again and again for about `seconds`, and twice at least.

    `n` grows to `most`, or as far as the time allows. The first time at each `n` warms up and does not count.
    """

    def timed(count: int) -> float:
        began = clock()
        work(count)
        return clock() - began

    end, count = clock() + seconds, min(most, PILOT)
    timed(count)
    times = [timed(count)]
    while count < most and times[-1] < LONG * seconds:
        count = min(most, GROWTH * count)
        timed(count)
        times = [timed(count)]
    while len(times) < LEAST or clock() < end:
        times.append(timed(count))
    return typical(times) / count


def typical(times: Sequence[float]) -> float:
    """Return the median of the means of up to `BLOCKS` blocks of times in a row.

    On busy cores a step waits for its turn now and then: that is part of the truth, so the mean counts. A standstill
    of seconds is not, and spoils one block only.
    """
    blocks = min(BLOCKS, max(1, len(times) // LEAST))
    cuts = [round(number * len(times) / blocks) for number in range(blocks + 1)]
    return statistics.median(statistics.fmean(times[start:end]) for start, end in pairwise(cuts))
