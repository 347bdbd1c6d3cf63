import math

import numpy as np
import pytest
from scipy import stats

from analysis.comparisons import TESTS, Test, compare
from analysis.statistics import holm

CELLS, SEEDS = ["a", "b", "c"], [0, 1, 2, 3]
NAMES, NUMBERS = [cell for cell in CELLS for _ in SEEDS], SEEDS * 3


def values(draw: int = 0) -> list[float]:
    draws = np.random.default_rng(draw)
    return (np.repeat([50.0, 52.0, 60.0], 4) + np.tile(draws.normal(0, 3, 4), 3) + draws.normal(0, 1, 12)).tolist()


def groups(runs: list[float]) -> list[list[float]]:
    return [runs[:4], runs[4:8], runs[8:]]


def test_sound_runs_are_compared_by_blocks() -> None:
    made = compare(values(), NAMES, NUMBERS, "a")
    assert made.test == "blocks"
    assert made.differences == made.model.against("a")
    assert made.remarks == ()


def test_where_the_model_does_not_fit_pairs_are_compared_and_it_is_said() -> None:
    runs = [value * (1 + 0.3 * seed) for value, seed in zip(values(), NUMBERS, strict=True)]
    made = compare(runs, NAMES, NUMBERS, "a")
    assert made.test == "paired"
    assert "differently" in made.remarks[0]
    assert compare(runs, NAMES, NUMBERS, "a", "blocks").test == "blocks"
    assert "cannot be trusted" in compare(runs, NAMES, NUMBERS, "a", "blocks").remarks[-1]


def test_paired_differences_are_t_tests_within_seeds_with_holms_correction() -> None:
    runs = values()
    reference, *others = groups(runs)
    theirs = holm([float(stats.ttest_rel(other, reference).pvalue) for other in others])
    made = compare(runs, NAMES, NUMBERS, "a", "paired").differences
    assert [made[cell].p for cell in ("b", "c")] == pytest.approx(theirs)


def test_welch_takes_no_notice_of_seeds() -> None:
    runs = values()
    reference, *others = groups(runs)
    theirs = holm([float(stats.ttest_ind(other, reference, equal_var=False).pvalue) for other in others])
    made = compare(runs, NAMES, NUMBERS, "a", "welch").differences
    assert [made[cell].p for cell in ("b", "c")] == pytest.approx(theirs)


def test_intervals_of_several_comparisons_are_wider_than_of_one() -> None:
    for test in TESTS:
        alone = compare(values()[:8], NAMES[:8], NUMBERS[:8], "a", test)
        several = compare(values(), NAMES, NUMBERS, "a", test)
        width = [each.differences["b"].high - each.differences["b"].low for each in (alone, several)]
        assert width[0] < width[1] or test == "blocks"  # there more cells also mean more is known of the noise


@pytest.mark.parametrize("test", TESTS)
def test_one_seed_claims_nothing(test: Test) -> None:
    found = compare([50.0, 60.0], ["a", "b"], [0, 0], "a", test).differences["b"]
    assert found.effect == 10
    assert math.isnan(found.p)


def test_cells_without_a_common_seed_have_no_paired_test() -> None:
    found = compare(values()[:8], NAMES[:8], [*range(8)], "a", "paired").differences["b"]
    assert math.isnan(found.p)
    assert not math.isnan(found.effect)
