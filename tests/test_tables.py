from typing import Any

import pandas as pd
import pytest

from analysis.figures import study_figure
from analysis.frame import study_frame
from analysis.study_files import write_study
from analysis.tables import agreement, display, summarise
from mae.run_directory import Record, RunDirectory
from mae.study_record import CellRecord, StudyRecord, TrialRecord

ACCURACIES = {
    "0.5": [60.0, 61.0, 62.0],
    "0.75": [70.0, 71.0, 72.0],
    "0.8": [70.5, 72.5, 71.0],
    "0.9": [66.0, 65.0, 64.0],
}
PAPER = {"0.5": 69.9, "0.75": 73.5, "0.8": 71.8, "0.9": 66.1}


def make_study(runs_dir: Any, accuracies: dict[str, list[float]], axis: str = "mask.ratio") -> tuple[StudyRecord, Any]:
    """Runs with the given k-NN accuracies per cell and seed; None is a failed run."""
    trials = []
    for cell, values in accuracies.items():
        for seed, value in enumerate(values):
            name = f"{cell}-{seed}"
            run = RunDirectory(runs_dir / name)
            failed = value is None
            status: Any = "failed" if failed else "finished"
            run.path.mkdir(parents=True)
            run.write_record(
                Record(stage="pretrain", name=name, fingerprint=name, status=status, reason="NaN" if failed else "")
            )
            if not failed:
                run.write_json("result.json", {"metrics": {"cost/seconds": 10.0 + seed, "cost/gflops_per_image": 0.5}})
                probe = {"knn/top1": value, "knn/low": value - 1, "knn/high": value + 1, "knn/pixels_top1": 30.0}
                place = RunDirectory(run.path / "probes" / "knn-1")
                place.path.mkdir(parents=True)
                place.write_json("result.json", {"metrics": probe})
            trials.append(TrialRecord(cell=cell, seed=seed, fingerprint=name, probes={"knn": "knn-1"}))
    cells = [
        CellRecord(name=cell, overrides={axis: float(cell)}, paper={"linear": PAPER[cell]}, is_default=cell == "0.75")
        for cell in accuracies
    ]
    record = StudyRecord(
        name="mask-ratio", question="How much?", source="Fig. 5", axis=axis, log_axis=False, base="digits", config={},
        data={}, cells=cells, trials=trials,
    )  # fmt: skip
    return record, study_frame(record, runs_dir)


def cell_of(summary: pd.DataFrame, name: str) -> dict[str, Any]:
    return dict(summary[summary["cell"] == name].iloc[0])


def test_the_frame_has_a_row_per_cell_and_seed_and_probe(tmp_path: Any) -> None:
    _, frame = make_study(tmp_path, ACCURACIES)
    assert len(frame) == 12
    assert frame["top1"].tolist() == [value for values in ACCURACIES.values() for value in values]
    assert str(frame["cell"].dtype) == "str"


def test_a_clear_difference_is_marked_and_noise_is_not(tmp_path: Any) -> None:
    summary = summarise(make_study(tmp_path, ACCURACIES)[1])
    verdicts = {row["cell"]: row["verdict"] for row in summary.to_dict("records")}
    assert verdicts == {"0.5": "lower", "0.75": "default", "0.8": "within noise", "0.9": "lower"}


def test_one_seed_gets_the_bootstrap_interval_and_no_verdict(tmp_path: Any) -> None:
    summary = summarise(make_study(tmp_path, {cell: values[:1] for cell, values in ACCURACIES.items()})[1])
    row = cell_of(summary, "0.9")
    assert (row["mean"], row["low"], row["high"], row["verdict"]) == (66.0, 65.0, 67.0, "n/a")
    assert row["difference"] == -4.0


def test_a_failed_run_is_told_and_not_averaged(tmp_path: Any) -> None:
    summary = summarise(make_study(tmp_path, ACCURACIES | {"0.9": [66.0, None, 64.0]})[1])  # type: ignore[dict-item]
    row = cell_of(summary, "0.9")
    assert (row["mean"], row["runs"], row["failed"]) == (65.0, 2, 1)
    assert display(summary).iloc[-1]["failed"] == "1: NaN"


def test_a_cell_without_any_result_has_a_row(tmp_path: Any) -> None:
    shown = display(summarise(make_study(tmp_path, ACCURACIES | {"0.9": [None]})[1]))  # type: ignore[dict-item]
    assert shown.iloc[-1]["k-NN"] == "-"


def test_a_study_without_any_result_has_a_table(tmp_path: Any) -> None:
    assert len(display(summarise(make_study(tmp_path, {"0.75": [None], "0.9": [None]})[1]))) == 2  # type: ignore[dict-item]


def test_rank_agreement_compares_with_the_paper(tmp_path: Any) -> None:
    summary = summarise(make_study(tmp_path, ACCURACIES)[1])
    assert "Spearman 0.60" in agreement(summary)[0]  # measured order 0.5, 0.9, 0.75, 0.8; paper 0.9, 0.5, 0.8, 0.75


def test_the_default_is_marked(tmp_path: Any) -> None:
    shown = display(summarise(make_study(tmp_path, ACCURACIES)[1]))
    assert shown["cell"].tolist() == ["0.5", "0.75 *", "0.8", "0.9"]


def test_files_of_every_format_are_written(tmp_path: Any) -> None:
    record, frame = make_study(tmp_path / "runs", ACCURACIES)
    directory = RunDirectory(tmp_path / "study")
    write_study(directory, record, frame)
    names = {file.name for file in directory.path.iterdir()}
    assert names == {"results.csv", "table.csv", "table.md", "table.tex", "figure.png", "figure.pdf"}
    latex = (directory.path / "table.tex").read_text()
    assert r"\toprule" in latex
    assert "▼" not in latex


@pytest.mark.parametrize("axis", ["mask.ratio", ""])
def test_a_figure_has_a_panel_per_probe_and_one_of_the_paper(axis: str, tmp_path: Any) -> None:
    _, frame = make_study(tmp_path, ACCURACIES)
    assert len(study_figure(frame, axis, log_axis=False).axes) == 2
