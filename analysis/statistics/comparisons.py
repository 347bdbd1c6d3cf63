"""A study's cells against one of them: by seeds as blocks, or where that model does not fit, by less assuming tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    runs = _by_cell_and_seed(values, cells, seeds)
    others = [cell for cell in model.cells if cell != reference]
    level = 1 - ALPHA / max(1, len(others))
    single = [_pairwise(runs[cell], runs[reference], chosen, level) for cell in others]
    corrected = holm([each.p for each in single])
    differences = {cell: each._replace(p=p) for cell, each, p in zip(others, single, corrected, strict=True)}
    return Comparisons(reference, chosen, differences, model, tuple(remarks))


def fitting(model: AdditiveModel) -> Test:
    """Return the test that is taken where none is asked for: `paired` where the residuals speak against the model."""
    return "paired" if doubts(model).serious else "blocks"


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
) -> tuple[Contrast, Test]:
    """Return one weighted sum of cell means with its interval at 1 - `alpha`, and by which test it is judged.

    All runs given tell of the noise, those of cells without a weight too. Where the additive model does not fit, the
    weighted sums within the seeds that have all cells are a sample of their own.
    """
    model = fit(values, cells, seeds)
    if fitting(model) == "blocks":
        return model.contrasts([weights], alpha)[0], "blocks"
    runs = _by_cell_and_seed(values, cells, seeds)
    shared = set.intersection(*(set(runs[cell]) for cell in weights))
    sums = [sum(weight * runs[cell][seed] for cell, weight in weights.items()) for seed in sorted(shared)]
    return contrast([sums], [1], 1 - alpha) if sums else model.contrasts([weights], alpha)[0], "paired"


def _by_cell_and_seed(
    values: Sequence[float], cells: Sequence[str], seeds: Sequence[int]
) -> dict[str, dict[int, float]]:
    runs: dict[str, dict[int, float]] = {}
    for value, cell, seed in zip(values, cells, seeds, strict=True):
        runs.setdefault(cell, {})[seed] = value
    return runs
