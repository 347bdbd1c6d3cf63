"""The Pareto front: what no other one beats in both of cost and accuracy."""

import numpy as np
import pandas as pd


def pareto_front(rows: pd.DataFrame, cost: str, gain: str) -> pd.DataFrame:
    """Return the rows for which no other one costs as little or less and gains as much or more, the cheapest first.

    Of rows that are equal in both, the first is kept; one without a cost or a gain is not on the front.
    """
    dearer = rows.dropna(subset=[cost, gain]).sort_values([cost, gain], ascending=[True, False], kind="stable")
    return dearer[dearer[gain] > dearer[gain].cummax().shift(fill_value=-np.inf)]


def front_steps(front: pd.DataFrame, cost: str, gain: str) -> list[np.ndarray]:
    """Return the upright and level lines between the rows of a front, (2, 2) each: what `steps-post` draws."""
    points = front[[cost, gain]].to_numpy()
    corners = np.stack([points[1:, 0], points[:-1, 1]], axis=1)
    return [np.stack(ends) for ends in (*zip(points, corners), *zip(corners, points[1:]))]  # noqa: B905
