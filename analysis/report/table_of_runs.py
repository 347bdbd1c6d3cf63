"""Runs as a table on the terminal."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from mae.probing.kinds import PROBES, probe_label
from mae.runs.metrics import FINAL_LOSS, top1
from mae.runs.under_way import runs_under_way


def table_of_runs(rows: list[dict[str, Any]], runs_dir: Path) -> Table:
    """Return the table of runs, given as `select_runs` gives them, with how far those under way are."""

    at_work = {each.run: each.told() for each in runs_under_way(runs_dir)}
    kinds = [kind for kind in PROBES if any(top1(kind) in row["metrics"] for row in rows)]
    table = Table(box=SIMPLE_HEAD)
    for name in ("run", "started", "status"):
        table.add_column(name, no_wrap=True)
    own = [key for key in ("tags", "note") if any(row[key] for row in rows)]
    for name in ("name", *own, "data", "study"):
        table.add_column(name, overflow="fold")
    for name in (*map(probe_label, kinds), "loss", "min"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shown = [row["metrics"].get(key) for key in (*map(top1, kinds), FINAL_LOSS)]
        numbers = ["" if value is None else f"{value:.4g}" for value in shown]
        texts = [row[key] for key in ("run", "date", "status", "name", *own, "data", "study")]
        texts[2] = at_work.get(row["run"], texts[2])
        table.add_row(*texts, *numbers, f"{row['seconds'] / 60:.1f}")
    return table
