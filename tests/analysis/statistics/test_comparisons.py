import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from analysis.statistics.additive_model import doubts
from analysis.statistics.comparisons import TESTS, Test, compare, compare_pairs, contrast_of
from analysis.statistics.intervals import holm

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
    assert found.effect == pytest.approx(np.mean(values()[4:8]) - np.mean(values()[:4]))
    assert [math.isnan(each) for each in found] == [False, True, True, True]


@pytest.mark.parametrize("test", TESTS)
def test_what_was_compared_with_what_and_by_which_model_is_known(test: Test) -> None:
    made = compare(values(), NAMES, NUMBERS, "b", test)
    assert (made.reference, made.test, list(made.differences)) == ("b", test, ["a", "c"])
    assert made.model.cells == ("a", "b", "c")


def test_pairs_of_sound_runs_are_those_of_the_additive_model() -> None:
    found, test = compare_pairs(values(), NAMES, NUMBERS)
    assert test == "blocks"
    assert found == compare(values(), NAMES, NUMBERS, "a").model.all_pairs()


@pytest.mark.parametrize(
    ("test", "theirs"), [("paired", stats.ttest_rel), ("welch", lambda *two: stats.ttest_ind(*two, equal_var=False))]
)
def test_pairs_by_another_test_have_holms_correction_over_all_of_them(test: Test, theirs: Any) -> None:
    a, b, c = groups(values())
    single = [theirs(*two) for two in ((a, b), (a, c), (b, c))]
    ends = [each.confidence_interval(1 - 0.05 / 3) for each in single]
    found, by = compare_pairs(values(), NAMES, NUMBERS, test)
    assert (by, list(found)) == (test, [("a", "b"), ("a", "c"), ("b", "c")])
    assert [each.p for each in found.values()] == pytest.approx(holm([float(each.pvalue) for each in single]))
    assert [(each.low, each.high) for each in found.values()] == [pytest.approx((two.low, two.high)) for two in ends]


def test_pairs_are_compared_within_seeds_where_the_model_does_not_fit() -> None:
    assert compare_pairs(DOUBTFUL, NAMES, NUMBERS)[1] == "paired"
    assert compare_pairs(DOUBTFUL, NAMES, NUMBERS, "blocks")[1] == "blocks"


def test_an_outlying_run_is_remarked_and_changes_no_test() -> None:
    runs = values()
    runs[5] += 30
    made = compare(runs, NAMES, NUMBERS, "a")
    assert made.test == "blocks"
    assert made.remarks == (doubts(made.model).outlier,)
    assert "run of b, seed 1" in made.remarks[0]


def test_intervals_of_paired_differences_share_out_their_level() -> None:
    """Bonferroni: each of two holds with 97.5 %."""
    runs = values()
    theirs = stats.ttest_rel(runs[4:8], runs[:4]).confidence_interval(0.975)
    found = compare(runs, NAMES, NUMBERS, "a", "paired").differences["b"]
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_a_weighted_sum_of_cells_is_that_of_the_additive_model() -> None:
    frame = pd.DataFrame({"value": values(), "cell": NAMES, "seed": NUMBERS})
    theirs = smf.ols("value ~ C(cell) + C(seed)", frame).fit().t_test("-C(cell)[T.b] + 2 * C(cell)[T.c] = 0")
    low, high = theirs.conf_int(0.1)[0]
    found, test = contrast_of(values(), NAMES, NUMBERS, {"a": -1, "b": -1, "c": 2}, 0.1)
    assert test == "blocks"
    assert found == pytest.approx((float(theirs.effect[0]), low, high, float(theirs.pvalue)))


DOUBTFUL = [value * (1 + seed) for value, seed in zip(values(), NUMBERS, strict=True)]


def test_where_the_model_does_not_fit_a_weighted_sum_is_tested_within_the_seeds_that_have_all_its_cells() -> None:
    runs = DOUBTFUL[1:]  # the first seed has no run of a
    sums = [-a - b + 2 * c for a, b, c in zip(*groups(DOUBTFUL), strict=True)][1:]
    theirs = stats.ttest_1samp(sums, 0)
    low, high = theirs.confidence_interval(0.9)
    found, test = contrast_of(runs, NAMES[1:], NUMBERS[1:], {"a": -1, "b": -1, "c": 2}, 0.1)
    assert test == "paired"
    assert found == pytest.approx((np.mean(sums), low, high, theirs.pvalue))


@pytest.mark.parametrize("runs", [values(), DOUBTFUL])
def test_a_weighted_sum_is_judged_by_the_test_that_is_asked_for(runs: list[float]) -> None:
    a, b, _ = groups(runs)
    theirs = {
        "blocks": compare(runs, NAMES, NUMBERS, "a").model.contrasts([{"a": 1, "b": -1}], 0.1)[0].p,
        "paired": stats.ttest_rel(a, b).pvalue,
        "welch": stats.ttest_ind(a, b, equal_var=False).pvalue,
    }
    for test in TESTS:
        found, by = contrast_of(runs, NAMES, NUMBERS, {"a": 1, "b": -1}, 0.1, test)
        assert (by, found.p) == (test, pytest.approx(theirs[test]))


def test_a_weighted_sum_that_is_asked_for_within_seeds_has_no_test_where_no_seed_has_all_cells() -> None:
    found, test = contrast_of(values()[:8], NAMES[:8], [*range(8)], {"a": 1, "b": -1}, test="paired")
    assert (test, [math.isnan(each) for each in found]) == ("paired", [False, True, True, True])


def test_where_the_model_does_not_fit_and_no_seed_has_all_cells_it_is_all_that_there_is() -> None:
    cells = ["a", "a", "d", "d", *NAMES[4:]]
    weights = {"a": -1.0, "d": 1.0}
    model = compare(DOUBTFUL, cells, NUMBERS, "b").model
    assert doubts(model).serious
    assert contrast_of(DOUBTFUL, cells, NUMBERS, weights, 0.1) == (model.contrasts([weights], 0.1)[0], "paired")
