"""The Pareto front of several objectives."""

from collections.abc import Sequence

import numpy as np


def pareto_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Say of each point, a row of objectives to be maximised, whether no other is as good in all and better in one."""
    values = np.asarray(points, dtype=float)
    return [not ((values >= point).all(axis=1) & (values > point).any(axis=1)).any() for point in values]
