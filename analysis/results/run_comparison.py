"""Runs side by side: what was set differently, what came out, what it cost."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mae.config.resolve import differences, flatten, resolve
from mae.errors import UserError
from mae.runs.directory import find_run, run_row


def compare_runs(runs_dir: Path, names: Sequence[str]) -> pd.DataFrame:
    """Return a column per run and a row per setting that differs, metric and cost, all as text.

    A metric that a run does not have is empty. `UserError` for fewer than two runs, or one that is not there.
    """
    runs = {run.path.name: run for run in (find_run(runs_dir, name) for name in names)}
    if len(runs) < 2:
        raise UserError("compare: expected at least two different runs; see `mae-cli runs`")
    configs = {name: resolve(file=run.path / "config.toml") for name, run in runs.items()}
    first = next(iter(configs.values()))
    keys = {key: None for config in configs.values() for key in differences(config, first)}
    settings = {name: flatten(config.model_dump(mode="json")) for name, config in configs.items()}
    rows: dict[str, list[str]] = {key: [str(values[key]) for values in settings.values()] for key in keys}
    shown = [run_row(run) for run in runs.values()]
    rows["status"] = [row["status"] for row in shown]
    metrics = sorted({key for row in shown for key in row["metrics"]}, key=lambda key: (key.startswith("cost/"), key))
    for key in metrics:
        rows[key] = [f"{row['metrics'][key]:.6g}" if key in row["metrics"] else "" for row in shown]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(runs))
