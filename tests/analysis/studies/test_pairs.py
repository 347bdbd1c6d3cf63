import io
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from analysis.report.terminal import print_frame, show_studies
from analysis.statistics.comparisons import TESTS, Test, compare_pairs
from analysis.studies.pairs import COLUMNS, MOST, all_pairs, matrices
from analysis.studies.table_formats import to_latex
from analysis.studies.write_study import write_study
from mae.runs.directory import RunDirectory
from tests.helpers import study_factory
from tests.helpers.study_factory import Accuracies, study_frame_of

CELLS: Accuracies = {"0.5": [60.0, 61.0, 62.1], "0.75": [70.0, 71.0, 72.0], "0.8": [70.5, 72.5, 71.0]}


def study(accuracies: Accuracies = CELLS) -> pd.DataFrame:
    return study_frame_of(accuracies, probes=("knn",))


def named(*names: str, seeds: int = 2) -> pd.DataFrame:
    """Return a study whose cells each lie 1 point above the one before."""
    accuracies = {
        name: [50.0 + place + 0.1 * (place * seed % 3) for seed in range(seeds)] for place, name in enumerate(names)
    }
    return study_frame_of(accuracies, axis="", default=names[0], probes=("knn",))


def shown(frame: pd.DataFrame, test: Test | None = None) -> tuple[str, pd.DataFrame]:
    [(told, matrix)] = matrices(frame, all_pairs(frame, test))
    return told, matrix


@pytest.mark.parametrize("test", TESTS)
def test_every_pair_is_a_row_with_its_test(test: Test) -> None:
    frame = study()
    pairs = all_pairs(frame, test)
    expected, _ = compare_pairs(frame["top1"].tolist(), frame["cell"].tolist(), frame["seed"].tolist(), test)
    assert list(pairs.columns) == COLUMNS
    assert [(row.cell, row.other) for row in pairs.itertuples()] == [("0.5", "0.75"), ("0.5", "0.8"), ("0.75", "0.8")]
    assert [(row.difference, row.low, row.high, row.p) for row in pairs.itertuples()] == [
        *map(tuple, expected.values())
    ]
    assert set(pairs["test"]) == {test}


def test_a_cell_without_results_has_no_pairs() -> None:
    pairs = all_pairs(study({**CELLS, "0.9": [None, None, None]}))
    assert "0.9" not in {*pairs["cell"], *pairs["other"]}
    assert all_pairs(study({"0.75": [70.0, 71.0], "0.9": [None, None]})).empty


def test_a_matrix_has_the_best_cell_first_and_says_what_is_told_apart() -> None:
    told, matrix = shown(study())
    assert matrix.values.tolist() == [
        ["0.8", "71.3", "≈ +0.3", "▲ +10.3"],
        ["0.75 *", "71.0", "", "▲ +10.0"],
        ["0.5", "61.0", "", ""],
    ]
    assert list(matrix.columns[2:]) == ["0.75 *", "0.5"]
    assert "2 told apart (▲ ▼), 1 not (≈)" in told


def test_one_width_of_all_intervals_is_told_once_and_several_from_the_smallest_to_the_largest() -> None:
    frame = study()
    halves = {test: (pairs["high"] - pairs["low"]) / 2 for test in TESTS for pairs in [all_pairs(frame, test)]}
    assert f"± {halves['blocks'].iloc[0]:.1f} and" in shown(frame)[0]
    assert f"± {halves['paired'].min():.1f} to {halves['paired'].max():.1f} and" in shown(frame, "paired")[0]


@pytest.mark.parametrize("test", TESTS)
def test_the_correction_of_each_test_is_told(test: Test) -> None:
    assert ("Tukey" if test == "blocks" else "Holm") in shown(study(), test)[0]


@pytest.mark.parametrize("test", TESTS)
def test_with_one_seed_nothing_is_claimed_and_that_is_said(test: Test) -> None:
    told, matrix = shown(study({cell: values[:1] for cell, values in CELLS.items()}), test)
    assert told.endswith("one seed: no test, nothing is claimed")
    assert matrix["0.5"].tolist() == ["+10.5", "+10.0", ""]


def test_pairs_that_cannot_be_tested_are_counted() -> None:
    told, _ = shown(study({**CELLS, "0.8": [70.5, None, None]}), "paired")
    assert "2 without a test" in told


def test_long_names_are_numbered() -> None:
    matrix = shown(named("crop, fixed size", "crop, random size", "none"))[1]
    assert matrix["cell"].tolist() == ["1  none", "2  crop, random size", "3  crop, fixed size *"]
    assert list(matrix.columns[2:]) == ["2", "3"]


def test_ten_cells_fit_in_120_columns() -> None:
    frame = named(*(f"{10 * place}.25" for place in range(1, 11)))
    frame["top1"] = frame["top1"] + 5 * frame["order"]  # differences of two digits
    printed = io.StringIO()
    print_frame(shown(frame)[1], Console(file=printed, width=500))
    assert max(map(len, printed.getvalue().splitlines())) <= 120


def test_of_many_cells_a_matrix_has_signs_only() -> None:
    told, matrix = shown(named(*(f"{place}" for place in range(MOST + 1))))
    assert "sign of row minus column" in told
    assert set(matrix.iloc[:, 2:].to_numpy().ravel()) == {"", "▲"}


def test_pairs_are_written_if_asked_for_and_then_kept_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.studies.write_study.save_figure", lambda *drawing: None)
    directory, file = RunDirectory(tmp_path / "study"), tmp_path / "study" / "pairs.csv"
    write_study(directory, study(), tmp_path)
    assert not file.exists()
    write_study(directory, study(), tmp_path, pairs=True)
    assert len(pd.read_csv(file)) == 3
    write_study(directory, study({**CELLS, "0.9": [50.0, 51.0, 52.0]}), tmp_path)
    assert len(pd.read_csv(file)) == 6


def test_a_study_is_printed_with_its_pairs_and_all_their_numbers_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.studies.write_study.save_figure", lambda *drawing: None)
    directory = study_factory.write_study(tmp_path, CELLS)
    plan, printed = SimpleNamespace(record=study_factory.study_record(CELLS), directory=directory), io.StringIO()
    [told] = show_studies([(plan.record, plan.directory)], tmp_path, Console(file=printed, width=120), pairs=True)
    assert len(told["pairs"]) == 6  # three of each probe
    assert set(told["pairs"][0]) == set(COLUMNS)
    assert printed.getvalue().count("3 pairs of cells, row minus column") == 2


def test_latex_can_set_a_matrix() -> None:
    told, matrix = shown(study())
    assert to_latex(matrix, told).isascii()
