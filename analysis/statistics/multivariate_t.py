"""The largest of several correlated t statistics: what corrects a table's comparisons for their number.

Comparisons with one default share its runs, so their statistics go together; Bonferroni and Holm, which know nothing
of it, give away power. The probabilities here are those of the multivariate t distribution with the design's own
correlations (Dunnett, 1955; Hothorn, Bretz and Westfall, 2008).
"""

from functools import lru_cache

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy import stats
from scipy.optimize import brentq

NODES = 48
"""Points of each Gauss-Legendre rule: p-values are right to 1e-4, at correlations of 0.5 (equal seeds) to 1e-7."""

SEED = 0
"""Of the quasi-random points, so that equal results give equal p-values."""


def p_of_largest(t: float, correlation: np.ndarray, freedom: float) -> float:
    """Return P(max |T_i| >= t) under `correlation` (k, k) and `freedom` degrees of freedom.

    Exact by quadrature where the correlations are products b_i b_j, as in every balanced design and without blocks;
    else by quasi-random integration, good to about 1e-4. Raises `numpy.linalg.LinAlgError` for statistics of which some
    follow from the others, where SciPy's integral is wrong.
    """
    if len(correlation) == 1:
        return float(2 * stats.t.sf(t, freedom))
    loadings = one_factor(correlation)
    if loadings is not None:
        return _by_quadrature(t, loadings, freedom)
    limits = np.full(len(correlation), t)
    inside = stats.multivariate_t(shape=correlation, df=freedom).cdf(
        limits, lower_limit=-limits, random_state=np.random.default_rng(SEED)
    )
    return float(np.clip(1 - inside, 0, 1))


def critical_value(correlation: np.ndarray, freedom: float, alpha: float) -> float:
    """Return the value that max |T_i| exceeds with probability `alpha`."""
    return _critical_value(tuple(map(tuple, correlation.round(12).tolist())), freedom, alpha)


@lru_cache
def _critical_value(rows: tuple[tuple[float, ...], ...], freedom: float, alpha: float) -> float:
    correlation = np.array(rows)
    upper = float(stats.t.isf(alpha / (2 * len(correlation)), freedom))  # Bonferroni's is never below it
    lower = float(stats.t.isf(alpha / 2, freedom))
    if len(correlation) == 1:
        return lower
    return float(brentq(lambda t: p_of_largest(t, correlation, freedom) - alpha, lower * 0.99, upper * 1.01, xtol=1e-6))


def one_factor(correlation: np.ndarray) -> np.ndarray | None:
    """Return b (k,) with correlation_ij = b_i b_j off the diagonal, or None where there is none in [-1, 1]."""
    k = len(correlation)
    if k == 2:
        rho = correlation[0, 1]
        return np.array([np.sqrt(abs(rho)), np.sign(rho) * np.sqrt(abs(rho))])
    off = correlation - np.diag(np.diag(correlation))
    first = np.sqrt(abs(off[0, 1] * off[0, 2] / off[1, 2])) if off[1, 2] else 0.0
    if first == 0:
        return np.zeros(k) if np.allclose(off, 0) else None
    loadings = np.array([first, *(off[0, 1:] / first)])
    products = np.outer(loadings, loadings) - np.diag(loadings**2)
    return loadings if np.allclose(products, off, atol=1e-9) and abs(loadings).max() <= 1 else None


def _by_quadrature(t: float, loadings: np.ndarray, freedom: float) -> float:
    """T_i = (b_i Z + sqrt(1 - b_i^2) E_i) / S: given Z and S the E_i are independent, which leaves two integrals."""
    z, z_weights = _rule(-8.5, 8.5)
    s, s_weights = spread_rule(freedom)
    spread = np.sqrt(np.clip(1 - loadings**2, 1e-12, None))
    limits = t * s[:, None, None]
    shift = (loadings * z[:, None])[None]
    inside = stats.norm.cdf((limits - shift) / spread) - stats.norm.cdf((-limits - shift) / spread)
    given_s = (inside.prod(axis=2) * stats.norm.pdf(z) * z_weights).sum(axis=1)
    return float(np.clip(1 - (given_s @ s_weights), 0, 1))


@lru_cache
def spread_rule(freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Return points and weights that integrate over the estimated deviation, in units of the true one."""
    low, high = stats.chi2.ppf([1e-12, 1 - 1e-12], freedom) / freedom
    points, weights = _rule(float(np.sqrt(low)), float(np.sqrt(high)))
    return points, weights * stats.chi2.pdf(freedom * points**2, freedom) * 2 * freedom * points


@lru_cache
def _rule(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    points, weights = leggauss(NODES)
    return low + (points + 1) * (high - low) / 2, weights * (high - low) / 2
