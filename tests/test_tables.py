from pathlib import Path
from typing import Any

import pandas as pd

from analysis.study_files import write_study
from analysis.table_formats import to_html, to_latex, to_markdown
from analysis.tables import agreement, caveats, display, speedups, summarise
from mae.run_directory import RunDirectory
from tests.made_studies import Accuracies, study_frame_of

ACCURACIES = {
    "0.5": [60.0, 61.0, 62.0],
    "0.75": [70.0, 71.0, 72.0],
    "0.8": [70.5, 72.5, 71.0],
    "0.9": [66.0, 65.0, 64.0],
}
PAPER = {"0.5": 69.9, "0.75": 73.5, "0.8": 71.8, "0.9": 66.1}


def make_study(accuracies: Accuracies) -> pd.DataFrame:
    paper = {cell: {"linear": PAPER[cell]} for cell in accuracies}
    return study_frame_of(accuracies, probes=("knn",), paper=paper)


def cell_of(summary: pd.DataFrame, name: str) -> dict[str, Any]:
    return dict(summary[summary["cell"] == name].iloc[0])


def test_a_clear_difference_is_marked_and_noise_is_not() -> None:
    summary = summarise(make_study(ACCURACIES))
    verdicts = {row["cell"]: row["verdict"] for row in summary.to_dict("records")}
    assert verdicts == {"0.5": "lower", "0.75": "default", "0.8": "within noise", "0.9": "lower"}


def test_one_seed_gets_the_interval_over_test_images_and_no_verdict() -> None:
    summary = summarise(make_study({cell: values[:1] for cell, values in ACCURACIES.items()}))
    row = cell_of(summary, "0.9")
    assert (row["mean"], row["low"], row["high"], row["verdict"]) == (66.0, 65.0, 67.0, "n/a")
    assert row["difference"] == -4.0


def test_a_failed_run_is_told_and_not_averaged() -> None:
    summary = summarise(make_study(ACCURACIES | {"0.9": [66.0, None, 64.0]}))
    row = cell_of(summary, "0.9")
    assert (row["mean"], row["runs"], row["failed"]) == (65.0, 2, 1)
    assert display(summary).iloc[-1]["failed"] == "1: NaN"


def test_a_cell_without_any_result_has_a_row() -> None:
    shown = display(summarise(make_study(ACCURACIES | {"0.9": [None]})))
    assert shown.iloc[-1]["k-NN"] == "-"


def test_a_study_without_any_result_has_a_table() -> None:
    assert len(display(summarise(make_study({"0.75": [None], "0.9": [None]})))) == 2


def test_rank_agreement_compares_with_the_paper() -> None:
    summary = summarise(make_study(ACCURACIES))
    assert "Spearman 0.60" in agreement(summary)[0]  # measured order 0.5, 0.9, 0.75, 0.8; paper 0.9, 0.5, 0.8, 0.75


def test_the_default_is_marked() -> None:
    shown = display(summarise(make_study(ACCURACIES)))
    assert shown["cell"].tolist() == ["0.5", "0.75 *", "0.8", "0.9"]


def test_files_of_every_format_are_written(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "study")
    write_study(directory, make_study(ACCURACIES), tmp_path)
    names = {file.name for file in directory.path.iterdir()}
    tables = {f"table.{suffix}" for suffix in ("csv", "md", "tex", "html")}
    assert names == {"results.csv", "curves.csv", "figure.png", "figure.pdf"} | tables


def test_latex_has_rules_and_no_sign_that_it_cannot_set() -> None:
    shown = display(summarise(make_study(ACCURACIES))).assign(cell="normalized_pixels & 50 %")
    latex = to_latex(shown, "a_b")
    assert r"\toprule" in latex
    assert r"normalized\_pixels \& 50 \%" in latex
    assert r"\caption{a\_b}" in latex
    assert latex.isascii()


def test_markdown_and_html_escape_what_would_break_them() -> None:
    table = pd.DataFrame({"cell": ["a|b <c>"]})
    assert r"a\|b" in to_markdown(table)
    assert "a|b &lt;c&gt;" in to_html(table)


def test_unfinished_trainings_are_counted_with_their_reasons() -> None:
    assert caveats(make_study({"0.75": [1.0, 2.0], "0.9": [None, 1.0]})) == [
        "1 of 4 trainings failed (NaN): not in any mean"
    ]


def test_one_seed_is_said() -> None:
    assert caveats(make_study({"0.75": [1.0], "0.9": [1.0]})) == ["one seed: no test, no difference counts"]


def test_versions_of_the_code_are_named() -> None:
    frame = make_study(ACCURACIES)
    frame.loc[0, "commit"] = "def456"
    assert caveats(frame) == ["trained by 2 versions of the code: def456, abc123"]


def test_speed_is_relative_to_the_cell_the_paper_calls_1() -> None:
    frame = study_frame_of(
        {"slow": [1.0], "fast": [1.0]}, axis="", default="fast", probes=(), seconds={"slow": 30.0, "fast": 10.0},
        paper={"slow": {"speedup": 1.0}, "fast": {"speedup": 2.8}},
    )  # fmt: skip
    assert speedups(frame).tolist() == [1.0, 3.0]
