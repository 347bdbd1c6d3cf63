from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.text import Text

from analysis.results.curves import POINTS, read_curves
from analysis.results.loading import from_runs
from analysis.studies.figures import cost_figure, loss_figure, overview_figure, reconstruction_figure, study_figure
from analysis.studies.tables import summarise
from mae.runs.directory import RunDirectory
from mae.runs.metrics import LIDAR, RANKME
from tests.helpers.study_factory import MASK_RATIO, fingerprint, study_frame_of, write_study

PAPER = {cell: {"linear": value} for cell, value in (("0.5", 69.9), ("0.75", 73.5), ("0.9", 66.1))}


def test_a_curve_has_a_panel_per_probe_and_the_papers_on_a_grey_scale() -> None:
    figure = study_figure(study_frame_of(MASK_RATIO, paper=PAPER))
    figure.draw_without_rendering()
    assert [panel.get_title() for panel in figure.axes[:2]] == ["linear probe", "k-NN probe"]
    assert [panel.get_ylabel() for panel in figure.axes] == ["test top-1, %"] * 2 + ["the paper's top-1, %"]
    paper = figure.axes[2].lines[0]  # beside the linear probe alone: the paper has no other
    assert paper.get_ydata().tolist() == [69.9, 73.5, 66.1]


def is_bar(line: Line2D) -> bool:
    return bool(line.get_linewidth() == 1.5 and np.isfinite(line.get_xdata()).all() and len(line.get_xdata()) == 2)


def test_a_bar_leaves_out_the_defaults_line_exactly_where_the_cell_is_told_apart() -> None:
    frame = study_frame_of({"a": [60.0, 61.2, 62.0], "b": [70.0, 71.0, 72.3], "c": [60.4, 61.0, 62.1]}, axis="",
                           default="a", probes=("linear",))  # fmt: skip
    panel = study_figure(frame).axes[0]
    default = sum([60.0, 61.2, 62.0]) / 3
    assert any(list(line.get_xdata()) == pytest.approx([default, default]) for line in panel.lines)
    bars = {line.get_ydata()[0]: line.get_xdata() for line in panel.lines if is_bar(line)}
    told = {row["order"]: row["verdict"] != "within noise" for row in summarise(frame).to_dict("records")}
    assert {order: not low <= default <= high for order, (low, high) in bars.items()} == {1: told[1], 2: told[2]}
    assert told == {0: True, 1: True, 2: False}


def test_every_mark_is_explained_once() -> None:
    figure = study_figure(study_frame_of(MASK_RATIO, paper=PAPER))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == sorted(set(labels))
    assert {
        "run of one seed, beside its mean",
        "mean of a cell, told apart from the default",
        "mean of the default",
        "95 % interval of the difference from the default, all together",
        "the default's mean: a cell is told apart if its bar misses this line",
    } <= set(labels)


def test_the_legend_shows_the_marks_of_every_panel() -> None:
    figure = study_figure(study_frame_of(MASK_RATIO))
    shown = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    default = [handle for handle in figure.legends[0].findobj(Line2D) if handle.get_markeredgecolor() == "black"]
    assert {handle.get_marker() for handle in default} == {"o", "s"}
    assert (
        shown["95 % interval of the difference from the default, all together"].get_marker() == "|"
    )  # as the bars stand


def test_a_cell_is_filled_where_it_is_told_apart_from_the_default() -> None:
    frame = study_frame_of({"a": [60.0, 61.2, 62.0], "b": [70.0, 71.0, 72.3], "c": [60.4, 61.0, 62.1]}, axis="",
                           default="a", probes=("linear",))  # fmt: skip
    drawn = [line for line in study_figure(frame).axes[0].lines if "mean of a cell" in str(line.get_label())]
    assert [line.get_ydata()[0] for line in drawn if line.get_markerfacecolor() == "white"] == [2]
    assert [line.get_ydata()[0] for line in drawn if line.get_markerfacecolor() != "white"] == [1]


