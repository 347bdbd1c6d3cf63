"""Single runs as one tidy table: a row per run, with what it is, all its settings and all its metrics."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mae.errors import UserError
from mae.runs.selection import own, select_runs, with_settings


def run_table(runs_dir: Path, conditions: Sequence[str] = ()) -> pd.DataFrame:
    """Return the readable runs that fit all conditions (`select_runs`), newest first; `UserError` where none does.

    Columns are those of `OWN`, a setting's or metric's name, NaN where a run has none; lists are text, as in TOML.
    """
    records = []
    for row, settings in with_settings(select_runs(runs_dir, conditions), runs_dir):
        texts = {key: str(value) if isinstance(value, list) else value for key, value in settings.items()}
        records.append(own(row) | texts | row["metrics"])
    if not records:
        raise UserError(f"no run in {runs_dir} fits {' and '.join(conditions) or 'yet'}; see `mae-cli runs`")
    return pd.DataFrame(records)
