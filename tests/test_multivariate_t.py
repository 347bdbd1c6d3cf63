import numpy as np
import pytest
from scipy import stats

from analysis.multivariate_t import critical_value, one_factor, p_of_largest


def equal(k: int, rho: float = 0.5) -> np.ndarray:
    return rho + (1 - rho) * np.eye(k)


@pytest.mark.parametrize(
    ("comparisons", "freedom", "published"),
    [(2, 5, 3.03), (3, 12, 2.68), (9, 20, 2.95), (5, 10, 2.99), (9, 60, 2.77), (4, 30, 2.58)],
)
def test_critical_values_are_those_of_dunnetts_table(comparisons: int, freedom: int, published: float) -> None:
    assert critical_value(equal(comparisons), freedom, 0.05) == pytest.approx(published, abs=0.0051)


@pytest.mark.parametrize("freedom", [1, 3, 27])
def test_one_statistic_alone_is_students(freedom: int) -> None:
    assert p_of_largest(2.0, np.eye(1), freedom) == pytest.approx(2 * stats.t.sf(2.0, freedom))
    independent = p_of_largest(2.0, np.eye(3), 1e6)
    assert independent == pytest.approx(1 - (1 - 2 * stats.norm.sf(2.0)) ** 3, abs=1e-5)


def test_unequal_correlations_agree_with_simulation() -> None:
    b = np.array([0.9, 0.3, -0.5])
    correlation = np.outer(b, b) + np.diag(1 - b**2)
    draws = np.random.default_rng(0)
    normal = draws.multivariate_normal(np.zeros(3), correlation, 400_000)
    largest = abs(normal / np.sqrt(draws.chisquare(6, (400_000, 1)) / 6)).max(axis=1)
    assert p_of_largest(2.5, correlation, 6) == pytest.approx((largest >= 2.5).mean(), abs=0.002)


def test_correlations_of_no_common_factor_agree_with_simulation_and_are_the_same_each_time() -> None:
    correlation = np.array([[1, 0.5, -0.4], [0.5, 1, 0.3], [-0.4, 0.3, 1]])
    assert one_factor(correlation) is None
    draws = np.random.default_rng(0)
    normal = draws.multivariate_normal(np.zeros(3), correlation, 400_000)
    largest = abs(normal / np.sqrt(draws.chisquare(6, (400_000, 1)) / 6)).max(axis=1)
    p = p_of_largest(2.5, correlation, 6)
    assert p == pytest.approx((largest >= 2.5).mean(), abs=0.002)
    assert p == p_of_largest(2.5, correlation, 6)


def test_the_correction_lies_between_none_and_bonferroni() -> None:
    for k in (2, 5, 9):
        single = 2 * stats.t.sf(2.4, 8)
        assert single < p_of_largest(2.4, equal(k), 8) < k * single


@pytest.mark.parametrize("correlation", [equal(4), np.array([[1, 0.5, -0.4], [0.5, 1, 0.3], [-0.4, 0.3, 1]])])
def test_the_critical_value_is_exceeded_with_the_probability_asked_for(correlation: np.ndarray) -> None:
    assert p_of_largest(critical_value(correlation, 7, 0.1), correlation, 7) == pytest.approx(0.1, abs=2e-4)
