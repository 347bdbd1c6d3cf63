"""What has to be said below one study's table, the answer first."""

import pandas as pd

from analysis.answer import answers, power_lines
from analysis.tables import PROBES, agreement, baselines, caveats, compared_cells, summarise


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return sentences: the answer, what the study could have told, agreement with the paper, baselines, caveats."""
    summary = summarise(frame)
    return [
        *answers(frame),
        *power_lines(frame),
        *_of_tests(frame),
        *agreement(summary),
        *baselines(summary),
        *caveats(frame),
    ]


def _of_tests(frame: pd.DataFrame) -> list[str]:
    """Return what speaks against the comparisons, and how many there are where they are of several probes."""
    compared = {PROBES.get(probe, probe): each for probe, each in compared_cells(frame).items() if probe in PROBES}
    lines = [f"{probe}: {remark}" for probe, each in compared.items() for remark in each.remarks]
    tests = [len(each.differences) for each in compared.values() if each.model.freedom]
    if len(tests) > 1:
        lines.append(f"{sum(tests)} comparisons in all, corrected for their number within a probe")
    return lines
