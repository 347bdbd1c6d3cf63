"""A study's cells against one of them: by seeds as blocks, or where that model does not fit, by less assuming tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np

from analysis.statistics.additive_model import AdditiveModel, doubts, fit
from analysis.statistics.intervals import ALPHA, NAN, Contrast, contrast, holm

Test = Literal["blocks", "paired", "welch"]
TESTS: tuple[Test, ...] = get_args(Test)
"""`blocks`: the additive model with Dunnett's correction. `paired`: t tests of the differences within seeds, each with
a spread of its own. `welch`: as if no seeds were shared. The last two have Holm's correction."""


@dataclass(frozen=True)
class Comparisons:
    """Differences from `reference` by cell, in the unit of the results, all corrected together; how, and why so."""

    reference: str
    test: Test
    differences: Mapping[str, Contrast]
    model: AdditiveModel
    remarks: tuple[str, ...]


def compare(
    values: Sequence[float], cells: Sequence[str], seeds: Sequence[int], reference: str, test: Test | None = None
) -> Comparisons:
    """Compare every cell with `reference`, given one result per run with its cell and seed.

    Without a `test` asked for it is `blocks`, unless the residuals speak against the additive model: then `paired`.
    Intervals hold together with 95 %. A cell that a test cannot judge (one seed, no seed in common) has NaN.
    """
    model = fit(values, cells, seeds)
    found = doubts(model)
    chosen = test or fitting(model)
    remarks = [each for each in (found.spread, found.interaction) if each]
    if remarks and chosen == "blocks":
        remarks.append("so the intervals of the additive model cannot be trusted; see --test paired")
    if found.outlier:
        remarks.append(found.outlier)
    if chosen == "blocks":
        return Comparisons(reference, chosen, model.against(reference), model, tuple(remarks))
    pairs = [(cell, reference) for cell in model.cells if cell != reference]
    found_of = _one_by_one(_by_cell_and_seed(values, cells, seeds), pairs, chosen)
    differences = {cell: each for (cell, _), each in found_of.items()}
    return Comparisons(reference, chosen, differences, model, tuple(remarks))


def compare_pairs(
    values: Sequence[float], cells: Sequence[str], seeds: Sequence[int], test: Test | None = None
) -> tuple[dict[tuple[str, str], Contrast], Test]:
    """Compare all pairs of cells, first minus second, and return by which test: asked for or chosen as in `compare`.

    Intervals of all pairs hold together with 95 %: Tukey and Kramer's for `blocks`, else Bonferroni's, p-values Holm's.
    """
    model = fit(values, cells, seeds)
    chosen = test or fitting(model)
    if chosen == "blocks":
        return model.all_pairs(), chosen
    return _one_by_one(_by_cell_and_seed(values, cells, seeds), [*combinations(model.cells, 2)], chosen), chosen


def fitting(model: AdditiveModel) -> Test:
    """Return the test that is taken where none is asked for: `paired` where the residuals speak against the model."""
    return "paired" if doubts(model).serious else "blocks"


def _one_by_one(
    runs: Mapping[str, Mapping[int, float]], pairs: Sequence[tuple[str, str]], test: Test
) -> dict[tuple[str, str], Contrast]:
    """Return each pair's difference, first minus second, with Holm's p-value and an interval at Bonferroni's level."""
    level = 1 - ALPHA / max(1, len(pairs))
    single = [_pairwise(runs[first], runs[second], test, level) for first, second in pairs]
    corrected = holm([each.p for each in single])
    return {pair: each._replace(p=p) for pair, each, p in zip(pairs, single, corrected, strict=True)}


def _pairwise(runs: Mapping[int, float], others: Mapping[int, float], test: Test, level: float) -> Contrast:
    """Return the difference of two cells' results by seed, with its uncorrected p-value and an interval at `level`."""
    if test == "welch":
        return contrast([[*runs.values()], [*others.values()]], [1, -1], level)
    shared = sorted(runs.keys() & others.keys())
    if not shared:
        return Contrast(float(np.mean([*runs.values()]) - np.mean([*others.values()])), NAN, NAN, NAN)
    return contrast([[runs[seed] - others[seed] for seed in shared]], [1], level)


def contrast_of(
    values: Sequence[float],
    cells: Sequence[str],
    seeds: Sequence[int],
    weights: Mapping[str, float],
    alpha: float = ALPHA,
    test: Test | None = None,
) -> tuple[Contrast, Test]:
    """Return one weighted sum of cell means with its interval at 1 - `alpha`, and by which test it is judged.

    Without a `test` asked for it is chosen as in `compare`. `blocks`: all runs given tell of the noise, those of cells
    without a weight too. `paired`: the weighted sums within the seeds that have all cells are a sample of their own;
    without such a seed there is no test if it was asked for, else the additive model's. `welch`: independent groups.
    """
    model = fit(values, cells, seeds)
    chosen = test or fitting(model)
    if chosen == "blocks":
        return model.contrasts([weights], alpha)[0], chosen
    runs = _by_cell_and_seed(values, cells, seeds)
    if chosen == "welch":
        return contrast([[*runs[cell].values()] for cell in weights], [*weights.values()], 1 - alpha), chosen
    shared = set.intersection(*(set(runs[cell]) for cell in weights))
    sums = [sum(weight * runs[cell][seed] for cell, weight in weights.items()) for seed in sorted(shared)]
    if sums:
        return contrast([sums], [1], 1 - alpha), chosen
    found = model.contrasts([weights], alpha)[0]
    return Contrast(found.effect, NAN, NAN, NAN) if test else found, chosen


def _by_cell_and_seed(
    values: Sequence[float], cells: Sequence[str], seeds: Sequence[int]
) -> dict[str, dict[int, float]]:
    runs: dict[str, dict[int, float]] = {}
    for value, cell, seed in zip(values, cells, seeds, strict=True):
        runs.setdefault(cell, {})[seed] = value
    return runs
