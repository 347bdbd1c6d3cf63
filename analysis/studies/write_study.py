"""A study's results as files in its directory: frames, table in four formats, figure."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.results.curves import read_curves
from analysis.statistics.comparisons import Test
from analysis.studies.figures import study_figure
from analysis.studies.pairs import all_pairs
from analysis.studies.remarks import caveats, remarks
from analysis.studies.table_formats import to_html, to_latex, to_markdown
from analysis.studies.tables import NOTE, display, heading, summarise
from mae.probing.kinds import PROBES
from mae.runs.directory import RunDirectory
from mae.runs.locks_and_writes import replacing
from mae.tracking.cell_means import SUMMARY

TRACKED = ("probe", "cell", "mean", "low", "high", "runs", "difference", "difference_low", "difference_high", "p")
"""Columns of a study's table that MLflow is told; there `runs` is `n`."""


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
        figure = study_figure(frame, test)
        for name in ("figure.png", "figure.pdf"):
            save_figure(figure, directory.path / name)
    return summary


def write_tracked(directory: RunDirectory, rows: pd.DataFrame) -> None:
    """Write what MLflow is told of cells, as `mae.tracking.cell_means` takes it; rows have the columns `TRACKED`.

    Without rows there is no file, unless there was one: it gets empty, as what it said is no longer known.
    """
    if len(rows) or (directory.path / SUMMARY).exists():
        table = rows.reindex(columns=list(TRACKED)).rename(columns={"runs": "n"})
        directory.write_text(SUMMARY, table.to_json(orient="split", index=False, double_precision=15) + "\n")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the name's ending says."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=200)
