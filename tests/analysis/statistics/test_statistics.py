import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.statistics.intervals import contrast, holm, mean_interval, rank_agreement, trend, welch

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_the_interval_covers_the_true_mean_in_19_of_20_samples() -> None:
    samples = np.random.default_rng(0).normal(50, 3, size=(4000, 3))
    covered = [low <= 50 <= high for _, low, high in map(mean_interval, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("values", [[1.0, 4.0], [3.0, 5.0, 5.0, 9.0]])
def test_the_interval_is_scipys(values: list[float]) -> None:
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((np.mean(values), theirs.low, theirs.high))


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


def test_holm_is_statsmodels_for_the_tests_that_there_are() -> None:
    p = [0.2, 0.011, 0.7, 0.02, 0.012]
    adjusted = holm([*p[:2], math.nan, *p[2:], math.nan])
    assert [each for each in adjusted if not math.isnan(each)] == pytest.approx(multipletests(p, method="holm")[1])
    assert [math.isnan(each) for each in adjusted] == [False, False, True, False, False, False, True]


def test_a_corrected_p_is_1_at_most() -> None:
    assert holm([0.6, 0.9]) == [1.0, 1.0]


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


def test_the_interval_of_a_rank_agreement_is_bonetts_and_wrights() -> None:
    """By hand for rho 0.9 of 5 pairs: tanh(1.4722 -+ 1.9600 * sqrt(1.405 / 2))."""
    assert rank_agreement([1, 2, 3, 5, 4], [1, 2, 3, 4, 5]) == pytest.approx((0.9, -0.1689, 0.9961), abs=1e-4)


@pytest.mark.parametrize(
    ("measured", "has_interval"), [([1, 3, 2], False), ([1, 3, 2, 4], True), ([1, 2, 3, 4], False)]
)
def test_four_pairs_have_an_interval_unless_they_agree_in_full(measured: list[float], has_interval: bool) -> None:
    rho, low, high = rank_agreement(measured, sorted(measured))
    assert rho > 0
    assert [math.isnan(low), math.isnan(high)] == [not has_interval] * 2


def test_rankings_of_two_levels_agree_as_far_as_they_can() -> None:
    assert rank_agreement([0, 1, 1], [0, 1, 1])[0] == pytest.approx(1)


def test_there_is_no_agreement_with_what_is_constant() -> None:
    assert [math.isnan(each) for each in rank_agreement([1, 2, 3, 4], [5, 5, 5, 5])] == [True] * 3


@pytest.mark.parametrize(
    ("a", "b", "level"),
    [
        ([5.0, 6.0, 9.0], [1.0, 2.0, 2.5, 7.0], 0.95),
        ([5.0, 6.0, 9.0], [1.0, 2.0, 2.5, 7.0], 0.8),
        ([5.0, 6.0], [1.0, 2.0], 0.95),
    ],
)
def test_a_difference_of_two_groups_is_scipys_welch_test(a: list[float], b: list[float], level: float) -> None:
    theirs = stats.ttest_ind(a, b, equal_var=False)
    low, high = theirs.confidence_interval(level)
    assert contrast([a, b], [1, -1], level) == pytest.approx((np.mean(a) - np.mean(b), low, high, theirs.pvalue))


def test_an_interval_holds_with_95_percent_unless_told_otherwise() -> None:
    groups = [[5.0, 6.0, 9.0], [1.0, 2.0, 2.5]]
    assert contrast(groups, [1, -1]) == contrast(groups, [1, -1], 0.95)


def test_weights_act_on_the_means_and_their_errors() -> None:
    groups = [[5.0, 6.0, 9.0], [1.0, 2.0, 2.5], [4.0, 8.0, 9.0]]
    scaled = [[3 * value for value in groups[0]], [-2 * value for value in groups[1]], groups[2]]
    assert contrast(groups, [3, -2, 1]) == pytest.approx(contrast(scaled, [1, 1, 1]))
    assert contrast(groups, [3, -2, 1]).effect == pytest.approx(3 * 20 / 3 - 2 * 5.5 / 3 + 7)


def test_a_group_without_spread_beside_one_with_some_is_tested() -> None:
    theirs = stats.ttest_1samp([1.0, 2.0, 4.0], 5.0)
    assert contrast([[1.0, 2.0, 4.0], [5.0, 5.0]], [1, -1]).p == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("groups", [[[1.0, 2.0], [3.0]], [[1.0, 1.0], [2.0, 2.0]]])
def test_a_contrast_without_a_test_has_its_effect_alone(groups: list[list[float]]) -> None:
    effect, *others = contrast(groups, [1, -1])
    assert effect == np.mean(groups[0]) - np.mean(groups[1])
    assert [math.isnan(each) for each in others] == [True] * 3


@pytest.mark.parametrize("x", [[0.0, 1.0, 2.0], [0.3, 0.5, 0.9, 0.75]])
def test_a_trend_is_the_rise_of_the_least_squares_line_over_its_length(x: list[float]) -> None:
    means = np.array([10.0, 14.0, 11.0, 17.0])[: len(x)]
    slope, _ = np.polyfit(x, means, 1)
    assert trend(x) @ means == pytest.approx(slope * (max(x) - min(x)))
