import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.outliers_influence import OLSInfluence

from analysis.statistics.additive_model import DOUBT, doubts, fit

CELLS, SEEDS = ["a", "b", "c"], [0, 1, 2, 3]


def made(
    noise: float = 1.0, seed_effect: float = 3.0, draw: int = 0, cells: list[str] = CELLS, seeds: list[int] = SEEDS
) -> pd.DataFrame:
    """Runs whose cells are 10 points apart."""
    draws = np.random.default_rng(draw)
    of_seed = dict(zip(seeds, draws.normal(0, seed_effect, len(seeds)), strict=True))
    rows = [
        {"cell": cell, "seed": seed, "value": 10.0 * cells.index(cell) + of_seed[seed] + draws.normal(0, noise)}
        for cell, seed in product(cells, seeds)
    ]
    return pd.DataFrame(rows)


def fitted(frame: pd.DataFrame):  # type: ignore[no-untyped-def]
    return fit(frame["value"].tolist(), frame["cell"].tolist(), frame["seed"].tolist())


@pytest.mark.parametrize("missing", [[], [0], [1, 6, 11]])
def test_differences_errors_and_deviation_are_statsmodels(missing: list[int]) -> None:
    frame = made().drop(index=missing)
    ours, theirs = fitted(frame), smf.ols("value ~ C(cell) + C(seed)", frame).fit()
    assert ours.deviation == pytest.approx(math.sqrt(theirs.scale))
    assert ours.freedom == theirs.df_resid
    for cell in ("b", "c"):
        single = ours.contrasts([{cell: 1.0, "a": -1.0}])[0]
        low, high = theirs.conf_int().loc[f"C(cell)[T.{cell}]"]
        assert single == pytest.approx(
            (theirs.params[f"C(cell)[T.{cell}]"], low, high, theirs.pvalues[f"C(cell)[T.{cell}]"])
        )


def test_what_seeds_have_in_common_cancels() -> None:
    frame = made()
    shifted = frame.assign(value=frame["value"] + 100 * frame["seed"])
    before, after = (fitted(each).against("a")["c"] for each in (frame, shifted))
    assert after == pytest.approx(before)


def test_without_shared_seeds_it_is_the_one_way_model_and_dunnetts_test() -> None:
    frame = made(seed_effect=0)
    frame["seed"] = range(len(frame))
    ours = fitted(frame)
    groups = [frame.loc[frame["cell"] == cell, "value"].to_numpy() / 10 for cell in CELLS]
    small = fit(np.concatenate(groups).tolist(), frame["cell"].tolist(), frame["seed"].tolist())
    theirs = stats.dunnett(*[group - [0, 1, 2][i] * 0.95 for i, group in enumerate(groups)][1:], control=groups[0])
    shifted = [group - i * 0.95 for i, group in enumerate(groups)]
    again = fit(np.concatenate(shifted).tolist(), frame["cell"].tolist(), frame["seed"].tolist()).against("a")
    assert not ours.blocks
    assert not small.blocks
    assert [again[cell].p for cell in ("b", "c")] == pytest.approx(list(theirs.pvalue), abs=2e-3)


def test_cells_that_no_seed_leads_to_make_it_the_one_way_model() -> None:
    frame = made()
    frame.loc[frame["cell"] == "c", "seed"] += 10
    assert not fitted(frame).blocks


def test_a_seed_that_only_one_cell_has_says_nothing_about_differences() -> None:
    frame = made()
    more = pd.concat([frame, pd.DataFrame([{"cell": "b", "seed": 9, "value": -500.0}])])
    assert fitted(more).against("a")["b"] == pytest.approx(fitted(frame).against("a")["b"])


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_one_seed_claims_nothing_and_two_do(seeds: list[int]) -> None:
    model = fitted(made(seeds=seeds))
    found = model.against("a")["b"]
    assert model.blocks == (len(seeds) == 2)
    assert math.isnan(found.p) == (len(seeds) == 1)
    assert found.effect == pytest.approx(10, abs=5)


def test_results_without_any_noise_claim_nothing() -> None:
    assert math.isnan(fitted(made(noise=0)).against("a")["b"].p)


