"""The Pareto front of several objectives."""

from collections.abc import Sequence

import numpy as np


def pareto_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Say of each point, a row of objectives to be maximised, whether no other is as good in all and better in one."""
    values = np.asarray(points, dtype=float)
    no_worse = (values[:, None] >= values).all(axis=2)
    better = (values[:, None] > values).any(axis=2)
    beaten = (no_worse & better).any(axis=0)
    return [not each for each in beaten.tolist()]
