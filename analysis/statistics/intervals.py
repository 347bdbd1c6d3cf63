"""Statistics of an ablation: intervals over seeds, differences from the default, agreement of rankings.

A difference counts only if it survives Holm's correction over all cells of its table at `ALPHA`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

ALPHA = 0.05
NAN = float("nan")


class Contrast(NamedTuple):
    """A weighted sum of means, the ends of its interval, and the p-value of its being 0; NaN where there is no test."""

    effect: float
    low: float
    high: float
    p: float

    def reversed(self) -> "Contrast":
        """Return the same difference the other way round."""
        return Contrast(-self.effect, -self.high, -self.low, self.p)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % Student-t interval (mean, low, high).

    low and high are NaN for a single value, and for values that are all equal: they tell of no noise, not of none.
    """
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2 or np.ptp(sample) == 0:
        return float(sample.mean()), NAN, NAN
    half = stats.t.ppf(1 - ALPHA / 2, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample))
    return float(sample.mean()), float(sample.mean() - half), float(sample.mean() + half)


def welch(values: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """Return the difference of means and Welch's two-sided p-value, NaN where a side has fewer than two values."""
    result = contrast([values, reference], [1, -1])
    return result.effect, result.p


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given; NaN is no test and stays NaN."""
    p = np.asarray(p_values, dtype=float)
    order = [index for index in np.argsort(p) if not np.isnan(p[index])]
    adjusted, largest = np.full(len(p), NAN), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted.tolist()


def rank_agreement(measured: Sequence[float], published: Sequence[float]) -> tuple[float, float, float]:
    """Return Spearman's rank correlation and its 95 % interval (Bonett and Wright, 2000): (rho, low, high).

    NaN where it is not defined: fewer than three pairs, or one side constant; no interval below four pairs.
    """
    if len(measured) < 3 or np.ptp(measured) == 0 or np.ptp(published) == 0:
        return NAN, NAN, NAN
    rho = float(stats.spearmanr(measured, published).statistic)
    if len(measured) < 4 or abs(rho) > 1 - 1e-12:
        return rho, NAN, NAN
    half = stats.norm.ppf(1 - ALPHA / 2) * np.sqrt((1 + rho**2 / 2) / (len(measured) - 3))
    return rho, float(np.tanh(np.arctanh(rho) - half)), float(np.tanh(np.arctanh(rho) + half))


def contrast(groups: Sequence[Sequence[float]], weights: Sequence[float], level: float = 1 - ALPHA) -> Contrast:
    """Return the weighted sum of group means with its interval and two-sided p-value of being 0.

    Variances may differ: Welch's test is the case of two groups weighing 1 and -1 (Welch-Satterthwaite degrees of
    freedom). Interval and p are NaN where a group has fewer than two values, or no group has any spread.
    """
    samples = [np.asarray(group, dtype=float) for group in groups]
    weight = np.asarray(weights, dtype=float)
    effect = float(weight @ [sample.mean() for sample in samples])
    if min(map(len, samples)) < 2 or all(np.ptp(sample) == 0 for sample in samples):
        return Contrast(effect, NAN, NAN, NAN)
    sizes = np.array([len(sample) for sample in samples])
    parts = weight**2 * np.array([sample.var(ddof=1) for sample in samples]) / sizes
    error, freedom = np.sqrt(parts.sum()), parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum()
    half = float(stats.t.ppf((1 + level) / 2, freedom) * error)
    return Contrast(effect, effect - half, effect + half, float(2 * stats.t.sf(abs(effect / error), freedom)))


def trend(x: Sequence[float]) -> list[float]:
    """Return the weights that make of means at places `x` the rise of their least-squares line over its length."""
    centred = np.asarray(x, dtype=float) - np.mean(x)
    weights: list[float] = (centred / (centred @ centred) * np.ptp(x)).tolist()
    return weights