def test_an_interval_leaves_out_0_exactly_where_p_is_below_its_level() -> None:
    for draw in range(20):
        frame = made(draw=draw)
        frame["value"] -= 9 * frame["cell"].map(CELLS.index)
        for found in fitted(frame).against("a").values():
            assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_all_pairs_are_tukeys() -> None:
    frame = made(seed_effect=0).assign(seed=range(12))
    frame["value"] -= 9 * frame["cell"].map(CELLS.index)
    theirs = stats.tukey_hsd(*[frame.loc[frame["cell"] == cell, "value"] for cell in CELLS])
    ours = fitted(frame).all_pairs()
    interval = theirs.confidence_interval()
    for (first, other), found in ours.items():
        i, j = CELLS.index(first), CELLS.index(other)
        expected = (theirs.statistic[i, j], interval.low[i, j], interval.high[i, j], theirs.pvalue[i, j])
        assert found == pytest.approx(expected, abs=1e-6)


def test_no_more_than_one_table_in_twenty_shows_a_difference_that_is_not_there() -> None:
    designs = [(2, 2, 0.0), (2, 5, 3.0), (4, 3, 3.0), (6, 2, 0.0), (10, 3, 3.0)]
    draws, wrong, tables = np.random.default_rng(0), 0, 0
    for cells, seeds, spread in designs:
        names, numbers = np.repeat(np.arange(cells), seeds).astype(str).tolist(), [*range(seeds)] * cells
        for _ in range(100):
            deviations = np.repeat(draws.uniform(1, 2, cells), seeds)  # not quite the model's equal ones
            values = draws.normal(0, deviations) + np.tile(draws.normal(0, spread, seeds), cells)
            found = fit(values.tolist(), names, numbers).against("0").values()
            wrong += any(each.low > 0 or each.high < 0 for each in found)
            tables += 1
    assert wrong / tables < 0.05 + 3 * math.sqrt(0.05 * 0.95 / tables)


def test_sound_runs_raise_no_doubt() -> None:
    assert doubts(fitted(made())) == doubts(fitted(made(seeds=[0])))


def test_unequal_spread_is_told() -> None:
    frame = made(noise=0.1, cells=list("abcdefgh"), seeds=list(range(8)))
    frame.loc[frame["cell"] == "b", "value"] += np.random.default_rng(1).normal(0, 2, 8)
    found = doubts(fitted(frame))
    assert "spread" in found.spread
    assert found.serious


def test_seeds_that_act_more_on_better_cells_are_told() -> None:
    frame = made(noise=0.1)
    frame["value"] = frame["value"] * (1 + 0.2 * frame["seed"])
    assert "differently" in doubts(fitted(frame)).interaction


def test_an_outlying_run_is_named() -> None:
    frame = made(noise=0.3, seeds=list(range(5)))
    frame.loc[(frame["cell"] == "b") & (frame["seed"] == 3), "value"] -= 8
    found = doubts(fitted(frame))
    assert "run of b, seed 3 lies -7.7" in found.outlier


def test_the_largest_studentised_residual_is_statsmodels() -> None:
    frame = made(noise=0.3, seeds=list(range(5)))
    frame.loc[7, "value"] -= 2
    theirs = OLSInfluence(smf.ols("value ~ C(cell) + C(seed)", frame).fit()).summary_frame()["student_resid"]
    p = 2 * len(frame) * stats.t.sf(theirs.abs().max(), fitted(frame).freedom - 1)
    assert f"(p {p:.2g})" in doubts(fitted(frame)).outlier


def test_correlations_of_differences_from_one_cell_are_dunnetts_for_unequal_numbers() -> None:
    """Without blocks: sqrt(n_i / (n_i + n_0)) * sqrt(n_j / (n_j + n_0))."""
    numbers = {"a": 2, "b": 4, "c": 7}
    cells = [cell for cell, number in numbers.items() for _ in range(number)]
    model = fit(np.random.default_rng(0).normal(size=13).tolist(), cells, range(13))
    found = model.correlation([{"b": 1.0, "a": -1.0}, {"c": 1.0, "a": -1.0}])
    rho = math.sqrt(4 / 6) * math.sqrt(7 / 9)
    assert found == pytest.approx(np.array([[1, rho], [rho, 1]]))


