import numpy as np
import pytest
from scipy import stats
from scipy.integrate import trapezoid

from analysis.statistics.multivariate_t import critical_value, one_factor, p_of_largest


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


@pytest.mark.parametrize("freedom", [2, 8])
def test_equal_correlations_of_a_half_are_integrated_to_seven_digits(freedom: int) -> None:
    """The definition by trapezoids: |Z_i + Z_0| / sqrt(2) <= t S, of normal Z and S a chi over the root of freedom."""
    common, deviation = np.linspace(-9, 9, 361), np.linspace(0, 5, 601)
    limits = 2.5 * np.sqrt(2) * deviation[:, None]
    inside = (stats.norm.cdf(limits - common) - stats.norm.cdf(-limits - common)) ** 3
    given_deviation = trapezoid(inside * stats.norm.pdf(common), common, axis=1)
    density = stats.chi.pdf(deviation, freedom, scale=1 / np.sqrt(freedom))
    expected = 1 - trapezoid(given_deviation * density, deviation)
    assert p_of_largest(2.5, equal(3), freedom) == pytest.approx(expected, abs=1e-7)


def test_a_statistic_given_twice_counts_once() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert p_of_largest(2.5, np.ones((2, 2)), 8) == pytest.approx(2 * stats.t.sf(2.5, 8), abs=1e-3)


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


def test_a_statistic_that_follows_from_the_others_is_refused_not_given_a_wrong_p() -> None:
    """a - b, b - c and a - c: SciPy 1.17 told to allow it finds 0.47 at 1.5 and 8 degrees of freedom; it is 0.34."""
    with pytest.raises(np.linalg.LinAlgError):
        p_of_largest(1.5, np.array([[1, -0.5, 0.5], [-0.5, 1, 0.5], [0.5, 0.5, 1]]), 8)


@pytest.mark.parametrize("correlation", [equal(4), np.array([[1, 0.5, -0.4], [0.5, 1, 0.3], [-0.4, 0.3, 1]])])
@pytest.mark.parametrize("t", [0.0, 1e-3, 30.0, 1e3])
def test_a_p_is_a_probability(t: float, correlation: np.ndarray) -> None:
    p = p_of_largest(t, correlation, 5)
    assert 0 <= p <= 1
    assert p == pytest.approx(float(t < 1), abs=2e-5)


@pytest.mark.parametrize(
    "loadings", [(0.9, 0.3, -0.5), (-0.2, 0.9, 0.6, 0.4), (1.0, 0.5, 0.5), (0.6, 0.4), (0.6, -0.4), (0, 0, 0, 0)]
)
def test_the_common_factor_of_correlations_is_found(loadings: tuple[float, ...]) -> None:
    correlation = np.outer(loadings, loadings)
    np.fill_diagonal(correlation, 1)
    found = one_factor(correlation)
    assert found is not None
    again = np.outer(found, found)
    np.fill_diagonal(again, 1)
    assert again == pytest.approx(correlation)
    assert abs(found) == pytest.approx(np.abs(loadings)) or len(loadings) == 2  # of two there are many


@pytest.mark.parametrize(
    "others",  # of the pairs 01, 02, 12, and with a fourth 03, 13, 23
    [
        (0.5, 0.4, 0.0),  # with two of three equal to 0 it is of one factor, with one it is not
        (0.5, 0.5, 0.1),  # of one factor, of a loading beyond 1
        (0.0, 0.0, 0.3),
        (0.25, 0.25, 0.25, 0.25, 0.25, 0.7),  # the fourth does not go with the first three
    ],
)
def test_correlations_without_a_common_factor_have_none(others: tuple[float, ...]) -> None:
    correlation = np.eye(4 if len(others) > 3 else 3)
    for (i, j), value in zip([(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)], others, strict=False):
        correlation[i, j] = correlation[j, i] = value
    assert one_factor(correlation) is None
