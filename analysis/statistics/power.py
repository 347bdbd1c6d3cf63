"""What a study could have told: the smallest difference it would find, and the seeds that a smaller one needs."""

import bisect
from collections.abc import Callable

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from analysis.statistics.additive_model import AdditiveModel
from analysis.statistics.intervals import ALPHA, NAN
from analysis.statistics.multivariate_t import critical_value, spread_rule

POWER = 0.8
"""How often a difference of the smallest size would be found."""

MOST_SEEDS = 1000


def smallest_difference(model: AdditiveModel, reference: str) -> float:
    """Return the true difference from `reference` that the study would find with probability `POWER`.

    In the unit of the results; of the cell with the least runs. NaN where there is no test.
    """
    found = [each for each in model.against(reference).values() if not np.isnan(each.p)]
    if not found:
        return NAN
    widest = max(each.high - each.low for each in found) / 2
    others = [{cell: 1.0, reference: -1.0} for cell in model.cells if cell != reference]
    critical = critical_value(model.correlation(others), model.freedom, ALPHA)
    return widest / critical * _noncentrality(critical, model.freedom)


def seeds_needed(difference: float, deviation: float, cells: int) -> int | None:
    """Return the seeds per cell with which a study of `cells` would find `difference` with probability `POWER`.

    `deviation` is the noise of a run within its seed, in the same unit. None if it takes more than `MOST_SEEDS`.
    """
    return _fewest(lambda seeds: smallest_of(seeds, deviation, cells) <= difference)


def seeds_for(precision: float, deviation: float, cells: int) -> int | None:
    """Return the seeds per cell with which `half_width` is at most `precision`; None if more than `MOST_SEEDS`."""
    return _fewest(lambda seeds: half_width(seeds, deviation, cells) <= precision)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """Return the fewest seeds that are enough, given that more are so too."""
    found = bisect.bisect_left(range(2, MOST_SEEDS + 1), True, key=enough)
    return found + 2 if found + 2 <= MOST_SEEDS else None


def half_width(seeds: int, deviation: float, cells: int) -> float:
    """Return half the length of the simultaneous intervals of a study of `cells`, all with the same `seeds` seeds."""
    return _critical(seeds, cells) * deviation * float(np.sqrt(2 / seeds))


def smallest_of(seeds: int, deviation: float, cells: int) -> float:
    """Return the true difference that a study of `cells` with the same `seeds` each finds with probability `POWER`."""
    critical = _critical(seeds, cells)
    freedom = (cells - 1) * (seeds - 1)
    return half_width(seeds, deviation, cells) / critical * _noncentrality(critical, freedom)


def _critical(seeds: int, cells: int) -> float:
    """Return Dunnett's critical value of a study of `cells`, all with the same seeds: correlations of a half."""
    return critical_value(0.5 + 0.5 * np.eye(cells - 1), (cells - 1) * (seeds - 1), ALPHA)


def _noncentrality(critical: float, freedom: int) -> float:
    """Return the difference in standard errors at which |T| exceeds `critical` with probability `POWER`."""

    spread, weights = spread_rule(freedom)

    def missed(shift: float) -> float:
        found = stats.norm.sf(critical * spread - shift) + stats.norm.cdf(-critical * spread - shift)
        return float(found @ weights) - POWER

    return float(brentq(missed, 0, critical + 20))