@pytest.mark.parametrize("missing", [[], [0, 7]])
def test_the_mean_of_a_cell_is_over_all_seeds_though_it_lacks_some(missing: list[int]) -> None:
    frame = made().drop(index=missing)
    theirs = smf.ols("value ~ C(cell) + C(seed)", frame).fit()
    seeds = " + ".join(f"0.25 * C(seed)[T.{seed}]" for seed in SEEDS[1:])
    expected = theirs.t_test(f"Intercept + C(cell)[T.b] + {seeds} = 0")
    low, high = expected.conf_int(0.1)[0]
    found = fitted(frame).contrasts([{"b": 1.0}], alpha=0.1)[0]
    assert found == pytest.approx((float(expected.effect[0]), low, high, float(expected.pvalue)))


def test_no_contrasts_are_none_and_one_after_the_other_is_as_asked_for() -> None:
    model = fitted(made())
    assert model.contrasts([]) == []
    assert [round(each.effect, -1) for each in model.contrasts([{"b": 1, "a": -1}, {"a": 1, "c": -1}])] == [10, -20]


def test_pairs_are_all_of_them_once() -> None:
    assert list(fitted(made()).all_pairs()) == [("a", "b"), ("a", "c"), ("b", "c")]


@pytest.mark.parametrize("frame", [made(seeds=[0]), made(noise=0)])
def test_without_noise_to_tell_of_pairs_have_their_effects_alone(frame: pd.DataFrame) -> None:
    for effect, *others in fitted(frame).all_pairs().values():
        assert round(effect, 6) != 0
        assert [math.isnan(each) for each in others] == [True] * 3


def test_one_degree_of_freedom_is_enough_for_an_interval() -> None:
    found = fitted(made(cells=["a", "b"], seeds=[0, 1])).against("a")["b"]
    assert found.low < found.effect < found.high
    assert math.isnan(fitted(made(seeds=[0])).deviation)


@pytest.mark.parametrize(("runs", "tested"), [(2, "abcdefg"), (3, "abcdefgh")])
def test_doubtful_spread_is_levenes_test_of_the_residuals_of_cells_with_three_runs(runs: int, tested: str) -> None:
    frame = made(noise=0.1, cells=list("abcdefgh"), seeds=list(range(8)))
    frame.loc[frame["cell"] == "b", "value"] += np.random.default_rng(1).normal(0, 2, 8)
    few = frame.drop(index=frame.index[frame["cell"] == "h"][runs:])
    residuals = smf.ols("value ~ C(cell) + C(seed)", few).fit().resid
    groups = [residuals[few["cell"] == cell] for cell in tested]
    p = stats.levene(*groups, center="median").pvalue
    assert doubts(fitted(few)).spread == f"the cells' spread differs (Levene, p {p:.2g})"


def test_two_cells_are_enough_for_a_doubtful_spread() -> None:
    draws = np.random.default_rng(0)
    values = [*draws.normal(0, 0.4, 20), *draws.normal(0, 1, 20)]
    p = stats.levene(values[:20], values[20:], center="median").pvalue
    assert 1e-4 < p < DOUBT
    assert f"p {p:.2g})" in doubts(fit(values, ["a"] * 20 + ["b"] * 20, range(40))).spread


def test_doubts_are_the_same_whatever_the_unit_of_the_results() -> None:
    frame = made(noise=0.1, cells=list("abcdefgh"), seeds=list(range(8)))
    growing = frame.assign(value=frame["value"] * (1 + 0.2 * frame["seed"]))
    scattered = frame.assign(value=frame["value"] + 3 * (frame["cell"] == "b") * (-1.0) ** frame["seed"])
    for each in (growing, scattered):
        percent, share = (doubts(fitted(each.assign(value=each["value"] / unit))) for unit in (1, 1000))
        assert percent.serious
        assert (percent.spread, percent.interaction) == (share.spread, share.interaction)


def test_without_any_effect_of_seeds_they_cannot_act_differently() -> None:
    latin = [1.0, 2.0, 3.0, 2.0, 3.0, 1.0, 3.0, 1.0, 2.0]
    assert doubts(fit(latin, list("aaabbbccc"), [0, 1, 2] * 3)).interaction == ""


