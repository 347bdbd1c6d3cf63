"""A study's results as files in its directory: frames, table in four formats, figure."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

import analysis
from analysis.results.curves import read_curves
from analysis.statistics.comparisons import Test
from analysis.studies.pairs import all_pairs
from analysis.studies.remarks import caveats, remarks
from analysis.studies.table_formats import to_html, to_latex, to_markdown
from analysis.studies.tables import NOTE, display, heading, summarise
from mae.probing.kinds import PROBES
from mae.runs.directory import RunDirectory
from mae.runs.locks_and_writes import replacing
from mae.tracking.cell_means import SUMMARY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRACKED = ("probe", "cell", "mean", "low", "high", "runs", "difference", "difference_low", "difference_high", "p")
"""Columns of a study's table that MLflow is told; there `runs` is `n`."""

DRAWN_FROM = "Drawn from"
"""The key in a PNG's metadata of what it was drawn from: such a figure is not drawn again."""


def write_study(
    directory: RunDirectory, frame: pd.DataFrame, runs_dir: Path, test: Test | None = None, pairs: bool = False
) -> pd.DataFrame:
    """Write the files of one study; return the table's summary, its cells compared by the `test` asked for.

    `results.csv` and `curves.csv` are the frames of `analysis.results`; `pairs.csv` is that of `all_pairs`, written if
    asked for, and from then on each time. The rest is for people.
    """
    summary = summarise(frame, test)
    shown, question = display(summary), frame["question"].iloc[0]
    directory.write_text("results.csv", frame.to_csv(index=False))
    directory.write_text("curves.csv", read_curves(frame, runs_dir).to_csv(index=False))
    directory.write_text("table.csv", summary.to_csv(index=False))
    write_tracked(directory, summary[summary["probe"].isin(list(PROBES)) & summary["mean"].notna()])
    if pairs or (directory.path / "pairs.csv").exists():
        directory.write_text("pairs.csv", all_pairs(frame, test).to_csv(index=False))
    page = [heading(frame), *caveats(frame), to_markdown(shown), *remarks(frame, test), NOTE]
    directory.write_text("table.md", "\n\n".join(page) + "\n")
    directory.write_text("table.tex", to_latex(shown, question))
    directory.write_text("table.html", to_html(shown))
    if (frame["status"] == "finished").any():
        _draw(directory.path / "figure.pdf", directory.path / "figure.png", frame, test)
    return summary


def _draw(pdf: Path, png: Path, frame: pd.DataFrame, test: Test | None) -> None:
    """Draw a study's figure, unless both files are there and the PNG, which is written last, says the same origin."""
    text = f"{_drawing_code()} {test} {frame.to_csv(index=False)}"
    origin = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    if pdf.exists() and _origin(png) == origin:
        return
    from analysis.studies.figures import study_figure  # with matplotlib, which a finished study does not need

    figure = study_figure(frame, test)
    save_figure(figure, pdf)
    save_figure(figure, png, {DRAWN_FROM: origin})


@cache
def _drawing_code() -> str:
    """Return what identifies the code that computes and draws: a figure of another version is drawn again."""
    files = sorted(Path(analysis.__path__[0]).rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files) + version("matplotlib").encode()).hexdigest()


def _origin(png: Path) -> str | None:
    try:
        with Image.open(png) as image:
            return image.info.get(DRAWN_FROM)
    except (OSError, SyntaxError, ValueError):  # there is none, or it is broken
        return None


def write_tracked(directory: RunDirectory, rows: pd.DataFrame) -> None:
    """Write what MLflow is told of cells, as `mae.tracking.cell_means` takes it; rows have the columns `TRACKED`.

    Without rows there is no file, unless there was one: it gets empty, as what it said is no longer known.
    """
    if len(rows) or (directory.path / SUMMARY).exists():
        table = rows.reindex(columns=list(TRACKED)).rename(columns={"runs": "n"})
        directory.write_text(SUMMARY, table.to_json(orient="split", index=False, double_precision=15) + "\n")


def save_figure(figure: "Figure", path: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a figure in the format that the name's ending says."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=200, metadata=metadata)
