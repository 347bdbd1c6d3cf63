import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from analysis.statistics.additive_model import fit
from analysis.statistics.power import half_width, seeds_needed, smallest_difference


def model(cells: int = 2, seeds: int = 8, draw: int = 0):  # type: ignore[no-untyped-def]
    draws = np.random.default_rng(draw)
    names = np.repeat(np.arange(cells), seeds).astype(str).tolist()
    return fit(draws.normal(0, 1, cells * seeds).tolist(), names, [*range(seeds)] * cells)


def test_two_cells_are_a_paired_t_test() -> None:
    made = model()
    theirs = TTestPower().solve_power(nobs=8, alpha=0.05, power=0.8)  # in deviations of a difference
    assert smallest_difference(made, "0") == pytest.approx(theirs * made.deviation * math.sqrt(2), rel=1e-3)


def test_a_study_finds_the_smallest_difference_four_times_of_five() -> None:
    made, draws, found = model(4, 3), np.random.default_rng(1), 0
    cells, seeds = np.repeat(np.arange(4), 3).astype(str).tolist(), [0, 1, 2] * 4
    true = np.array([0] * 9 + [smallest_difference(made, "0") / made.deviation] * 3)
    for _ in range(300):
        found += fit((true + draws.normal(0, 1, 12)).tolist(), cells, seeds).against("0")["3"].p < 0.05
    assert found / 300 == pytest.approx(0.8, abs=0.07)


def test_the_seeds_needed_are_the_fewest_that_do() -> None:
    needed = seeds_needed(1.0, 0.7, 5)
    assert needed is not None
    enough, fewer = (model(5, seeds) for seeds in (needed, needed - 1))
    assert smallest_difference(enough, "0") / enough.deviation * 0.7 <= 1.0
    assert smallest_difference(fewer, "0") / fewer.deviation * 0.7 > 1.0


def test_more_noise_needs_more_seeds_and_too_much_is_told() -> None:
    assert seeds_needed(1.0, 0.5, 5) < seeds_needed(1.0, 1.0, 5)  # type: ignore[operator]
    assert seeds_needed(0.001, 5.0, 5) is None


def test_one_seed_tells_no_smallest_difference() -> None:
    assert math.isnan(smallest_difference(model(3, 1), "0"))


def test_the_half_width_is_that_of_the_intervals() -> None:
    made = model(5, 4)
    found = made.against("0")["3"]
    assert half_width(4, made.deviation, 5) == pytest.approx((found.high - found.low) / 2)
