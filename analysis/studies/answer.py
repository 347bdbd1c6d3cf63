"""A study's answer in a sentence per probe: what is best, what is not told apart from it, what is worse by how much."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.statistics.additive_model import AdditiveModel, fit
from analysis.statistics.comparisons import Test, fitting
from analysis.statistics.intervals import ALPHA, Contrast
from analysis.statistics.power import POWER, seeds_needed, smallest_difference
from analysis.studies.tables import PROBES, compared_cells
from mae.runtime.progress import duration

WANTED = 0.5
"""Points: the difference whose price in seeds is told."""


def answers(frame: pd.DataFrame, test: Test | None = None) -> list[str]:
    """Return a sentence per probe of one study: the best cell, those not told apart from it, those that are worse.

    The best is chosen by its results, so it is compared as one of all pairs. With one seed, or where cells are compared
    by another `test` than the additive model's, only the best is named.
    """
    return [_answer(str(probe), part, test) for probe, part in _probed(frame) if part["cell"].nunique() > 1]


def _answer(probe: str, done: pd.DataFrame, test: Test | None) -> str:
    model = _model(done)
    means = done.groupby("cell")["top1"].mean()
    best = str(means.idxmax())
    told = f"{PROBES[probe]}: best at {best} ({means[best]:.1f} %)"
    if not model.freedom:
        return f"{told}; with one seed per cell no difference is told from noise"
    if (test or fitting(model)) != "blocks":
        return f"{told}; what is told apart from the default is in the table"
    cells = done.sort_values(["x", "order"])["cell"].drop_duplicates().tolist()  # along the axis, where there is one
    ordered = bool(done["x"].notna().all())
    found = model.from_chosen(best)
    open_ones = [cell for cell in cells if cell == best or not found[cell].p < ALPHA]
    worse = [cell for cell in cells if cell not in open_ones]
    if len(open_ones) > 1:
        told += f"; not told apart: {listed(open_ones, cells, ordered)}"
    if worse:
        told += f"; worse by {_amount([found[cell] for cell in worse])} points: {listed(worse, cells, ordered)}"
    untrained = done.groupby("cell")["untrained"].mean()
    if below := [cell for cell in cells if means[cell] <= untrained[cell]]:
        told += f"; not above its untrained encoder: {listed(below, cells, ordered)}"
    return told


def compared_with_best(frame: pd.DataFrame, test: Test | None = None) -> list[int]:
    """Return by probe how many cells `answers` compares with the best one, where it does."""
    models = [_model(part) for _, part in _probed(frame)]
    return [len(model.cells) - 1 for model in models if model.freedom and (test or fitting(model)) == "blocks"]


def power_lines(frame: pd.DataFrame, test: Test | None = None) -> list[str]:
    """Return a sentence per probe: the smallest difference from the default that the study would have found.

    None where cells are compared by another `test` than the additive model's.
    """
    lines = []
    for probe, compared in compared_cells(frame, test).items():
        if probe not in PROBES or compared.test != "blocks":
            continue
        smallest = smallest_difference(compared.model, compared.reference)
        if pd.isna(smallest):
            continue
        line = (
            f"{PROBES[probe]}: a true difference from the default of {smallest:.1f} points would be found "
            f"{POWER:.0%} of the time"
        )
        lines.append(line + _price(frame[frame["probe"] == probe], compared.model))
    return lines


def _price(part: pd.DataFrame, model: AdditiveModel) -> str:
    needed = seeds_needed(WANTED, model.deviation, len(model.cells))
    if needed is None:
        return ""
    more = needed * len(model.cells) - len(model.residuals)
    if more <= 0:
        return ""
    seconds = more * part["seconds"].mean()
    time = duration(seconds) if seconds < 36_000 else f"{seconds / 3600:.0f} hours"
    return f"; for {WANTED:g} points it takes {needed} seeds, {more} more trainings, about {time} one after another"


def _model(done: pd.DataFrame) -> AdditiveModel:
    return fit(done["top1"].tolist(), done["cell"].tolist(), done["seed"].tolist())


def _probed(frame: pd.DataFrame) -> list[tuple[object, pd.DataFrame]]:
    done = frame[(frame["status"] == "finished") & frame["top1"].notna() & frame["probe"].isin(list(PROBES))]
    return list(done.groupby("probe", sort=False))


def listed(chosen: Sequence[str], cells: Sequence[str], ordered: bool) -> str:
    """Return cells in words; of three and more neighbours on an axis the two ends: `0.1 to 0.3, 0.9`."""
    runs: list[list[str]] = []
    for cell in chosen:
        if ordered and runs and cells.index(cell) == cells.index(runs[-1][-1]) + 1:
            runs[-1].append(cell)
        else:
            runs.append([cell])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _amount(found: Sequence[Contrast]) -> str:
    sizes = np.abs([each.effect for each in found])
    low, high = f"{sizes.min():.1f}", f"{sizes.max():.1f}"
    return low if low == high else f"{low} to {high}"
