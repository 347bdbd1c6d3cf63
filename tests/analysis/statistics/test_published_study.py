"""What the statistics make of results that are part of the project: the mask-ratio study on CIFAR-10, four seeds."""

from pathlib import Path

import pytest

from analysis.results.loading import from_files
from analysis.studies.tables import compared_cells, summarise

CIFAR10 = Path(__file__).parents[3] / "docs" / "results" / "cifar10-mask-ratio" / "results.csv"


def told_apart(probe: str) -> dict[str, float]:
    summary = summarise(from_files([CIFAR10]))
    rows = summary[(summary["probe"] == probe) & (summary["p"] < 0.05)]
    return dict(zip(rows["cell"], rows["p"], strict=True))


def test_six_ratios_are_told_apart_from_the_default_by_the_linear_probe() -> None:
    expected = {"0.1": 1e-5, "0.2": 0.001, "0.3": 0.0002, "0.4": 3e-5, "0.5": 0.0165, "0.9": 0.0098}
    assert told_apart("linear") == pytest.approx(expected, rel=0.1, abs=1e-5)


def test_four_ratios_are_told_apart_by_the_k_nn_probe() -> None:
    assert set(told_apart("knn")) == {"0.1", "0.3", "0.4", "0.5"}


def test_most_of_the_spread_over_seeds_is_common_to_all_ratios() -> None:
    model = compared_cells(from_files([CIFAR10]))["linear"].model
    assert model.blocks
    assert model.deviation == pytest.approx(0.68, abs=0.005)
