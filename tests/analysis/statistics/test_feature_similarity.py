import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics.feature_similarity import similarities

SEEDS = st.integers(0, 2**32 - 1)


def hsic(first: np.ndarray, second: np.ndarray) -> float:
    """Song et al. (2012), equation 5, as it stands there."""
    n = len(first)
    one = first @ first.T
    other = second @ second.T
    for index in range(n):
        one[index, index] = other[index, index] = 0.0
    ones = np.ones(n)
    trace = np.trace(one @ other)
    sums = (ones @ one @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return float((trace + sums - 2 / (n - 2) * (ones @ one @ other @ ones)) / (n * (n - 3)))


def cka(first: np.ndarray, second: np.ndarray) -> float:
    return hsic(first, second) / np.sqrt(hsic(first, first) * hsic(second, second))


def features(seed: int, count: int = 20, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width))


def test_it_is_the_plain_formula_for_features_of_different_widths() -> None:
    first = features(0)
    made = [first, np.hstack([first[:, :3], features(1, width=4)]), features(2, width=30) + 7]
    expected = [[cka(one, other) for other in made] for one in made]
    np.testing.assert_allclose(similarities(made), expected, atol=1e-12)
    assert 0.2 < expected[0][1] < 0.9


@given(SEEDS, st.floats(0.01, 100.0), st.floats(-10.0, 10.0))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_rotation_scale_and_shift_change_nothing(seed: int, scale: float, shift: float) -> None:
    first, second = features(seed), features(seed + 1, width=8)
    turned = scale * first @ np.linalg.qr(features(seed + 2, 5))[0] + shift
    found = similarities([first, turned, second])
    assert found[0, 1] == pytest.approx(1, abs=1e-9)
    assert found[0, 2] == pytest.approx(found[1, 2], abs=1e-9)


@given(SEEDS)
@settings(deadline=None, derandomize=True, max_examples=25)
def test_it_is_symmetric_within_one_and_one_for_the_same(seed: int) -> None:
    found = similarities([features(seed + number, width=3 + number) for number in range(3)])
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 1)
    assert np.abs(found).max() <= 1


def test_the_order_of_the_images_says_nothing_if_it_is_the_same_for_both() -> None:
    first, order = features(0), np.random.default_rng(1).permutation(20)
    second = first[:, :2] + features(1, width=2)
    before, after = similarities([first, second])[0, 1], similarities([first[order], second[order]])[0, 1]
    assert before == pytest.approx(after)
    assert abs(similarities([first, second[order]])[0, 1]) < before / 2


def test_stretching_one_direction_changes_it() -> None:
    first = features(0)
    assert similarities([first, first * [10, 1, 1, 1, 1]])[0, 1] < 0.9


def test_independent_features_have_none_on_average_however_wide_they_are() -> None:
    pairs = [similarities([features(seed, 50, 200), features(seed + 1000, 50, 200)])[0, 1] for seed in range(40)]
    assert abs(np.mean(pairs)) < 0.02
    assert min(pairs) < 0 < max(pairs)


def test_a_collapsed_encoder_has_no_similarity() -> None:
    found = similarities([features(0), np.full((20, 4), 3.7, np.float32), features(1)])
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]][:, [0, 2]]).all()


@pytest.mark.parametrize("counts", [(3, 3), (20, 19)])
def test_too_few_images_or_different_ones_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"the same 4 images or more; found {counts[0]}, {counts[1]}"):
        similarities([features(0, count) for count in counts])
