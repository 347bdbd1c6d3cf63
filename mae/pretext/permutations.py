"""Permutations far from each other, of which a jigsaw puzzle's is one (Noroozi & Favaro, 2016, Algorithm 1)."""

from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

PIECES = 9

TOO_FAR = 10**8
"""More than any sum of distances; ten times as much fits 32 bits."""


@cache
def far_permutations(count: int, seed: int, pieces: int = PIECES) -> NDArray[np.uint8]:
    """Return `count` permutations (count, pieces) of 0..pieces - 1, chosen one by one.

    The first is drawn. Each further one has the largest sum of Hamming distances to those chosen, as in the paper; of
    several, the one whose nearest of them is farthest: sums alone are equal for all whenever each piece was at each
    place equally often. Among those left, the order is drawn. It takes a second for 1,000 of 9 pieces.
    """
    every = np.random.default_rng(seed).permutation(np.array(list(permutations(range(pieces))), dtype=np.uint8))
    by_place = np.ascontiguousarray(every.T)  # (pieces, m)
    total = np.zeros(len(every), dtype=np.int32)
    nearest = np.full(len(every), pieces, dtype=np.uint8)
    chosen = [0]
    while len(chosen) < count:
        last = chosen[-1]
        distance = (by_place != by_place[:, last, None]).sum(axis=0, dtype=np.uint8)
        np.minimum(nearest, distance, out=nearest)
        total += distance
        total[last] = -TOO_FAR  # never again
        chosen.append(int((total * np.int32(pieces + 1) + nearest).argmax()))
    return every[chosen]