@pytest.mark.parametrize("run", range(5))
def test_the_only_run_that_does_not_fit_is_an_outlier(run: int) -> None:
    """Rounding may leave the others a negative sum of squares."""
    frame = made(noise=0, seeds=list(range(5)))
    frame.loc[run, "value"] += 8
    found = doubts(fitted(frame)).outlier
    assert found.startswith(f"the run of a, seed {run} lies +8.0 from what the others let expect (p < 0.0001)")


@pytest.mark.parametrize("missing", [[], [3]])
def test_doubtful_interaction_is_tukeys_test(missing: list[int]) -> None:
    """The same as the test of the squares of the fitted values as one more regressor (Tukey, 1949)."""
    frame = made(noise=0.1).drop(index=missing)
    frame["value"] = frame["value"] * (1 + 0.2 * frame["seed"])
    frame["squares"] = smf.ols("value ~ C(cell) + C(seed)", frame).fit().fittedvalues ** 2
    p = smf.ols("value ~ C(cell) + C(seed) + squares", frame).fit().pvalues["squares"]
    assert f"p {p:.2g})" in doubts(fitted(frame)).interaction


def test_an_outlying_run_of_the_first_seed_is_named_and_no_more_than_named() -> None:
    frame = made(noise=0.3, seeds=[5, 6, 7, 8, 9])
    frame.loc[(frame["cell"] == "c") & (frame["seed"] == 5), "value"] += 8
    found = doubts(fitted(frame))
    assert "run of c, seed 5 lies +" in found.outlier
    assert not found.serious


def test_an_outlying_run_of_the_one_way_model_is_named_by_its_cell() -> None:
    frame = made(noise=0.3, seed_effect=0, seeds=list(range(5))).assign(seed=range(15))
    frame.loc[7, "value"] += 8
    assert "the run of b lies +" in doubts(fitted(frame)).outlier


def test_a_run_that_alone_tells_of_its_seed_is_no_outlier_and_hides_none() -> None:
    frame = made(noise=0.3, seeds=list(range(5)))
    frame.loc[(frame["cell"] == "b") & (frame["seed"] == 3), "value"] -= 8
    alone = pd.DataFrame([{"cell": "a", "seed": -1, "value": -500.0}])
    assert doubts(fitted(pd.concat([alone, frame]))).outlier == doubts(fitted(frame)).outlier


@pytest.mark.parametrize("frame", [made(noise=0), made(cells=["a", "b"], seeds=[0, 1]), made(seeds=[0])])
def test_too_little_to_tell_raises_no_doubt(frame: pd.DataFrame) -> None:
    found = doubts(fitted(frame))
    assert (found.spread, found.interaction, found.outlier, found.serious) == ("", "", "", False)


def test_two_degrees_of_freedom_are_enough_for_a_doubt() -> None:
    frame = made(noise=1e-4, seed_effect=0, cells=["a", "b"], seeds=[0, 1, 2])
    assert doubts(fitted(frame)).outlier == ""
    outlying = frame.assign(value=frame["value"] + 10 * (frame.index == 4))
    assert "seed 1" in doubts(fitted(outlying)).outlier
    growing = frame.assign(value=frame["value"] * (1 + 0.2 * frame["seed"]))
    assert doubts(fitted(growing)).interaction != ""


def test_sound_studies_are_seldom_doubted() -> None:
    """Each doubt has a level of one in a hundred."""
    found = [doubts(fitted(made(draw=draw, cells=list("abcdef"), seeds=list(range(5))))) for draw in range(60)]
    assert sum(bool(each.spread) for each in found) <= 3
    assert sum(bool(each.interaction) for each in found) <= 3
    assert sum(bool(each.outlier) for each in found) <= 3


def test_rounding_of_large_numbers_that_no_seed_changes_is_no_noise() -> None:
    model = fit([123456.7] * 3 + [99999.1] * 3, ["a"] * 3 + ["b"] * 3, [0, 1, 2] * 2)
    assert model.deviation == 0
    assert math.isnan(model.against("a")["b"].p)
