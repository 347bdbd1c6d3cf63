"""A study's answer in a sentence per probe: what is best, and what is better or worse than the default by how much."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.statistics.additive_model import AdditiveModel
from analysis.statistics.comparisons import Comparisons, Test, compare_pairs
from analysis.statistics.intervals import ALPHA, Contrast, mean_interval
from analysis.statistics.power import POWER, seeds_needed, smallest_difference
from analysis.studies.tables import UNTRAINED, compared_cells, with_results
from mae.probing.kinds import PROBES, probe_label
from mae.runtime.progress import duration

WANTED = 0.5
"""Points: the difference whose price in seeds is told."""


def answers(frame: pd.DataFrame, test: Test | None = None) -> list[str]:
    """Return a sentence per probe of one study: the best cell, then which cells are better, worse or not told apart.

    Cells are compared with the default as in the study's table. Where none is the default they are compared with the
    best one, as some of all pairs, since it was chosen by its results.
    """
    compared = compared_cells(frame, test)
    several = [(probe, done) for probe, done in _probed(frame) if done["cell"].nunique() > 1]
    return [_answer(probe, done, compared.get(probe), test) for probe, done in several]


def _answer(probe: str, done: pd.DataFrame, compared: Comparisons | None, test: Test | None) -> str:
    means = done.groupby("cell")["top1"].mean()
    default = compared.reference if compared else ""
    equal = [
        str(cell) for cell in done.drop_duplicates("cell")["cell"] if np.isclose(means[cell], means.max(), rtol=1e-9)
    ]
    best = default if default in equal else equal[0]
    told = f"{probe_label(probe)}: best at {_with_default(equal, default)} ({means[best]:.1f} %)"
    found = compared.differences if compared else _from_best(done, best, test)
    cells = done.sort_values(["x", "order"])["cell"].drop_duplicates().tolist()  # along the axis, where there is one
    ordered = bool(done["x"].notna().all())
    verdicts = _verdicts(found, [cell for cell in cells if cell in found], ordered)
    if not verdicts:
        why = "with one seed per cell" if done["seed"].nunique() == 1 else "with too few runs or equal ones"
        return f"{told}; {why} no difference is told from noise"
    against = "it" if best == default else f"the default, {default}" if default else "it, as some of all pairs"
    trained = default not in done.loc[done["task"] == UNTRAINED, "cell"].tolist()
    gains = _of_gains(done, cells, ordered) if trained else []  # else they are what the verdicts say
    return "; ".join([told, f"against {against}: {verdicts[0]}", *verdicts[1:], *gains])


def _with_default(cells: Sequence[str], default: str) -> str:
    """Return cells of one mean in words: `0.5 and 0.75, the default`."""
    return " and ".join(f"{cell}, the default" if cell == default else cell for cell in cells)


def _verdicts(found: Mapping[str, Contrast], cells: Sequence[str], ordered: bool) -> list[str]:
    """Return what the differences say of those `cells` that have a test: `0.1, 0.2 worse by 1.0 to 2.0 points`."""
    told = []
    for word, sign in (("better", 1), ("worse", -1)):
        if apart := [cell for cell in cells if found[cell].p < ALPHA and found[cell].effect * sign > 0]:
            amount = _amount([found[cell] for cell in apart])
            told.append(f"{listed(apart, cells, ordered)} {word} by {amount} points")
    if level := [cell for cell in cells if found[cell].p >= ALPHA]:
        told.append(f"{listed(level, cells, ordered)} not told apart")
    return told


def _from_best(done: pd.DataFrame, best: str, test: Test | None) -> dict[str, Contrast]:
    values, cells, seeds = (done[name].tolist() for name in ("top1", "cell", "seed"))
    pairs, _ = compare_pairs(values, cells, seeds, test)
    found = {second: each.reversed() for (first, second), each in pairs.items() if first == best}
    return found | {first: each for (first, second), each in pairs.items() if second == best}


def _of_gains(done: pd.DataFrame, cells: Sequence[str], ordered: bool) -> list[str]:
    """Return which cells are worse than the untrained encoders of their seeds, and which are not shown to be better.

    By each cell's own 95 % interval of the mean gain. The untrained encoder itself has none.
    """
    trained = done[done["task"] != UNTRAINED]
    gains = (trained["top1"] - trained["untrained"]).groupby(trained["cell"])
    means = {str(cell): mean_interval(of_cell.tolist()) for cell, of_cell in gains}
    own = [cell for cell in cells if cell in means]
    worse = [cell for cell in own if means[cell][2] < 0]
    weak = [cell for cell in own if cell not in worse and (means[cell][0] <= 0 or means[cell][1] <= 0)]
    told = []
    if worse:
        theirs = "its untrained encoder" if len(worse) == 1 else "their untrained encoders"
        told.append(f"{listed(worse, cells, ordered)} worse than {theirs} (95 % each)")
    if weak:
        told.append(f"{listed(weak, cells, ordered)} not shown to gain on the untrained encoder (95 % each)")
    return told


def compared_with_best(frame: pd.DataFrame, test: Test | None = None) -> list[int]:
    """Return by probe how many cells `answers` compares with the best one, where it does."""
    compared = compared_cells(frame, test)
    counts = []
    for probe, done in _probed(frame):
        if probe not in compared:
            found = _from_best(done, str(done.groupby("cell")["top1"].mean().idxmax()), test)
            counts.append(sum(np.isfinite(each.p) for each in found.values()))
    return counts


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
            f"{probe_label(probe)}: a true difference from the default of {smallest:.1f} points would be found "
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


def _probed(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(probe, done) for probe, done in with_results(frame) if probe in PROBES and len(done)]


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
