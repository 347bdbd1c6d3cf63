"""What a sweep has found, in words and small tables of text."""

import pandas as pd

from analysis.results.conditions import described, differ
from analysis.statistics.comparisons import Comparisons, compare
from analysis.statistics.intervals import mean_interval
from analysis.studies.remarks import TEST_IN_WORDS
from analysis.studies.tables import NOTHING, difference_text
from analysis.studies.write_study import TRACKED
from analysis.sweeps.frame import total_costs
from mae.runs.sweep_record import SweepRecord
from mae.runtime.progress import duration

DEFAULT = "default"
"""The cell of the final comparison that is the base config."""

MEASURED = ("seconds", "memory_mb")
"""Objectives that depend on the machine."""


def best_table(record: SweepRecord) -> pd.DataFrame:
    """Return what was compared at the end, the winner marked with *: cell, objective over seeds, parameters.

    Where the default and another cell have results there is a column with the difference from the default too, all
    intervals holding together with 95 %.
    """
    params = {f"trial {trial.number}": trial.params for trial in record.trials}
    compared = compared_with_default(record)
    rows = []
    for cell, values in record.compared.items():
        row = {"": "*" if cell == record.winner else "", "config": cell, record.objectives[0].name: _estimate(values)}
        if compared:
            difference = compared.differences.get(cell)
            row["Δ default"] = difference_text(difference, "+.3g") if difference else ""
        row["parameters"] = ", ".join(f"{key.split('.', 1)[1]}={value}" for key, value in params.get(cell, {}).items())
        rows.append(row)
    return pd.DataFrame(rows)


def compared_with_default(record: SweepRecord) -> Comparisons | None:
    """Return how the objective of the cells of the final comparison differs from the default's, where both are known.

    The values of all cells are of the same seeds, in the same order.
    """
    runs = [(value, cell, seed) for cell, values in record.compared.items() for seed, value in enumerate(values)]
    if DEFAULT not in record.compared or len(record.compared) < 2:
        return None
    values, cells, seeds = zip(*runs, strict=True)
    return compare(values, cells, seeds, DEFAULT)


def comparison_frame(record: SweepRecord) -> pd.DataFrame:
    """Return the final comparison as numbers, a row per cell with columns of a study's table: no rows without one.

    `probe` is the objective, which `mean`, `low` and `high` are about.
    """
    rows = []
    if (compared := compared_with_default(record)) is not None:
        for cell, values in record.compared.items():
            difference = compared.differences.get(cell, NOTHING)
            rows.append([record.objectives[0].name, cell, *mean_interval(values), len(values), *difference])
    return pd.DataFrame(rows, columns=list(TRACKED))


def front_table(record: SweepRecord, frame: pd.DataFrame, cells: list[str]) -> pd.DataFrame:
    """Return the trials of the Pareto front: number, objectives, parameters."""
    names = [objective.name for objective in record.objectives]
    front = frame[[f"trial {number}" in cells for number in frame["number"]]].sort_values(names[0])
    rows = []
    for row in front.to_dict("records"):
        params = {key: row[f"params.{key}"] for key in record.space if not pd.isna(row[f"params.{key}"])}
        shown = ", ".join(f"{key.split('.', 1)[1]}={value}" for key, value in params.items())
        rows.append({"trial": str(row["number"]), **{name: f"{row[name]:.4g}" for name in names}, "parameters": shown})
    return pd.DataFrame(rows)


def importance_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return importances as text."""
    return pd.DataFrame(
        {
            "parameter": row.key,
            "importance": f"{row.importance:.2f}",
            "95 %": f"{row.low:.2f} to {row.high:.2f}",
        }
        for row in table.itertuples()
    )


def remarks(record: SweepRecord, frame: pd.DataFrame) -> list[str]:
    """Return sentences on what was tried, what it cost and what it spared."""
    states = frame["state"].value_counts() if len(frame) else {}
    named = {"complete": "complete", "pruned": "pruned", "failed": "failed", "running": "open"}
    tried = [f"{states[state]} {name}" for state, name in named.items() if state in states]
    reused = int(frame["reused"].sum()) if len(frame) else 0
    costs = total_costs(frame)
    lines = [
        f"{len(frame)} trials: {', '.join(tried)}; {reused} of them answered by an equal one",
        f"pretraining: {costs['steps']:.0f} steps, {duration(costs['seconds'])}; spared by pruning "
        f"{costs['pruned_steps']:.0f} steps, {duration(costs['pruned_seconds'])}; by reuse "
        f"{costs['reused_steps']:.0f} steps, {duration(costs['reused_seconds'])}",
    ]
    if len(record.objectives) == 1:
        lines.append(
            "Chosen on images held out of training; the test images, which the table above is about, had no say."
        )
    return lines + _of_tests(record) + _caveats(record, frame) + _open_trials(frame)


def _of_tests(record: SweepRecord) -> list[str]:
    """Return what speaks against the comparison with the default, and by which other test it was judged for that."""
    compared = compared_with_default(record)
    if compared is None:
        return []
    told = [*compared.remarks, *([TEST_IN_WORDS[compared.test]] if compared.test in TEST_IN_WORDS else [])]
    return [f"Δ default: {line}" for line in told]


def _caveats(record: SweepRecord, frame: pd.DataFrame) -> list[str]:
    """Return a sentence where trials were chosen by what was measured under different conditions."""
    measured = [objective.name for objective in record.objectives if objective.name in MEASURED]
    if not measured or frame.empty:
        return []
    done = frame[frame["state"] == "complete"]
    if not differ(done):
        return []
    trials = described(done, lambda part: f"trials {', '.join(map(str, part['number']))}")
    return [f"{' and '.join(measured)}: measured under different conditions, the best may owe it to them: {trials}"]


def _open_trials(frame: pd.DataFrame) -> list[str]:
    """Return a sentence per reason for which trials have not ended, if there are any: what was found is not final."""
    if frame.empty:
        return []
    return [
        f"OPEN: trial {', '.join(map(str, trials['number']))}: {reason or 'not ended'}; the same command continues"
        for reason, trials in frame[frame["state"] == "running"].fillna({"reason": ""}).groupby("reason")
    ]


def _estimate(values: list[float]) -> str:
    mean, low, _ = mean_interval(values)
    return f"{mean:.4g}" if pd.isna(low) else f"{mean:.4g} ± {mean - low:.2g}"
