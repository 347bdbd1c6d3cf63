"""The files of a study: what is drawn again, and what is not."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.studies.write_study import write_study
from mae.runs.directory import RunDirectory
from tests.helpers.study_factory import MASK_RATIO, study_frame_of

FIGURES = ("figure.png", "figure.pdf")


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "studies" / "mask-ratio-1")
    write_study(directory, frame(), tmp_path)
    return directory


def frame() -> pd.DataFrame:
    return study_frame_of(MASK_RATIO)


def drawn(directory: RunDirectory) -> list[int]:
    """Return what tells each figure from one that has taken its place: its time of change."""
    return [(directory.path / name).stat().st_ctime_ns for name in FIGURES]


def test_figures_of_unchanged_results_are_not_drawn_again(directory: RunDirectory, tmp_path: Path) -> None:
    before = drawn(directory)
    write_study(directory, frame(), tmp_path)
    assert drawn(directory) == before


def test_figures_of_changed_results_are_drawn_again(directory: RunDirectory, tmp_path: Path) -> None:
    before, changed = drawn(directory), frame()
    changed.loc[changed["seed"] == 0, "top1"] += 1
    write_study(directory, changed, tmp_path)
    assert all(new != old for new, old in zip(drawn(directory), before, strict=True))


def test_figures_under_another_test_are_drawn_again(directory: RunDirectory, tmp_path: Path) -> None:
    before = drawn(directory)
    write_study(directory, frame(), tmp_path, "welch")
    assert all(new != old for new, old in zip(drawn(directory), before, strict=True))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_that_was_removed_is_drawn_again(name: str, directory: RunDirectory, tmp_path: Path) -> None:
    (directory.path / name).unlink()
    write_study(directory, frame(), tmp_path)
    assert (directory.path / name).exists()


def test_a_broken_figure_is_drawn_again(directory: RunDirectory, tmp_path: Path) -> None:
    figure = directory.path / "figure.png"
    figure.write_bytes(b"half a pict")
    write_study(directory, frame(), tmp_path)
    assert figure.read_bytes().startswith(b"\x89PNG")
