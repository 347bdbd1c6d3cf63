"""One document of all that the results say: findings, tables, figures, and where the numbers come from.

HTML holds its images and needs no network. Markdown and LaTeX have them in a folder beside the document. PDF is the
HTML, printed.
"""

import base64
import io
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from analysis.report.multiplicity import Family, families_of_findings, families_of_study, multiplicity
from analysis.report.picture import Picture
from analysis.report.task_page import TaskPage, task_page
from analysis.results.frame import comparable, setting
from analysis.statistics.comparisons import Test
from analysis.studies.answer import answers
from analysis.studies.encoded_images import NOTHING, EncodedImages
from analysis.studies.figures import (
    Pictures,
    cost_figure,
    loss_figure,
    overview_figure,
    reconstruction_figure,
    shows_paper,
    study_figure,
)
from analysis.studies.pairs import all_pairs, matrices
from analysis.studies.paper_findings import MARGIN, NO_DATA, check, verdicts
from analysis.studies.remarks import caveats, remarks
from analysis.studies.table_formats import latex_text, to_html, to_latex, to_markdown
from analysis.studies.tables import NOTE, display, summarise
from analysis.studies.write_study import save_figure
from mae import __version__
from mae.errors import UserError
from mae.runs.locks_and_writes import replacing

Format = Literal["html", "md", "tex", "pdf"]

VERDICT_NOTE = (
    "A verdict follows from an interval over seeds that holds with 95 % for all statements of a finding together; "
    f"a difference within {MARGIN:g} point counts as none where the paper sees none. Undecided: the noise of the seeds "
    "leaves both open, or there is one seed."
)


def told_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame in whose `study` and `question` studies of one name or question say what they are compared with.

    Where that is the same too, they say their ids.
    """
    names = frame.drop_duplicates("study_id").set_index("study_id")[["study", "question"]]
    names["question"] = names["question"].where(names["question"] != "", names["study"])
    alike = names[names["study"].duplicated(keep=False) | names["question"].duplicated(keep=False)].index
    defaults = dict(frame.loc[frame["is_default"], ["study_id", "cell"]].to_numpy())
    against = {name: f"against {defaults[name]}" if name in defaults else "without a default" for name in alike}
    found = Counter((*names.loc[name], against[name]) for name in alike)
    added = {name: against[name] if found[*names.loc[name], against[name]] == 1 else name for name in alike}
    endings = frame["study_id"].map(lambda name: f" ({added[name]})" if name in added else "")
    question = (frame["question"] + endings).where(frame["question"] != "", "")
    return frame.assign(study=frame["study"] + endings, question=question)


def marks(frame: pd.DataFrame) -> str:
    """Return what is drawn of studies under some probes, in words."""
    told = "Means, with 95 % intervals of the difference from the default; dots are single seeds"
    return f"{told}; the paper's in grey." if shows_paper(frame) else f"{told}."


@dataclass(frozen=True)
class StudyPart:
    """One study: its question and answers, its table and pictures; all pairs of its cells if asked for.

    `tasks` is there where its cells are pretext tasks.
    """

    name: str
    question: str
    answers: list[str]
    about: str
    caveats: list[str]
    table: pd.DataFrame
    remarks: list[str]
    pictures: list[Picture]
    tasks: TaskPage | None
    pairs: pd.DataFrame
    """With the study's id."""
    matrices: list[tuple[str, pd.DataFrame]]
    families: list[Family]


@dataclass(frozen=True)
class BasePart:
    """All studies of one base config, probed in one way, on one data set; nothing in it is averaged with another."""

    title: str
    findings: list[dict[str, Any]]
    statistics: pd.DataFrame
    pictures: list[Picture]
    studies: list[StudyPart]
    families: list[Family]

    @property
    def found(self) -> list[dict[str, Any]]:
        """The findings that its studies say something about."""
        return [row for row in self.findings if row["verdict"] != NO_DATA]


@dataclass(frozen=True)
class Report:
    """What a document says."""

    bases: list[BasePart]
    facts: list[tuple[str, list[str]]]
    multiplicity: str
    note: str = NOTE
    verdict_note: str = VERDICT_NOTE

    @property
    def pairs(self) -> pd.DataFrame:
        """All pairs of all studies: a frame of `analysis.studies.pairs` and study_id."""
        return pd.concat([study.pairs for base in self.bases for study in base.studies], ignore_index=True)


@dataclass(frozen=True)
class Models:
    """What the trained models of a study's frame show, where they are there: reconstructions, features of images."""

    reconstruct: Callable[[pd.DataFrame], tuple[Any, dict[str, Pictures]]] = lambda frame: (None, {})
    encode: Callable[[pd.DataFrame], EncodedImages] = lambda frame: NOTHING


def make_report(
    frame: pd.DataFrame,
    curves: pd.DataFrame,
    models: Models,
    test: Test | None = None,
    pairs: bool = False,
) -> Report:
    """Return the report of a frame.

    `test` is the one asked for, as in `analysis.studies.tables.summarise`; `pairs` asks for all pairs of each study's
    cells.
    """
    bases = [_base(part, curves, models, test, pairs) for part in comparable(frame)]
    families = [family for base in bases for study in base.studies for family in study.families]
    families += [family for base in bases for family in base.families]
    return Report(bases, _facts(frame), multiplicity(families))


