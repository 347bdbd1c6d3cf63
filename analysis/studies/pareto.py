"""The Pareto front: what no other one beats in both of cost and accuracy."""

import numpy as np
import pandas as pd


def pareto_front(rows: pd.DataFrame, cost: str, gain: str) -> pd.DataFrame:
    """Return the rows for which no other one costs as little or less and gains as much or more, the cheapest first.

    Of rows that are equal in both, the first is kept; one without a cost or a gain is not on the front.
    """
    dearer = rows.dropna(subset=[cost, gain]).sort_values([cost, gain], ascending=[True, False], kind="stable")
    return dearer[dearer[gain] > dearer[gain].cummax().shift(fill_value=-np.inf)]
