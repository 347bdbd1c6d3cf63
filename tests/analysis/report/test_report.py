import re
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.report.report import Models, Report, make_report, write_report
from analysis.results.curves import read_curves
from analysis.studies.tables import display, summarise
from cli import app
from mae.config.resolve import build, flatten
from mae.errors import UserError
from tests.helpers.study_factory import MASK_RATIO, study_frame_of

FORMATS = ("html", "md", "tex", "pdf")


def made(frame: pd.DataFrame) -> Report:
    return make_report(frame, read_curves(frame[:0], Path()), Models())


@pytest.fixture(scope="module")
def report() -> Report:
    other = study_frame_of({"pixels": [None, 61.0], "PCA": [60.0, 61.0]}, name="target", axis="", default="pixels")
    return made(pd.concat([study_frame_of(MASK_RATIO), other], ignore_index=True))


@pytest.fixture(scope="module")
def html(report: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report(report, file, "html")
    return file.read_text()


def test_a_page_is_one_file_that_needs_no_network(html: str) -> None:
    assert html.count("data:image/png;base64,") == 4  # overview, cost, two studies
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", html)
    assert "@import" not in html
    assert "url(" not in html


def test_a_page_has_findings_tables_and_what_the_numbers_depend_on(html: str) -> None:
    for text in ("The paper says (Fig. 5): Linear accuracy rises", "agrees", "<td>0.75 *</td>", "mae-cli x", "abc123"):
        assert text in html
    assert f"digits, SHA-256 {'d' * 64}" in html
    assert "1 of 4 trainings failed (NaN): not in any mean" in html


def test_bases_have_parts_of_their_own_and_that_is_said() -> None:
    frame = pd.concat([study_frame_of(MASK_RATIO), study_frame_of(MASK_RATIO, "mask-ratio-2", base="cifar10-tiny")])
    report = made(frame)
    assert [base.title for base in report.bases] == ["digits on digits", "cifar10-tiny on digits"]
    assert [len(base.studies) for base in report.bases] == [1, 1]


def test_results_of_different_probes_have_parts_of_their_own() -> None:
    config = flatten(build({"probe.linear.solver": "lars"}).model_dump(mode="json"))
    report = made(pd.concat([study_frame_of(MASK_RATIO), study_frame_of(MASK_RATIO, "mask-ratio-2", config=config)]))
    assert [base.title for base in report.bases] == [
        "digits on digits",
        "digits probe.linear.solver=lars on digits",
    ]


@pytest.mark.parametrize(
    ("defaults", "endings"),
    [
        (("0.5", "0.9"), ["against 0.5", "against 0.9"]),
        (("0.5", ""), ["against 0.5", "without a default"]),
        (("0.5", "0.5"), ["mask-ratio-1", "mask-ratio-2"]),
    ],
)
def test_studies_of_one_name_say_what_they_are_compared_with(
    defaults: tuple[str, str], endings: list[str], tmp_path: Path
) -> None:
    same = [study_frame_of(MASK_RATIO, f"mask-ratio-{k + 1}", default=cell) for k, cell in enumerate(defaults)]
    other = study_frame_of(MASK_RATIO, name="other", question="")
    report = made(pd.concat([*same, other]))
    studies = report.bases[0].studies
    assert [study.question for study in studies] == [*(f"How much? ({ending})" for ending in endings), "other"]
    write_report(report, tmp_path / "report.html", "html")
    contents = (tmp_path / "report.html").read_text().split("<nav>")[1].split("</nav>")[0]
    assert re.findall(r"#study-[\d-]+\">(.*?)</a>", contents) == [
        *(f"mask-ratio ({ending})" for ending in endings),
        "other",
    ]


def test_captions_name_the_papers_figures_only_where_they_are_drawn() -> None:
    paper = {cell: {"linear": 70.0} for cell in MASK_RATIO}
    with_paper = study_frame_of(MASK_RATIO, "a", paper=paper)
    knn_alone = study_frame_of(MASK_RATIO, "b", name="b", paper=paper, probes=("knn",))  # the paper has no k-NN
    (base,) = made(pd.concat([with_paper, knn_alone, study_frame_of(MASK_RATIO, "c", name="c")])).bases
    drawn = [base.pictures[0], *(study.pictures[0] for study in base.studies)]
    told = {picture.name: "the paper's in grey" in picture.caption for picture in drawn}
    assert told == {"overview": True, "a": True, "b": False, "c": False}


def test_cells_that_are_probed_in_different_ways_stay_in_one_table() -> None:
    report = made(study_frame_of({"5": [60.0], "20": [70.0]}, axis="probe.knn.k", default="20"))
    assert [base.title for base in report.bases] == ["digits on digits"]
    assert report.bases[0].studies[0].table["cell"].tolist() == ["5", "20 *"]


@pytest.mark.parametrize("kind", ["md", "tex"])
def test_other_formats_have_their_figures_beside_them(kind: Any, report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / f"all.{kind}", kind)
    text = (tmp_path / f"all.{kind}").read_text()
    files = re.findall(r"all_figures/[\w.-]+\.(?:png|pdf)", text)
    assert len(files) == 4
    assert all((tmp_path / file).exists() for file in files)
    assert "agrees" in text


def test_latex_is_balanced(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "all.tex", "tex")
    text = (tmp_path / "all.tex").read_text()
    assert text.isascii()
    opened, closed = re.findall(r"\\begin\{(\w+)", text), re.findall(r"\\end\{(\w+)", text)
    assert sorted(opened) == sorted(closed)
    assert text.count("{") == text.count("}")


def test_pdf_is_written(report: Report, tmp_path: Path) -> None:
    if find_library("pango-1.0") is None:
        pytest.skip("WeasyPrint's library Pango is missing")
    write_report(report, tmp_path / "all.pdf", "pdf")
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")


def test_that_pdf_cannot_be_written_is_said_before_what_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.report.report.find_spec", lambda name: None)
    told = CliRunner().invoke(app, ["report", "--format", "pdf", "--runs-dir", str(tmp_path)])
    assert told.stderr.startswith("error: --format pdf needs WeasyPrint: pip install")


def test_a_missing_folder_is_said(report: Report, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        write_report(report, tmp_path / "nowhere" / "all.html", "html")


def test_studies_without_a_linear_probe_have_no_overview(tmp_path: Path) -> None:
    more: dict[str, Any] = {"probes": ("knn",)}
    report = made(pd.concat([study_frame_of(MASK_RATIO, **more), study_frame_of(MASK_RATIO, "second", **more)]))
    write_report(report, tmp_path / "report.html", "html")
    assert [picture.name for picture in report.bases[0].pictures] == ["cost"]


def test_the_test_that_was_asked_for_judges_findings_table_and_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(
        "analysis.studies.figures.summarise", lambda frame, test=None: drawn.append(test) or summarise(frame)
    )
    frame = study_frame_of(MASK_RATIO, probes=("linear",))
    other = study_frame_of(MASK_RATIO, "second", name="second", probes=("linear",))
    whole = pd.concat([frame, other])
    base = make_report(whole, read_curves(frame[:0], Path()), Models(), test="welch").bases[0]
    assert "contrast of 2 cells, welch" in base.statistics["test"][0]
    assert base.studies[0].table["linear Δ"].tolist() == display(summarise(frame, "welch"))["linear Δ"].tolist()
    assert any("Welch" in line for line in base.studies[0].remarks)
    assert drawn.count("welch") == 4  # a figure of each study, and the overview of both


def with_pairs() -> Report:
    frame = study_frame_of(MASK_RATIO)
    return make_report(frame, read_curves(frame[:0], Path()), Models(), pairs=True)


@pytest.mark.parametrize("kind", ["html", "md", "tex"])
def test_all_pairs_and_how_many_tests_there_are_stand_in_the_document(kind: Any, tmp_path: Path) -> None:
    write_report(with_pairs(), tmp_path / f"all.{kind}", kind)
    text = (tmp_path / f"all.{kind}").read_text()
    assert text.count("3 pairs of cells, row minus column") == 2
    assert "mean \\%" in text if kind == "tex" else "mean %" in text
    assert "This report makes 12 tests in 5 families" in text


def test_tests_are_counted_by_kind_with_what_they_are_corrected_over() -> None:
    told = with_pairs().multiplicity
    assert "4 differences of a cell from the default in 2, 6 differences of two cells in 2" in told
    assert "2 statements of the paper's findings in 1" in told
    assert "of these 5 up to 0.25" in told


def test_the_best_cells_comparisons_are_counted_where_there_is_no_default_and_no_pairs() -> None:
    frame = study_frame_of(MASK_RATIO, default="")
    assert "4 differences of a cell from the best one in 2, " in made(frame).multiplicity
    told = make_report(frame, read_curves(frame[:0], Path()), Models(), pairs=True).multiplicity
    assert "6 differences of two cells in 2, " in told
    assert "best one" not in told


def test_a_report_without_any_test_says_so() -> None:
    report = made(study_frame_of({cell: values[:1] for cell, values in MASK_RATIO.items()}))
    assert report.multiplicity == "No test was made, so no difference is claimed."


def test_a_study_without_results_has_its_table_and_no_figure() -> None:
    study = made(study_frame_of({"0.75": [None, None]})).bases[0].studies[0]
    assert study.pictures == []
    assert study.table["k-NN"].tolist() == ["-"]