def _base(frame: pd.DataFrame, curves: pd.DataFrame, models: Models, test: Test | None, pairs: bool) -> BasePart:
    frame = frame.sort_values(["source", "study"], kind="stable", ignore_index=True)  # as the paper has them
    checked = check(frame, test=test)
    cost = cost_figure(frame)
    frame = told_apart(frame)
    studies = [_study(part, curves, models, test, pairs) for _, part in frame.groupby("study_id", sort=False)]
    across = []
    overview = overview_figure(frame, test=test)
    if frame["study_id"].nunique() > 1 and overview.axes:
        shown = frame[frame["probe"].isin(["linear", "none"])]
        caption = f"Every study under the linear probe. {marks(shown)}"
        across.append(Picture("overview", caption, overview))
    if cost.axes:
        caption = "Compute of pretraining and accuracy, means of cells; the line is the Pareto front."
        if frame["cell_probe"].any():
            caption += " Cells that change the probe are left out."
        across.append(Picture("cost", caption, cost))
    findings = [{str(key): value for key, value in row.items()} for row in verdicts(checked).to_dict("records")]
    behind = statistics(checked[checked["verdict"] != NO_DATA])
    return BasePart(setting(frame), findings, behind, across, studies, families_of_findings(checked))


def statistics(checked: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics behind the verdicts as a table of text: a row per statement."""

    def number(value: float, ratio: bool) -> str:
        return "" if pd.isna(value) else f"{value:.3g} times" if ratio else f"{value:+.2f}"

    rows = [
        {
            "finding": row["finding"],
            "statement": row["statement"],
            "effect": number(row["effect"], row["ratio"]),
            "interval": ""
            if pd.isna(row["low"])
            else " to ".join(number(row[k], row["ratio"]) for k in ("low", "high")),
            "p": "" if pd.isna(row["p"]) else f"{row['p']:.2g}",
            "test": row["test"],
            "verdict": row["verdict"] + (f": {row['reason']}" if row["reason"] else ""),
        }
        for row in checked.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _study(frame: pd.DataFrame, curves: pd.DataFrame, models: Models, test: Test | None, pairs: bool) -> StudyPart:
    first, study_id = frame.iloc[0], str(frame["study_id"].iloc[0])
    drawn = []
    if (frame["status"] == "finished").any():
        drawn.append(Picture(study_id, marks(frame), study_figure(frame, test)))
    losses = curves[curves["study_id"] == study_id]
    if len(losses):
        caption = "Loss of pretraining, a line per seed. Those of different tasks, targets or masks cannot be compared."
        drawn.append(Picture(f"{study_id}-loss", caption, loss_figure(losses, frame["task"].nunique() == 1)))
    if first["axis"] == "mask.ratio":
        originals, cells = models.reconstruct(frame)
        if cells:
            caption = "Test images as the models of the cells see and complete them, each under its own masking ratio."
            drawn.append(Picture(f"{study_id}-images", caption, reconstruction_figure(originals, cells)))
    about = ", ".join(filter(None, [first["study"], first["source"], study_id]))
    question = str(first["question"] or first["study"])
    found = all_pairs(frame if pairs else frame[:0], test)
    return StudyPart(
        str(first["study"]),
        question,
        answers(frame, test),
        about,
        caveats(frame),
        display(summarise(frame, test)),
        remarks(frame, test),
        drawn,
        task_page(frame, curves, models.encode, test),
        found.assign(study_id=study_id),
        matrices(frame, found),
        families_of_study(frame, found, test),
    )


def _facts(frame: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return what the results depend on: label and values."""

    def values(column: str) -> list[str]:
        return [*dict.fromkeys(filter(None, frame[column]))]

    data = frame.drop_duplicates(["data", "data_digest"])
    trained = frame[frame["status"] == "finished"]["run"].nunique()
    facts = [
        ("trainings", [f"{trained} finished of {frame['run'].nunique()}"]),
        ("commands", values("command")),
        ("commit", values("commit")),
        ("data", [f"{row['data']}, SHA-256 {row['data_digest']}" for row in data.to_dict("records")]),
        ("device", values("device")),
        ("PyTorch", values("torch")),
        ("report by", [f"mae-cli {__version__}"]),
    ]
    return [(label, found) for label, found in facts if found]


def write_report(report: Report, to: Path, kind: Format) -> None:
    """Write a report; `UserError` if its folder is missing or PDF cannot be made here."""
    if not to.parent.is_dir():
        raise UserError(f"--to {to}: there is no folder {to.parent}")
    if kind == "pdf":
        _write_pdf(_render(report, "html", to), to)
        return
    text = _render(report, kind, to)
    with replacing(to) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _render(report: Report, kind: Format, to: Path) -> str:
    folder = to.with_name(f"{to.stem}_figures")

    def file(picture: Picture) -> str:
        name = f"{picture.name}.{'pdf' if kind == 'tex' else 'png'}"
        save_figure(picture.figure, folder / name)
        return f"{folder.name}/{name}"

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "markdown": to_markdown,
        "latex": to_latex,
        "tex": latex_text,
        "table": to_html,
        "embedded": _embedded,
        "file": file,
    }
    return environment.get_template(f"report.{kind}").render(report=report)


def _embedded(picture: Picture) -> str:
    image = io.BytesIO()
    picture.figure.savefig(image, format="png", dpi=160)
    return f"data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}"


def check_pdf() -> None:
    """Raise `UserError` if WeasyPrint is not installed, which writes PDF."""
    if find_spec("weasyprint") is None:
        raise UserError("--format pdf needs WeasyPrint: pip install 'mae-cli[pdf]'; or print the HTML")


def _write_pdf(html: str, to: Path) -> None:
    """In a process of its own: once imported, WeasyPrint has PIL pass half an image for a whole one."""
    with replacing(to) as temporary:
        command = [sys.executable, "-m", "weasyprint", "--quiet", "-", str(temporary)]
        done = subprocess.run(command, input=html, capture_output=True, text=True)
        if done.returncode:  # its library Pango is missing
            reason = done.stderr.strip().splitlines()[-1]
            raise UserError(f"WeasyPrint cannot write the PDF: {reason}; or print the HTML")