def test_with_one_seed_no_cell_is_said_to_be_told_apart() -> None:
    labels = study_figure(study_frame_of({"0.5": [60.0], "0.75": [70.0]})).legends[0].get_texts()
    assert not [text.get_text() for text in labels if "told apart" in text.get_text()]
    assert "interval over test images" in [text.get_text() for text in labels]


def test_baselines_are_lines_or_a_dash_per_cell_where_cells_differ() -> None:
    frame = study_frame_of({"a": [50.0, 51.2], "b": [46.0, 45.1]}, axis="", default="a", probes=("linear",))
    frame["untrained"], frame["pixels"] = 44.0, frame["order"] + 45.0
    labels = {str(line.get_label()): list(line.get_xdata()) for line in study_figure(frame).axes[0].lines}
    assert labels["untrained encoder"] == [44.0, 44.0]
    assert labels["raw pixels of the cell"] == [45.0, 46.0]


def test_a_cells_own_untrained_encoder_has_the_interval_of_the_gain_on_it() -> None:
    frame = study_frame_of({"0.1": [50.0, 52.0], "1.0": [80.0, 82.0]}, axis="probe.labels", probes=("finetune",))
    frame["untrained"] = [40.0, 43.0, 79.0, 78.0]
    panel = study_figure(frame).axes[0]
    (bars,) = panel.collections
    gains = {"0.1": 9.5, "1.0": 2.5}
    middles = [segment[:, 1].mean() for segment in bars.get_segments()]  # type: ignore[attr-defined]
    assert middles == pytest.approx([51 - gains["0.1"], 81 - gains["1.0"]])


@pytest.mark.parametrize(("kind", "title"), [("linear", "linear probe"), ("finetune", "fine-tuning")])
def test_panels_are_titled_by_their_probe(kind: str, title: str) -> None:
    frame = study_frame_of(MASK_RATIO, probes=(kind,))
    assert [panel.get_title() for panel in study_figure(frame).axes] == [title]


def test_every_seed_is_a_dot_and_the_mean_is_drawn() -> None:
    panel = study_figure(study_frame_of(MASK_RATIO, probes=("linear",))).axes[0]
    drawn = [line.get_ydata() for line in panel.lines]
    assert sorted(drawn[0]) == sorted(value for values in MASK_RATIO.values() for value in values)
    assert list(drawn[-1]) == [61.0, 71.0, 65.0]


def test_equal_seeds_are_dots_beside_each_other() -> None:
    figure = study_figure(study_frame_of({"0.5": [60.0, 60.0, 61.0], "0.75": [62.0, 63.0, 64.0]}, probes=("knn",)))
    dots = [line for line in figure.axes[0].get_lines() if line.get_marker() == "."]
    places = [tuple(line.get_transform().transform(point)) for line in dots for point in line.get_xydata()]
    assert len(set(places)) == len(places) == 6


def test_a_failed_run_is_not_drawn() -> None:
    panel = study_figure(study_frame_of({**MASK_RATIO, "0.9": [66.0, None]}, probes=("linear",))).axes[0]
    assert len(panel.lines[0].get_ydata()) == 7


def test_cells_without_an_axis_are_rows() -> None:
    panel = study_figure(study_frame_of({"a": [1.0, 2.0], "b": [3.0]}, axis="", default="a")).axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["a", "b"]
    assert panel.get_xlabel() == "test top-1, %"


def test_a_schedule_has_a_logarithmic_axis_with_its_own_values() -> None:
    frame = study_frame_of({"25": [1.0], "100": [2.0]}, axis="train.epochs", log_axis=True, default="100")
    panel = study_figure(frame).axes[0]
    assert panel.get_xscale() == "log"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["25", "100"]


def test_an_unprobed_study_shows_speed_ups() -> None:
    frame = study_frame_of({"a": [1.0], "b": [1.0]}, axis="", default="a", probes=(), seconds={"b": 5.0})
    assert study_figure(frame).axes[0].get_xlabel() == "speed-up of pretraining"


