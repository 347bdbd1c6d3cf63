"""What has to be said below one study's table, the answer first."""

import pandas as pd

from analysis.statistics.comparisons import Test
from analysis.studies.answer import answers, power_lines
from analysis.studies.tables import PROBES, agreement, baselines, caveats, compared_cells, summarise

ASKED = {
    "paired": "compared by the differences within seeds, each cell with a spread of its own, Holm's correction",
    "welch": "compared by Welch's tests, as if cells shared no seeds, Holm's correction",
}


def remarks(frame: pd.DataFrame, test: Test | None = None) -> list[str]:
    """Return sentences: the answer, what the study could have told, agreement with the paper, baselines, caveats.

    `test` is the one asked for, as in `analysis.studies.tables.summarise`.
    """
    summary = summarise(frame, test)
    return [
        *answers(frame, test),
        *power_lines(frame, test),
        *_of_tests(frame, test),
        *agreement(summary),
        *baselines(summary),
        *caveats(frame),
    ]


def _of_tests(frame: pd.DataFrame, test: Test | None) -> list[str]:
    """Return what speaks against the comparisons, by which test they are, and of several probes how many."""
    compared = {PROBES[probe]: each for probe, each in compared_cells(frame, test).items() if probe in PROBES}
    lines = [f"{probe}: {remark}" for probe, each in compared.items() for remark in each.remarks]
    lines += [f"{probe}: {ASKED[each.test]}" for probe, each in compared.items() if each.test in ASKED]
    tests = [len(each.differences) for each in compared.values() if each.model.freedom]
    if len(tests) > 1:
        lines.append(f"{sum(tests)} comparisons in all, corrected for their number within a probe")
    return lines
