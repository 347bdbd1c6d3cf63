"""`mae-cli runs --watch`: what is under way in a folder of runs, again and again, until Ctrl-C."""

import time
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mae.errors import UserError
from mae.probing.kinds import PROBES, probe_title
from mae.runs.metrics import LOSS, ONLINE
from mae.runs.under_way import UnderWay, runs_under_way
from mae.runtime.progress import duration

EVERY = 2.0
"""Seconds between two looks."""


def watch(runs_dir: Path, console: Console) -> None:
    """Show what is under way until Ctrl-C; `UserError` off a terminal."""
    if not console.is_terminal:
        raise UserError("--watch draws over its own lines, which needs a terminal; `mae-cli runs` prints once")
    try:
        with Live(look(runs_dir), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(EVERY)
                live.update(look(runs_dir), refresh=True)
    except KeyboardInterrupt:
        return


def look(runs_dir: Path) -> RenderableType:
    """Return what is under way now, as a table."""
    found = [*runs_under_way(runs_dir)]
    at = Text(f"{time.strftime('%H:%M:%S')}  {len(found)} under way in {runs_dir}; Ctrl-C ends the watching only")
    return Group(_table(found), at) if found else at


def _table(found: list[UnderWay]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in ("run", "done", "left"):
        table.add_column(name, no_wrap=True)
    for name in ("work", "loss", "k-NN", "name", "where"):
        table.add_column(name, overflow="fold")
    for each in found:
        loss, accuracy = each.metrics.get(LOSS), each.metrics.get(ONLINE)
        table.add_row(
            each.run,
            "" if each.share is None else f"{each.share:.0%}",
            "" if each.seconds_left is None else duration(each.seconds_left),
            probe_title(each.work) if each.work in PROBES else each.work,
            "" if loss is None else f"{loss:.4f}",
            "" if accuracy is None else f"{accuracy:.1f}",
            Text(each.name),
            Text(each.host),
        )
    return table
