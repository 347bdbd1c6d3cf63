"""Runs as a table on the terminal."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from mae.probing.kinds import PROBES, probe_label
from mae.runs.metrics import FINAL_LOSS, top1
from mae.runs.under_way import runs_under_way

FIXED = {"run": "run", "date": "started", "status": "status"}
"""Columns that no terminal breaks, with their headings."""


def table_of_runs(rows: list[dict[str, Any]], runs_dir: Path) -> Table:
    """Return the table of runs, given as `select_runs` gives them, with how far those under way are.

    Each way of probing has a column: accuracies of one kind of probe under other settings do not stand below another.
    What all runs have in common stands above the table, and images that names begin with have no column.
    """
    at_work = {each.run: each.told() for each in runs_under_way(runs_dir)}
    rows = [row | {"status": at_work.get(row["run"], row["status"])} for row in rows]
    probes, shared = _ways_of_probing(rows), _shared(rows)
    hidden = {*shared, *(name for name in ("tags", "note") if not any(row[name] for row in rows))}
    if all(_names_its_images(row) for row in rows):
        hidden.add("data")
    texts = [name for name in ("run", "date", "status", "name", "tags", "note", "data", "study") if name not in hidden]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left", title_style="")
    table.title = "; ".join(f"{name} of all: {value}" for name, value in shared.items() if value)
    for name in texts:
        if name in FIXED:
            table.add_column(FIXED[name], no_wrap=True)
        else:
            table.add_column(name, overflow="fold", min_width=min(12, max(len(str(row[name])) for row in rows)))
    for name in (*map(_heading, probes), "loss", "min"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shown = [row["metrics"].get(key) for key in (*map(top1, probes), FINAL_LOSS)]
        numbers = ["" if value is None else f"{value:.4g}" for value in shown]
        table.add_row(*(row[name] for name in texts), *numbers, f"{row['seconds'] / 60:.1f}")
    return table


def _names_its_images(row: dict[str, Any]) -> bool:
    """Return whether a run's name begins with its images, such as `photos` of `folder:my/photos`, or there are none."""
    images = Path(str(row["data"]).rpartition(":")[2]).name
    return not row["data"] or (bool(images) and str(row["name"]).startswith(images))  # `folder:.` has no name


def _shared(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return what several runs have all the same."""
    columns = ("status", "data", "study") if len(rows) > 1 else ()
    return {name: str(rows[0][name]) for name in columns if len({str(row[name]) for row in rows}) == 1}


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