def test_nothing_finished_gives_no_panel() -> None:
    frame = study_frame_of({"0.75": [None]})
    for draw in (study_figure, overview_figure, cost_figure):
        assert draw(frame).axes == []


def test_the_overview_has_a_panel_per_study() -> None:
    studies = [
        study_frame_of(MASK_RATIO),
        study_frame_of({"a": [1.0]}, name="target", axis="", default="a", source="1d"),
    ]
    figure = overview_figure(pd.concat(studies))
    assert [panel.get_title() for panel in figure.axes] == ["Fig. 5  mask-ratio", "1d  target"]


def test_costs_are_drawn_against_accuracy_with_the_front_named() -> None:
    frame = study_frame_of(MASK_RATIO, probes=("linear",))
    frame["tflop"] = frame["order"] + 1.0
    panel = cost_figure(frame).axes[0]
    assert [text.get_text() for text in panel.texts] == ["mask-ratio: 0.5", "mask-ratio: 0.75"]


def test_names_of_cells_that_lie_close_on_the_front_do_not_cover_one_another() -> None:
    frame = study_frame_of({"0.5": [60.0], "0.6": [60.1], "0.7": [60.2], "0.75": [70.0]}, probes=("linear",))
    frame["tflop"] = frame["order"].map({0: 1.0, 1: 1.01, 2: 1.02, 3: 4.0})
    figure = cost_figure(frame)
    FigureCanvasAgg(figure).draw()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # without the line to its point
    assert len(boxes) == 4
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_a_cell_that_is_probed_in_another_way_is_on_no_front() -> None:
    more: dict[str, Any] = {"axis": "probe.knn.k", "default": "20", "probes": ("knn",)}
    frame = study_frame_of({"5": [60.0], "20": [70.0]}, name="k", **more)
    panel = cost_figure(pd.concat([frame, study_frame_of(MASK_RATIO, probes=("knn",))])).axes[0]
    drawn = [len(points.get_offsets()) for points in panel.collections]
    assert drawn == [1, 3]
    assert cost_figure(frame[frame["cell"] == "5"]).axes == []


def test_a_speed_up_without_a_reference_of_the_same_device_is_not_drawn() -> None:
    frame = study_frame_of({"a": [1.0], "b": [1.0, 1.0], "c": [1.0]}, axis="", default="a", probes=())
    frame.loc[(frame["cell"] == "c") | (frame["seed"] == 1), "device"] = "another"
    panel = study_figure(frame).axes[0]
    assert [list(line.get_xdata()) for line in panel.lines if line.get_marker() == "D"] == [[1.0], [1.0]]


def test_losses_come_from_run_directories(tmp_path: Path) -> None:
    runs = tmp_path
    write_study(runs, MASK_RATIO)
    curves = read_curves(from_runs(runs, print), runs)
    assert curves.groupby(["cell", "seed"]).size().tolist() == [3] * 9
    panel = loss_figure(curves).axes[0]
    assert len(panel.lines) == 9
    assert panel.get_xlabel() == "optimiser step"


def test_losses_that_cannot_be_compared_have_a_panel_each(tmp_path: Path) -> None:
    write_study(tmp_path, MASK_RATIO)
    figure = loss_figure(read_curves(from_runs(tmp_path, print), tmp_path), comparable=False)
    assert [panel.get_title() for panel in figure.axes] == [*MASK_RATIO]
    assert [len(panel.lines) for panel in figure.axes] == [3, 3, 3]


@pytest.mark.parametrize("axis", ["", "mask.ratio"])
def test_an_interval_beyond_what_is_possible_runs_off_the_axis(axis: str) -> None:
    cells = {"0.5": [20.0, 95.0, 60.0], "0.75": [80.0, 30.0, 97.0]}
    panel = study_figure(study_frame_of(cells, axis=axis, default="0.75")).axes[0]
    low, high = panel.get_ylim() if axis else panel.get_xlim()
    assert (low, high) == (-2, 102)


