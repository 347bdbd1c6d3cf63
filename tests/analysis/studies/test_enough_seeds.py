from pathlib import Path

import numpy as np
import pytest

from analysis.statistics.additive_model import fit
from analysis.studies.enough_seeds import (
    LEAST_FREEDOM,
    is_precise,
    known_noise,
    noise,
    prospects,
    seeds_for_precision,
    widest,
)
from mae.runs.study_record import read_study
from tests.helpers.study_factory import study_frame_of, study_record, write_study

DRAWS = np.random.default_rng(0)
RUNS = {cell: (60 + DRAWS.normal(0, 1, 4)).tolist() for cell in ("0.5", "0.75", "0.9")}


def first(seeds: int) -> dict[str, list[float]]:
    return {cell: values[:seeds] for cell, values in RUNS.items()}


def test_the_widest_interval_is_that_of_the_table() -> None:
    frame = study_frame_of(RUNS, probes=("linear",))
    model = fit(*(frame[name].tolist() for name in ("top1", "cell", "seed")))
    found = model.against("0.75")
    assert widest(frame) == pytest.approx(max(each.high - each.low for each in found.values()) / 2)


def test_a_study_is_precise_once_its_widest_interval_is() -> None:
    frame = study_frame_of(RUNS, probes=("linear",))
    half = widest(frame)
    assert is_precise(frame, half + 0.01)[0]
    reached, told = is_precise(frame, half - 0.01)
    assert not reached
    assert "not reached with 4 seeds" in told
    assert "it takes about 5" in told


def test_the_noisier_probe_decides() -> None:
    frame = study_frame_of(RUNS)
    alone = widest(frame)
    frame.loc[frame["probe"] == "knn", "top1"] *= 3
    assert widest(frame) == pytest.approx(3 * alone)


def test_with_few_degrees_of_freedom_no_study_is_precise() -> None:
    two = study_frame_of(first(2), probes=("linear",))
    assert (3 - 1) * (2 - 1) < LEAST_FREEDOM <= (3 - 1) * (3 - 1)
    assert not is_precise(two, 1000.0)[0]
    assert is_precise(study_frame_of(first(3), probes=("linear",)), 1000.0)[0]


def test_a_cell_whose_runs_all_failed_does_not_keep_a_study_from_being_precise() -> None:
    frame = study_frame_of({**RUNS, "0.1": [None] * 4}, probes=("linear",))
    assert is_precise(frame, 1000.0)[0]


@pytest.mark.parametrize("failing", [["0.75"], ["0.5", "0.9"]])
def test_where_nothing_can_be_compared_no_seeds_are_added_in_vain(failing: list[str]) -> None:
    frame = study_frame_of({**RUNS, **{cell: [None] * 4 for cell in failing}}, probes=("linear",))
    enough, told = is_precise(frame, 0.01)
    assert enough
    assert "so no seeds are added" in told


def test_a_study_that_is_not_probed_gets_no_more_seeds() -> None:
    assert is_precise(study_frame_of(RUNS, probes=()), 0.01)[0]


def test_the_noise_is_that_of_runs_within_their_seeds() -> None:
    frame = study_frame_of(RUNS, probes=("linear",))
    model = fit(*(frame[name].tolist() for name in ("top1", "cell", "seed")))
    assert noise(frame) == {"linear": (pytest.approx(model.deviation), 6)}


def test_the_noise_of_other_studies_is_told_under_the_studys_own_probes_alone() -> None:
    few = {cell: values[:1] for cell, values in RUNS.items()}
    found = noise(study_frame_of(few, probes=("knn",)), [study_frame_of(RUNS, probes=("linear", "knn"))])
    assert list(found) == ["knn"]


def test_other_studies_of_the_same_base_tell_the_noise_of_one_that_has_no_runs(tmp_path: Path) -> None:
    new = study_record({"1": [None], "2": [None]}, name="new", axis="model.decoder.depth", default="1")
    assert known_noise(new, tmp_path) == {}
    write_study(tmp_path, RUNS)
    known = known_noise(new, tmp_path)
    assert known == noise(study_frame_of(RUNS))
    elsewhere = new.model_copy(update={"data": {"source": "digits", "digest": "e" * 64}})
    assert known_noise(elsewhere, tmp_path) == {}
    assert known_noise(new.model_copy(update={"base": "cifar10-tiny seed=0"}), tmp_path) == {}


def test_a_study_with_runs_enough_tells_its_own_noise(tmp_path: Path) -> None:
    directory = write_study(tmp_path, RUNS)
    noisy = {cell: [5 * value for value in values] for cell, values in RUNS.items()}
    write_study(tmp_path, noisy, name="decoder-depth", axis="")
    assert known_noise(read_study(directory), tmp_path) == noise(study_frame_of(RUNS))


def test_what_is_foreseen_is_what_a_study_with_that_noise_tells() -> None:
    frame = study_frame_of(RUNS, probes=("linear",))
    found = prospects(noise(frame), 3, 4)
    assert [each.half_width for each in found] == [pytest.approx(widest(frame))]
    assert f"± {widest(frame):.1f} points" in str(found[0])
    assert prospects(noise(frame), 3, 1) == []


def test_the_seeds_for_a_precision_are_the_fewest_that_do() -> None:
    known = {"linear": (1.0, 20), "knn": (0.5, 20)}
    needed = seeds_for_precision(known, 5, 1.0)
    assert needed is not None
    assert prospects(known, 5, needed)[0].half_width <= 1.0 < prospects(known, 5, needed - 1)[0].half_width
    assert seeds_for_precision({}, 5, 1.0) is None
    assert seeds_for_precision(known, 2, 1000.0) == LEAST_FREEDOM + 1
