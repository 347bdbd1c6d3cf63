import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import holm, mean_interval, rank_agreement, welch

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_the_interval_covers_the_true_mean_in_19_of_20_samples() -> None:
    samples = np.random.default_rng(0).normal(50, 3, size=(4000, 3))
    covered = [low <= 50 <= high for _, low, high in map(mean_interval, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)


def test_a_single_value_has_no_interval() -> None:
    mean, low, high = mean_interval([3.0])
    assert mean == 3.0
    assert math.isnan(low)
    assert math.isnan(high)


def test_equal_values_have_no_interval() -> None:
    mean, low, high = mean_interval([60.0, 60.0])
    assert mean == 60.0
    assert math.isnan(low)
    assert math.isnan(high)


def test_welch_equals_its_formula() -> None:
    a, b = [5.0, 6.0, 9.0], [1.0, 2.0]
    error = math.sqrt(np.var(a, ddof=1) / 3 + np.var(b, ddof=1) / 2)
    freedom = error**4 / ((np.var(a, ddof=1) / 3) ** 2 / 2 + (np.var(b, ddof=1) / 2) ** 2 / 1)
    difference, p = welch(a, b)
    assert difference == pytest.approx(np.mean(a) - np.mean(b))
    assert p == pytest.approx(2 * stats.t.sf(abs(difference / error), freedom))


@pytest.mark.parametrize(("a", "b"), [([1.0], [2.0, 3.0]), ([1.0, 2.0], [3.0]), ([1.0, 1.0], [2.0, 2.0])])
def test_there_is_no_test_without_a_spread(a: list[float], b: list[float]) -> None:
    assert math.isnan(welch(a, b)[1])


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])


@given(SHARES)
def test_holm_lies_between_no_correction_and_bonferroni(p: list[float]) -> None:
    for raw, adjusted in zip(p, holm(p), strict=True):
        assert raw <= adjusted <= min(1.0, len(p) * raw) + 1e-12


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12, unique=True))
def test_holm_keeps_the_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(adjusted[i] <= adjusted[j] for i in range(len(p)) for j in range(len(p)) if p[i] < p[j])


def test_rank_agreement_is_of_ranks_only() -> None:
    rho, low, high = rank_agreement([1, 2, 3, 5, 4], [10, 20, 30, 40, 50])
    assert rho == pytest.approx(0.9)
    assert -1 < low < rho < high < 1


@pytest.mark.parametrize("measured", [[1.0, 2.0], [1.0, 1.0, 1.0]])
def test_rank_agreement_of_too_little_is_not_a_number(measured: list[float]) -> None:
    assert math.isnan(rank_agreement(measured, list(range(len(measured))))[0])
