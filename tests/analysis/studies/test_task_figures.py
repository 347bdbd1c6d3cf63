import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.results.curves import COLUMNS
from analysis.studies.label_places import place_labels
from analysis.studies.pareto import pareto_front
from analysis.studies.task_figures import learning_curves, learning_figure, task_cost_figure
from tests.helpers.study_factory import study_frame_of

TASKS = {"mae": [60.0, 61.0], "rotation": [55.0, 57.0], "denoise": [70.0, 72.0], "random": [40.0, 40.0]}


def of_tasks(tasks: Any = TASKS, **more: Any) -> pd.DataFrame:
    overrides = {cell: {"pretext.kind": cell} for cell in tasks}
    given = {"name": "pretext", "axis": "", "default": "mae", "overrides": overrides} | more
    frame = study_frame_of(tasks, **given)
    frame["tflop"] = frame["order"].map({0: 1.0, 1: 2.0, 2: 4.0, 3: np.nan}).fillna(frame["order"] + 3.0)
    frame.loc[frame["cell"] == "random", ["gflops", "tflop"]] = 0.0, np.nan
    return frame


def names(figure: Figure) -> list[set[str]]:
    return [{text.get_text() for text in panel.texts} for panel in figure.axes]


def test_every_trained_task_is_named_under_each_probe_and_the_untrained_encoder_is_a_line() -> None:
    figure = task_cost_figure(of_tasks(), "tflop")
    assert [panel.get_title() for panel in figure.axes] == ["linear probe", "k-NN probe"]
    assert names(figure) == [{"mae", "rotation", "denoise"}] * 2
    levels = {str(line.get_label()): line.get_ydata()[0] for line in figure.axes[0].lines if line.get_gid() == "level"}
    assert levels == {"untrained encoder": 40.0, "raw pixels": 30.0}


def test_a_task_with_an_encoder_of_its_own_has_a_mark_at_its_own_baseline() -> None:
    frame = of_tasks()
    frame.loc[frame["cell"] == "denoise", "untrained"] = 20.0
    lines = task_cost_figure(frame, "tflop").axes[0].lines
    (own,) = [line for line in lines if "of the task" in str(line.get_label())]
    assert own.get_xydata().tolist() == [[4.0, 20.0]]
    assert [line.get_ydata()[0] for line in lines if line.get_label() == "untrained encoder"] == [40.0]


def test_the_front_is_that_of_the_means() -> None:
    panel = task_cost_figure(of_tasks(), "tflop").axes[0]
    (front,) = [line for line in panel.lines if line.get_label() == "Pareto front of the means"]
    assert front.get_xydata().tolist() == [[1.0, 60.5], [4.0, 71.0]]
    rows = pd.DataFrame({"cost": [1.0, 2.0, 4.0], "mean": [60.5, 56.0, 71.0]})
    assert front.get_xydata().tolist() == pareto_front(rows, "cost", "mean").to_numpy().tolist()


def test_bars_are_of_differences_from_the_default_and_of_means_where_there_is_no_default() -> None:
    labels = [
        {str(line.get_label()) for line in task_cost_figure(frame, "tflop").axes[0].lines if line.get_gid() == "bar"}
        for frame in (of_tasks(), of_tasks(default="none"))
    ]
    assert labels[0] == {"95 % interval of the difference from the default, all together"}
    assert labels[1] == {"95 % interval of the mean over seeds"}


def test_without_a_cost_there_is_no_figure() -> None:
    assert not task_cost_figure(of_tasks().assign(seconds=np.nan), "seconds").axes


@pytest.mark.parametrize("seed", range(5))
def test_names_of_twenty_crowded_points_do_not_overlap_and_stay_in_the_panel(seed: int) -> None:
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    panel = figure.subplots()
    points = np.random.default_rng(seed).beta(2, 2, size=(20, 2))
    panel.plot(*points.T, "o")
    labels = place_labels(panel, [(x, y) for x, y in points], [f"task {number:02}" for number in range(20)])
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in labels]
    assert [label.get_text() for label in labels] == [f"task {number:02}" for number in range(20)]
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].padded(-0.5).overlaps(pair[1])]
    inside = panel.get_window_extent().padded(1)
    assert all(inside.contains(*box.min) and inside.contains(*box.max) for box in boxes)


def test_a_name_stands_nearest_to_its_own_point() -> None:
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    panel = figure.subplots()
    panel.set(xlim=(0, 1), ylim=(0, 1))
    points = [(0.5, 0.5), (0.56, 0.53), (0.44, 0.47)]
    labels = place_labels(panel, points, ["first", "second", "third"])
    where = panel.transData.transform(points)
    for index, label in enumerate(labels):
        box = label.get_window_extent()
        far = np.hypot(*np.maximum(0, np.maximum(box.min - where, where - box.max)).T)
        assert far.argmin() == index


def curves_of(frame: pd.DataFrame, accuracies: dict[str, list[float]]) -> pd.DataFrame:
    """Steps 50 and 100 of ten epochs, the second seed two points better; before them one without an evaluation."""
    places = (25, 2), (50, 4), (100, 9)
    rows = [
        {**dict.fromkeys(COLUMNS, np.nan), **{key: row[key] for key in ("study_id", "order", "cell", "seed")},
         "step": step, "epoch": epoch, "online_knn": value + 2 * row["seed"]}
        for row in frame.drop_duplicates(["cell", "seed"]).to_dict("records")
        for (step, epoch), value in zip(places, [np.nan, *accuracies.get(row["cell"], [])], strict=False)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype(COLUMNS)


def test_what_was_spent_is_the_share_of_the_steps() -> None:
    frame = of_tasks()
    points = learning_curves(frame, curves_of(frame, {"denoise": [50.0, 60.0]}))
    first = points[points["seed"] == 0]
    assert first["cell"].tolist() == ["denoise"] * 2
    assert first["epochs"].tolist() == [5.0, 10.0]
    assert first["tflop"].tolist() == [2.0, 4.0]
    assert first["seconds"].tolist() == [5.0, 10.0]


def test_learning_curves_have_a_panel_per_task_the_best_first_with_a_band_over_seeds() -> None:
    frame = of_tasks()
    points = learning_curves(frame, curves_of(frame, {"mae": [40.0, 50.0], "denoise": [50.0, 60.0]}))
    figure = learning_figure(points, "tflop")
    assert [panel.get_title() for panel in figure.axes] == ["denoise, 61 %", "mae, 51 %"]
    own = figure.axes[0].lines[-1]
    assert own.get_xydata().tolist() == [[2.0, 51.0], [4.0, 61.0]]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (50.0, 62.0)


def test_one_evaluation_is_no_curve() -> None:
    frame = of_tasks()
    points = learning_curves(frame, curves_of(frame, {"mae": [40.0], "denoise": [50.0]}))
    assert len(points) == 4
    assert not learning_figure(points, "epochs").axes