def test_a_long_curve_is_thinned_but_keeps_its_end(tmp_path: Path) -> None:
    runs = tmp_path
    write_study(runs, {"0.75": [1.0]})
    run = RunDirectory(runs / fingerprint("mask-ratio", "0.75", 0))
    for step in range(101, 3 * POINTS):
        run.append_metrics(step, {"train/loss": 1.0})
    steps = read_curves(from_runs(runs, print), runs)["step"].tolist()
    assert len(steps) <= POINTS + 1
    assert steps[-1] == 3 * POINTS - 1


def test_a_long_curve_keeps_every_evaluation_whichever_numbers_it_has(tmp_path: Path) -> None:
    write_study(tmp_path, {"0.75": [1.0]})
    run = RunDirectory(tmp_path / fingerprint("mask-ratio", "0.75", 0))
    for step in range(101, 5 * POINTS):
        run.append_metrics(step, {"train/loss": 1.0} | ({RANKME: 3.0, LIDAR: 2.0} if step in (499, 502) else {}))
    curves = read_curves(from_runs(tmp_path, print), tmp_path).set_index("step")
    ranks = curves[["online_rankme", "online_lidar"]].dropna()
    assert ranks.to_dict("list") == {"online_rankme": [3.0, 3.0], "online_lidar": [2.0, 2.0]}
    assert ranks.index.tolist() == [499, 502]
    assert curves.loc[499:502, "online_knn"].isna().all()


def test_reconstructions_stand_under_their_cells() -> None:
    images = np.zeros((2, 4, 4, 1))
    figure = reconstruction_figure(images, {"0.5": (images, images), "0.9": (images, images)})
    assert [panel.get_title() for panel in figure.axes[:3]] == ["original", "0.5", "0.9"]
    assert sum(bool(panel.images) for panel in figure.axes) == 2 + 2 * 2 * 2


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_figures_can_be_saved(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"figure.{suffix}"
    study_figure(study_frame_of(MASK_RATIO, paper=PAPER)).savefig(path)
    assert path.stat().st_size > 5000


@pytest.mark.parametrize("count", [2, 30])
@pytest.mark.parametrize("name", ["{:.3f}", "a cell with quite a long name, number {:.3f}"])
def test_all_that_is_written_is_inside_the_picture(count: int, name: str) -> None:
    cells = {name.format(place / 100): [60.0 + place, 61.0, 62.5] for place in range(1, count + 1)}
    axis = "mask.ratio" if name == "{:.3f}" else ""
    figure = study_figure(study_frame_of(cells, axis=axis, default=next(iter(cells)), probes=("linear", "knn")))
    FigureCanvasAgg(figure).draw()
    written: list[Text] = [*figure.texts, *figure.legends[0].get_texts()]
    for panel in figure.axes:
        written += [panel.title, panel.xaxis.label, panel.yaxis.label, *([] if axis else panel.get_yticklabels())]
    shown = figure.bbox.padded(1)
    for text in filter(Text.get_text, written):
        box = text.get_window_extent()
        assert shown.x0 <= box.x0 and box.x1 <= shown.x1, text.get_text()  # noqa: PT018
        assert shown.y0 <= box.y0 and box.y1 <= shown.y1, text.get_text()  # noqa: PT018


@pytest.mark.parametrize("probes", [("knn",), ("linear", "knn")])
def test_nothing_of_a_studys_figure_is_cut_off(probes: tuple[str, ...]) -> None:
    base = "cifar10-tiny " + " ".join(f"model.encoder.setting{number}=0.5" for number in range(8))
    figure = study_figure(study_frame_of(MASK_RATIO, probes=probes, base=base))
    figure.draw_without_rendering()
    for part in (figure.legends[0], figure._suptitle):  # type: ignore[attr-defined]
        extent = part.get_window_extent()
        assert extent.x0 >= 0
        assert extent.x1 <= figure.bbox.width
