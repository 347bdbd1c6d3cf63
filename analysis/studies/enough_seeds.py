"""How precisely a study knows its differences, how precisely it will with more seeds, and how many seeds that takes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.results.frame import SETTING, study_frame
from analysis.statistics.additive_model import AdditiveModel, fit
from analysis.statistics.comparisons import Test
from analysis.statistics.intervals import NAN
from analysis.statistics.power import POWER, half_width, seeds_for, smallest_of
from analysis.studies.tables import compared_cells, with_results
from mae.probing.kinds import PROBES, probe_label
from mae.runs.study_record import StudyRecord, find_studies

LEAST_FREEDOM = 4
"""Degrees of freedom of the noise before a study counts as precise: with fewer, a small spread by luck would end it."""


def widest(frame: pd.DataFrame, test: Test | None = None) -> float:
    """Return half the length of the widest interval of a difference from the default, in points, over all probes.

    A cell without any interval, as all its runs failed, has no say. NaN where no interval tells anything yet.
    """
    compared = [each for probe, each in compared_cells(frame, test).items() if probe in PROBES]
    halves = [(one.high - one.low) / 2 for each in compared for one in each.differences.values()]
    known = [half for half in halves if not np.isnan(half)]
    enough = compared and all(each.model.freedom >= LEAST_FREEDOM for each in compared)
    return max(known) if known and enough else NAN


def is_precise(frame: pd.DataFrame, precision: float, test: Test | None = None) -> tuple[bool, str]:
    """Say whether all differences of a study are known to ± `precision` points, and how things stand, in a sentence.

    There is nothing to know where a study is not probed, or where its default or all other cells have failed.
    """
    seeds, half = frame["seed"].nunique(), widest(frame, test)
    asked = f"asked for ± {precision:g} points"
    if not frame["probe"].isin(list(PROBES)).any():
        return True, f"{asked}: the study is not probed, so no seeds are added"
    if not _compares(frame):
        return True, f"{asked}: no run of the default, or none of another cell, has finished, so no seeds are added"
    if half <= precision:
        return True, f"{asked}: reached with {seeds} seeds, the widest interval is ± {half:.2f}"
    told = f"the widest interval is ± {half:.2f}" if half > 0 else "the noise is hardly known yet"
    needed = seeds_for_precision(noise(frame), frame["cell"].nunique(), precision)
    more = f"; by the noise so far it takes about {needed}" if needed and needed > seeds else ""
    return False, f"{asked}: not reached with {seeds} seeds, {told}{more}"


def _compares(frame: pd.DataFrame) -> bool:
    of_default = frame.loc[frame["status"] == "finished", "is_default"]
    return bool(of_default.any() and not of_default.all())


Noise = dict[str, tuple[float, int]]
"""By probe the standard deviation of a run within its seed, in points of top-1, and its degrees of freedom."""


def noise(frame: pd.DataFrame, others: Iterable[pd.DataFrame] = ()) -> Noise:
    """Return the noise that runs have shown under the study's probes; one without a degree of freedom is left out.

    From the runs of the study itself; where these are too few, from other studies too that have the same base config,
    probe and images.
    """
    own = _pooled([frame])
    if len(own) == frame["probe"].nunique() and all(freedom >= LEAST_FREEDOM for _, freedom in own.values()):
        return own
    setting = tuple(frame.iloc[0][SETTING])
    seen = _pooled([frame, *(other for other in others if tuple(other.iloc[0][SETTING]) == setting)])
    return {probe: found for probe, found in seen.items() if probe in set(frame["probe"])}


def known_noise(record: StudyRecord, runs_dir: Path) -> Noise:
    """Return `noise` of the runs of a study and of others under `runs_dir` that its own may be held against."""
    found = [each for _, each in find_studies(runs_dir) if each.base == record.base and each.cells != record.cells]
    others = (study_frame(each, runs_dir) for each in found)
    return noise(study_frame(record, runs_dir), others)


def _pooled(frames: Sequence[pd.DataFrame]) -> Noise:
    squares: dict[str, tuple[float, int]] = {}
    for model, probe in (fitted for frame in frames for fitted in _fits(frame)):
        total, freedom = squares.get(probe, (0.0, 0))
        squares[probe] = total + float(model.residuals @ model.residuals), freedom + model.freedom
    return {probe: (float(np.sqrt(total / freedom)), freedom) for probe, (total, freedom) in squares.items() if freedom}


def _fits(frame: pd.DataFrame) -> list[tuple[AdditiveModel, str]]:
    parts = [(probe, done) for probe, done in with_results(frame) if probe in PROBES and len(done)]
    return [(fit(*(done[name].tolist() for name in ("top1", "cell", "seed"))), probe) for probe, done in parts]


@dataclass(frozen=True)
class Prospect:
    """What a study of `cells`, each with `seeds` seeds, will tell under a probe, where its noise is as it was so far.

    `deviation` is the noise of a run within its seed, `half_width` that of the interval of a difference from the
    default, `smallest` the true difference that is found with probability `POWER`: all in points of top-1.
    """

    probe: str
    cells: int
    seeds: int
    deviation: float
    freedom: int
    half_width: float
    smallest: float

    def __str__(self) -> str:
        return (
            f"{probe_label(self.probe)}: with {self.seeds} seeds a difference from the default is known to ± "
            f"{self.half_width:.1f} points, and a true one of {self.smallest:.1f} points is found {POWER:.0%} of the "
            f"time (noise of a run within its seed {self.deviation:.2f} points, {self.freedom} degrees of freedom)"
        )


def prospects(known: Noise, cells: int, seeds: int) -> list[Prospect]:
    """Return by probe what a study will tell; nothing with one seed or one cell."""
    return [
        Prospect(
            probe,
            cells,
            seeds,
            deviation,
            freedom,
            half_width(seeds, deviation, cells),
            smallest_of(seeds, deviation, cells),
        )
        for probe, (deviation, freedom) in known.items()
        if seeds > 1 and cells > 1
    ]


def seeds_for_precision(known: Noise, cells: int, precision: float) -> int | None:
    """Return the seeds with which all intervals are within ± `precision` points; None if out of reach or not known."""
    needed = [seeds_for(precision, deviation, cells) for deviation, _ in known.values()]
    least = next(seeds for seeds in range(2, LEAST_FREEDOM + 2) if (cells - 1) * (seeds - 1) >= LEAST_FREEDOM)
    return None if None in needed or not needed else max(least, *(each for each in needed if each))
