"""Draws `docs/images/demo.png`, the table of the README, from the study that `make demo` has run:
`make demo && python docs/draw_demo.py`, or `python docs/draw_demo.py RUNS_DIR`.

The terminal's own output becomes a picture: rich records it as SVG, Chromium makes a PNG of that.
"""

import io
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from analysis.report.terminal import show_studies
from mae.runs.study_record import find_studies

PICTURE = Path(__file__).resolve().parent / "images" / "demo.png"
COLUMNS = 108
COMMAND = "make demo"


class Terminal(Console):
    """A console whose long lines go on in the next one, as a terminal's do; the picture has an edge."""

    def print(self, *objects: Any, **how: Any) -> None:
        super().print(*objects, **how | {"soft_wrap": False})


def recorded(runs_dir: Path) -> str:
    """Return the newest study of a runs folder as `mae-cli ablate` prints it, as SVG with fonts of this machine."""
    directory, record = max(find_studies(runs_dir), key=lambda found: (found[0].path / "study.json").stat().st_mtime)
    console = Terminal(record=True, width=COLUMNS, markup=False, emoji=False, file=io.StringIO(), force_terminal=True)
    console.print(f"$ {COMMAND}", style="bold")
    show_studies([(record, directory)], runs_dir, console)
    svg = console.export_svg(title=COMMAND, theme=DIMMED_MONOKAI)
    return re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono")


def to_png(svg: str, picture: Path) -> None:
    """Write an SVG as a PNG of twice its size in pixels, half of what its units say."""
    width, height = (float(each) / 2 for each in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": round(width), "height": round(height)}, device_scale_factor=2)
        page.set_content(f'<body style="margin: 0">{svg}</body>')
        page.screenshot(path=picture, omit_background=True)
        chromium.close()


if __name__ == "__main__":
    to_png(recorded(Path(sys.argv[1] if len(sys.argv) > 1 else "runs")), PICTURE)
