import pytest

from analysis.statistics.comparisons import Test
from analysis.studies.answer import answers, listed, power_lines
from tests.helpers.study_factory import study_frame_of

RATIOS = {
    "0.1": [50.0, 51.2, 50.5],
    "0.3": [58.9, 60.1, 59.2],
    "0.5": [60.1, 61.0, 60.2],
    "0.7": [60.0, 61.3, 60.4],
    "0.9": [54.2, 55.1, 54.6],
}


def test_the_answer_names_the_best_what_is_not_told_apart_and_what_is_worse_by_how_much() -> None:
    frame = study_frame_of(RATIOS, default="0.7", probes=("knn",))
    assert answers(frame) == [
        "k-NN: best at 0.7 (60.6 %); not told apart: 0.5, 0.7; worse by 1.2 to 10.0 points: 0.1, 0.3, 0.9"
    ]


def test_with_one_seed_only_the_best_is_named() -> None:
    frame = study_frame_of({cell: values[:1] for cell, values in RATIOS.items()}, default="0.7", probes=("knn",))
    assert answers(frame) == ["k-NN: best at 0.5 (60.1 %); with one seed per cell no difference is told from noise"]
    assert power_lines(frame) == []


def test_cells_below_their_own_untrained_encoder_are_named() -> None:
    frame = study_frame_of(RATIOS, default="0.7", probes=("knn",))
    frame["untrained"] = 52.0
    assert answers(frame)[0].endswith("; not above its untrained encoder: 0.1")


def test_a_failed_cell_has_no_part_in_the_answer() -> None:
    frame = study_frame_of({**RATIOS, "0.1": [None, None, None]}, default="0.7", probes=("knn",))
    assert "0.1" not in answers(frame)[0]


def test_three_neighbours_on_an_axis_are_a_range_and_names_are_not() -> None:
    cells = ["0.1", "0.2", "0.3", "0.4", "0.5"]
    assert listed(["0.1", "0.2", "0.3", "0.5"], cells, True) == "0.1 to 0.3, 0.5"
    assert listed(["0.1", "0.2"], cells, True) == "0.1, 0.2"
    assert listed(["0.1", "0.2", "0.3"], cells, False) == "0.1, 0.2, 0.3"


def test_the_price_of_half_a_point_is_told_in_seeds_and_time() -> None:
    frame = study_frame_of({"a": [50.0, 53.0, 51.0], "b": [60.0, 61.0, 63.5]}, axis="", default="a", probes=("knn",))
    line = power_lines(frame)[0]
    assert "found 80% of the time; for 0.5 points it takes" in line
    seeds, more = (int(part.split()[0]) for part in line.split("it takes ")[1].split(", ")[:2])
    assert more == 2 * seeds - 6


@pytest.mark.parametrize("test", ["paired", "welch"])
def test_the_answer_claims_nothing_by_a_model_that_the_table_does_not_use(test: Test) -> None:
    frame = study_frame_of(RATIOS, default="0.7", probes=("knn",))
    assert answers(frame, test) == ["k-NN: best at 0.7 (60.6 %); what is told apart from the default is in the table"]
    assert power_lines(frame, test) == []


def test_where_the_model_does_not_fit_the_answer_claims_nothing_by_it() -> None:
    frame = study_frame_of(RATIOS, default="0.7", probes=("knn",))
    frame["top1"] *= 1 + 0.2 * frame["seed"]
    assert answers(frame)[0].endswith("; what is told apart from the default is in the table")
    assert power_lines(frame) == []
