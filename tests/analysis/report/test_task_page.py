from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.report.report import Models, make_report, write_report
from analysis.report.task_page import TaskPage, task_page
from analysis.results.curves import read_curves
from analysis.studies.encoded_images import NOTHING, EncodedImages
from tests.analysis.studies.test_task_figures import curves_of, of_tasks
from tests.helpers.study_factory import MASK_RATIO, study_frame_of

DRAWS = np.random.default_rng(0)
ENCODED = EncodedImages(
    DRAWS.uniform(size=(20, 4, 4, 3)),
    np.arange(20) % 5,
    DRAWS.normal(size=(20, 48)),
    {(cell, seed): DRAWS.normal(size=(20, 6)) for cell in ("mae", "rotation", "denoise") for seed in (0, 1)},
)


def made(frame: pd.DataFrame, encoded: EncodedImages = ENCODED) -> TaskPage:
    curves = curves_of(frame, {"mae": [40.0, 50.0], "denoise": [50.0, 60.0]})
    page = task_page(frame, curves, lambda study: encoded)
    assert page is not None
    return page


def shown(page: TaskPage) -> list[str]:
    return [picture.name.removeprefix("pretext-0a0a0a0a-") for picture in page.pictures]


def test_a_study_of_tasks_has_costs_curves_neighbours_and_similarity() -> None:
    page = made(of_tasks())
    learning = [f"learning-{spent}" for spent in ("epochs", "tflop", "seconds")]
    assert shown(page) == ["tflop", "seconds", *learning, "neighbours", "similarity"]
    assert page.notes == []


def test_a_study_of_something_else_has_no_page() -> None:
    frame = study_frame_of(MASK_RATIO)
    assert task_page(frame, read_curves(frame[:0], Path()), lambda study: ENCODED) is None


def test_times_of_other_conditions_are_left_out_and_that_is_said() -> None:
    frame = of_tasks()
    frame.loc[frame["cell"] == "rotation", "threads"] = "8"
    page = made(frame)
    (note,) = page.notes
    assert note.endswith("left out of times: trainings on a processor, 8 threads (rotation).")
    named = [{text.get_text() for text in picture.figure.axes[0].texts} for picture in page.pictures[:2]]
    assert named == [{"mae", "rotation", "denoise"}, {"mae", "denoise"}]


def test_what_cannot_be_shown_is_said() -> None:
    frame = of_tasks()
    page = task_page(frame, curves_of(frame, {}), lambda study: NOTHING)
    assert page is not None
    assert shown(page) == ["tflop", "seconds"]
    assert [note.split(":")[0] for note in page.notes] == [
        "No learning curves",
        "No neighbours, no similarity of features",
    ]


def test_runs_that_were_left_out_are_named() -> None:
    encoded = EncodedImages(**{**vars(ENCODED), "left_out": ["denoise, seed 1 (abc): it is damaged"]})
    assert made(of_tasks(), encoded).notes == [
        "Left out of neighbours and similarity: denoise, seed 1 (abc): it is damaged."
    ]


def test_a_collapsed_task_is_named_under_the_matrix() -> None:
    flat = {("flat", seed): np.ones((20, 6)) for seed in (0, 1)}
    page = made(of_tasks(), EncodedImages(**{**vars(ENCODED), "features": {**ENCODED.features, **flat}}))
    assert page.pictures[-1].caption.endswith("Empty: flat, with the same features for all images.")
    assert "Empty" not in made(of_tasks()).pictures[-1].caption


@pytest.mark.parametrize("kind", ["html", "md", "tex"])
def test_the_page_stands_in_every_document(kind: Any, tmp_path: Path) -> None:
    frame = pd.concat([of_tasks(), study_frame_of(MASK_RATIO)])
    report = make_report(frame, curves_of(of_tasks(), {"mae": [1.0, 2.0]}), Models(encode=lambda study: ENCODED))
    write_report(report, tmp_path / f"report.{kind}", kind)
    text = (tmp_path / f"report.{kind}").read_text()
    assert text.count("Which task, at what cost?") == 1
    assert all(picture.caption[:40] in text for picture in made(of_tasks()).pictures)
    if kind == "html":
        assert text.count('href="#tasks-1-1"') + text.count('href="#tasks-1-2"') == 1
    else:
        files = [file.name for file in (tmp_path / "report_figures").iterdir() if "pretext" in file.name]
        assert len(files) == 2 + 7  # of every study, and of its tasks
