import pytest

from analysis.statistics.comparisons import Test
from analysis.statistics.intervals import Contrast
from analysis.studies.answer import answers, compared_with_best, listed, power_lines
from analysis.studies.tables import display, summarise
from tests.helpers.study_factory import study_frame_of

RATIOS = {
    "0.1": [50.0, 51.2, 50.5],
    "0.3": [58.9, 60.1, 59.2],
    "0.5": [60.1, 61.0, 60.2],
    "0.7": [60.0, 61.3, 60.4],
    "0.9": [54.2, 55.1, 54.6],
}


def test_the_answer_compares_with_the_default_that_is_best() -> None:
    assert answers(study_frame_of(RATIOS, default="0.7", probes=("knn",))) == [
        "k-NN: best at 0.7, the default (60.6 %); against it: 0.1, 0.3, 0.9 worse by 1.2 to 10.0 points; "
        "0.5 not told apart"
    ]


def test_the_answer_compares_with_the_default_where_another_cell_is_best() -> None:
    assert answers(study_frame_of(RATIOS, default="0.3", probes=("knn",))) == [
        "k-NN: best at 0.7 (60.6 %); against the default, 0.3: 0.5, 0.7 better by 1.0 to 1.2 points; "
        "0.1, 0.9 worse by 4.8 to 8.8 points"
    ]


@pytest.mark.parametrize("test", [None, "paired", "welch"])
@pytest.mark.parametrize("default", ["0.3", "0.5", "0.7"])
def test_the_answer_says_what_the_table_says(default: str, test: Test | None) -> None:
    frame = study_frame_of(RATIOS, default=default, probes=("knn",))
    told = answers(frame, test)[0].split(": ", 2)[2]
    shown = summarise(frame, test).set_index("cell")["verdict"]
    words = {"higher": "better", "lower": "worse", "within noise": "not told"}
    said = {cell: part for part in told.split("; ") for cell in RATIOS if cell in part.split(" by ")[0]}
    assert {cell: verdict for cell, verdict in shown.items() if verdict != "default"} == {
        cell: next(verdict for verdict, word in words.items() if word in part) for cell, part in said.items()
    }


def test_where_no_cell_is_the_default_the_best_is_compared_as_one_of_all_pairs() -> None:
    frame = study_frame_of(RATIOS, default="", probes=("knn",))
    assert answers(frame) == [
        "k-NN: best at 0.7 (60.6 %); against it, as some of all pairs: 0.1, 0.3, 0.9 worse by 1.2 to 10.0 points; "
        "0.5 not told apart"
    ]
    assert compared_with_best(frame) == [4]
    assert compared_with_best(study_frame_of(RATIOS, default="0.7")) == []


def test_with_one_seed_only_the_best_is_named() -> None:
    frame = study_frame_of({cell: values[:1] for cell, values in RATIOS.items()}, default="0.7", probes=("knn",))
    assert answers(frame) == ["k-NN: best at 0.5 (60.1 %); with one seed per cell no difference is told from noise"]
    assert power_lines(frame) == []


def test_cells_whose_gain_over_the_untrained_encoder_may_be_none_or_is_a_loss_are_named() -> None:
    frame = study_frame_of(RATIOS, default="0.7", probes=("knn",))
    frame["untrained"] = 54.0
    assert answers(frame)[0].endswith(
        "; 0.1 worse than its untrained encoder (95 % each); 0.9 not shown to gain on the untrained encoder (95 % each)"
    )
    frame["untrained"] = 57.0
    assert answers(frame)[0].endswith("; 0.1, 0.9 worse than their untrained encoders (95 % each)")
    frame["untrained"] = frame["top1"].where(frame["cell"] == "0.9", 40.0) - 0.5  # a gain without any spread
    assert "untrained" not in answers(frame)[0]


def test_no_gain_of_the_untrained_encoder_on_itself_is_told() -> None:
    frame = study_frame_of(RATIOS, default="0.7", probes=("knn",))
    frame["untrained"] = frame["top1"].where(frame["cell"] == "0.1", 40.0)
    assert answers(frame)[0].endswith("; 0.1 not shown to gain on the untrained encoder (95 % each)")
    frame.loc[frame["cell"] == "0.1", "task"] = "random"
    assert "untrained" not in answers(frame)[0]
    shown = display(summarise(frame)).set_index("cell")["k-NN gain"]
    assert shown[shown == ""].index.tolist() == ["0.1"]


def test_cells_of_one_mean_are_best_together() -> None:
    equal = {"0.5": [60.0, 61.0], "0.7": [58.0, 59.5], "0.9": [61.0, 60.0]}
    first = [answers(study_frame_of(equal, default=name, probes=("knn",)))[0] for name in ("0.7", "0.9")]
    assert first[0].startswith("k-NN: best at 0.5 and 0.9 (60.5 %); against the default, 0.7: ")
    assert first[1].startswith("k-NN: best at 0.5 and 0.9, the default (60.5 %); against it: ")


def test_gains_are_not_told_twice_where_the_untrained_encoder_is_the_default() -> None:
    frame = study_frame_of(RATIOS, default="0.7", probes=("knn",))
    frame["untrained"] = 60.0
    assert "untrained" in answers(frame)[0]
    frame.loc[frame["cell"] == "0.7", "task"] = "random"
    assert "untrained" not in answers(frame)[0]


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
def test_power_is_not_told_by_a_model_that_the_table_does_not_use(test: Test) -> None:
    assert power_lines(study_frame_of(RATIOS, default="0.7", probes=("knn",)), test) == []


def test_power_is_not_told_where_the_model_does_not_fit() -> None:
    frame = study_frame_of(RATIOS, default="0.7", probes=("knn",))
    frame["top1"] *= 1 + 0.2 * frame["seed"]
    assert power_lines(frame) == []


def test_a_difference_the_other_way_round_has_its_interval_turned_too() -> None:
    assert Contrast(1.0, -0.5, 2.5, 0.1).reversed() == Contrast(-1.0, -2.5, 0.5, 0.1)
