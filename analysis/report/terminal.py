"""Studies and sweeps on a terminal: their files are written, and what these say is printed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from analysis.results.frame import setting, study_frame
from analysis.statistics.comparisons import Test
from analysis.studies.pairs import all_pairs, matrices
from analysis.studies.remarks import caveats, remarks
from analysis.studies.tables import COST_COLUMNS, NOTE, display
from analysis.studies.write_study import write_study
from mae.probing.kinds import PROBES
from mae.runs.directory import RunDirectory
from mae.runs.study_record import StudyRecord
from mae.runs.sweep_record import SweepRecord

UNLIMITED = 10_000
"""Columns of a terminal on which no table is too wide."""


def show_studies(
    studies: Sequence[tuple[StudyRecord, RunDirectory]],
    runs_dir: Path,
    console: Console,
    test: Test | None = None,
    pairs: bool = False,
) -> list[dict[str, Any]]:
    """Write the files of studies, given with their directories, and print tables and answers; return the same as data.

    `test` and `pairs` are as in `analysis.studies.write_study.write_study`.
    """
    shown = [_show_study(record, directory, runs_dir, console, test, pairs) for record, directory in studies]
    console.print(NOTE, highlight=False, style="dim")
    return shown


def _show_study(
    record: StudyRecord, directory: RunDirectory, runs_dir: Path, console: Console, test: Test | None, pairs: bool
) -> dict[str, Any]:
    frame = study_frame(record, runs_dir, directory.path.name)
    cells = write_study(directory, frame, runs_dir, test, pairs)
    table = display(cells)
    console.rule(f"{record.question or record.name}", align="left")
    _print_lines([setting(frame), *caveats(frame)], console)
    for part in _fitting(table.drop(columns=list(COST_COLUMNS), errors="ignore"), console):
        print_frame(part, console)
    print_frame(table[[name for name in table.columns if name in ("cell", *COST_COLUMNS)]], console)
    _print_lines(remarks(frame, test), console)
    found = all_pairs(frame if pairs else frame[:0], test)
    for line, matrix in matrices(frame, found):
        _print_lines([f"\n{line}"], console)
        print_frame(matrix, console)
    _print_lines([f"table and figure: {directory.path}"], console)
    told = {"study": record.name, "directory": str(directory.path), "rows": _rows(cells)}
    return told | ({"pairs": _rows(found)} if pairs else {})


def show_sweep(
    record: SweepRecord, directory: RunDirectory, comparison: tuple[StudyRecord, RunDirectory], console: Console
) -> dict[str, Any]:
    """Write the files of a sweep and of the study that compares its best with the default; print them, return data."""
    from analysis.sweeps import summary  # with Optuna and scikit-learn, which a study does not need
    from analysis.sweeps.frame import sweep_frame, total_costs
    from analysis.sweeps.write_sweep import write_sweep

    runs_dir = directory.path.parent.parent
    frame = sweep_frame(record, runs_dir)
    importances = write_sweep(directory, record, frame)
    compared = show_studies([comparison], runs_dir, console)[0]
    cells = [cell.name for cell in comparison[0].cells]
    so_far = f", so far: {record.open} of {len(record.trials)} trials open" if record.open else ""
    console.rule(f"sweep {record.name}{so_far}", align="left")
    print_frame(summary.best_table(record) if record.winner else summary.front_table(record, frame, cells), console)
    print_frame(summary.importance_table(importances), console)
    best = f"; best.toml is for `mae-cli run --config {directory.path / 'best.toml'}`" if record.winner else ""
    _print_lines([*summary.remarks(record, frame), f"figures and tables: {directory.path}{best}"], console)
    told = {"sweep": record.name, "directory": str(directory.path), "open": record.open, "winner": record.winner}
    found = {"importances": _rows(importances), "costs": total_costs(frame), "trials": _rows(frame)}
    return told | {"compared": compared} | found


def _fitting(table: pd.DataFrame, console: Console) -> list[pd.DataFrame]:
    """Return a study's table whole, or where the terminal is too narrow for its lines a table per probe."""
    if console.measure(_as_table(table), options=console.options.update(width=UNLIMITED)).maximum <= console.width:
        return [table]
    labels = [probe.label for probe in PROBES.values() if probe.label in table]
    of_one = {label: [name for name in table if name == label or name.startswith(f"{label} ")] for label in labels}
    shared = [name for name in table if not any(name in columns for columns in of_one.values())]
    return [table[shared + columns] for columns in of_one.values()]


def print_frame(frame: pd.DataFrame, console: Console) -> None:
    """Print a frame of text as a table."""
    console.print(_as_table(frame))


def _as_table(frame: pd.DataFrame) -> Table:
    table = Table(*frame.columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in frame.itertuples(index=False):
        table.add_row(*row)
    return table


def _print_lines(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
    return rows
