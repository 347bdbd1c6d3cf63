"""Single runs as one tidy table: a row per run, with what it is, all its settings and all its metrics."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mae.errors import UserError
from mae.runs.catalogue import settings_of, unreadable_runs
from mae.runs.directory import RunDirectory
from mae.runs.selection import OWN, select_runs


def run_table(runs_dir: Path, conditions: Sequence[str] = ()) -> pd.DataFrame:
    """Return the readable runs that fit all conditions (`select_runs`), newest first; `UserError` where none does.

    Columns are those of `OWN`, a setting's or metric's name, NaN where a run has none; lists are text, as in TOML.
    """
    rows = select_runs(runs_dir, conditions)
    if not rows:
        raise UserError(f"no run in {runs_dir} fits {' and '.join(conditions) or 'yet'}; see `mae-cli runs`")
    without = {run.path.name for run in unreadable_runs(runs_dir, settings=True)}
    records = []
    for row in rows:
        if row["run"] in without:
            continue
        settings = settings_of(RunDirectory(runs_dir / row["run"]))
        texts = {key: str(value) if isinstance(value, list) else value for key, value in settings.items()}
        records.append({key: row[key] for key in OWN} | texts | row["metrics"])
    return pd.DataFrame(records)
