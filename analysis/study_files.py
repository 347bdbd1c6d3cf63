"""A study's results as files in its directory: frame, table in four formats, figure."""

from pathlib import Path

import pandas as pd

from analysis.figures import study_figure
from analysis.tables import NOTE, agreement, baselines, display, summarise
from mae.run_directory import RunDirectory, replacing
from mae.study_record import StudyRecord

LATEX_SIGNS = {
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "≈": r"$\approx$",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "%": r"\%",
}


def write_study(directory: RunDirectory, record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """Write results.csv, table.csv, table.md, table.tex, figure.png and figure.pdf; return the table's summary."""
    summary = summarise(frame)
    shown = display(summary)
    directory.write_text("results.csv", frame.to_csv(index=False))
    directory.write_text("table.csv", summary.to_csv(index=False))
    directory.write_text("table.md", _markdown(record, shown, [*agreement(summary), *baselines(frame)]))
    directory.write_text("table.tex", _latex(record, shown))
    if frame["top1"].notna().any():
        figure = study_figure(frame, record.axis, record.log_axis)
        for suffix in ("png", "pdf"):
            with replacing(directory.path / f"figure.{suffix}") as temporary:
                figure.savefig(temporary, format=suffix, dpi=160)
    return summary


def table_files(directory: Path) -> list[Path]:
    """Return what `write_study` has written and people look at."""
    names = ("table.md", "table.csv", "table.tex", "figure.png", "figure.pdf", "results.csv", "study.json")
    return [directory / name for name in names if (directory / name).exists()]


def _markdown(record: StudyRecord, shown: pd.DataFrame, remarks: list[str]) -> str:
    parts = [f"**{record.question}** ({', '.join(filter(None, [record.name, record.source, record.base]))})"]
    parts += [shown.to_markdown(index=False, disable_numparse=True), *remarks, NOTE]
    return "\n\n".join(parts) + "\n"


def _latex(record: StudyRecord, shown: pd.DataFrame) -> str:
    """Return a booktabs table; needs the packages booktabs and amssymb (for the arrows)."""
    text = shown.style.hide(axis="index").to_latex(
        hrules=True, column_format="l" + "r" * (shown.shape[1] - 1), caption=record.question, convert_css=False
    )
    return _escape(text)


def _escape(text: str) -> str:
    for sign, command in LATEX_SIGNS.items():
        text = text.replace(sign, command)
    return text
