"""Runs as a table on the terminal."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from mae.probing.kinds import PROBES, probe_label
from mae.runs.metrics import FINAL_LOSS, top1
from mae.runs.under_way import runs_under_way


def table_of_runs(rows: list[dict[str, Any]], runs_dir: Path) -> Table:
    """Return the table of runs, given as `select_runs` gives them, with how far those under way are.

    Each way of probing has a column: accuracies of one kind of probe under other settings do not stand below another.
    """
    at_work = {each.run: each.told() for each in runs_under_way(runs_dir)}
    probes = _ways_of_probing(rows)
    table = Table(box=SIMPLE_HEAD)
    for name in ("run", "started", "status"):
        table.add_column(name, no_wrap=True)
    own = [key for key in ("tags", "note") if any(row[key] for row in rows)]
    for name in ("name", *own, "data", "study"):
        table.add_column(name, overflow="fold", min_width=min(12, max(len(str(row[name])) for row in rows)))
    for name in (*map(_heading, probes), "loss", "min"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shown = [row["metrics"].get(key) for key in (*map(top1, probes), FINAL_LOSS)]
        numbers = ["" if value is None else f"{value:.4g}" for value in shown]
        texts = [row[key] for key in ("run", "date", "status", "name", *own, "data", "study")]
        texts[2] = at_work.get(row["run"], texts[2])
        table.add_row(*texts, *numbers, f"{row['seconds'] / 60:.1f}")
    return table


def _ways_of_probing(rows: list[dict[str, Any]]) -> list[str]:
    """Return kinds of probe, with their settings where these are their own, as metrics are named by them."""
    ends = top1("")
    ways = dict.fromkeys(key.removesuffix(ends) for row in rows for key in row["metrics"] if key.endswith(ends))
    known = [way for way in ways if way.split(" ")[0] in PROBES]  # another version has other kinds
    return sorted(known, key=lambda way: (list(PROBES).index(way.split(" ")[0]), way))


def _heading(way: str) -> str:
    """Return a narrow heading: settings break behind each word."""
    kind, *settings = way.split(" ")
    return "\n".join([probe_label(kind), *(each.replace(":", "=", 1).replace("_", "_\n") for each in settings)])
