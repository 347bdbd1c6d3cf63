import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.studies.pareto import pareto_front

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


def framed(points: list[tuple[float, float]]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["cost", "gain"], dtype="float64")


@given(POINTS)
@settings(derandomize=True, deadline=None)
def test_on_the_front_is_what_no_other_point_beats(points: list[tuple[int, int]]) -> None:
    kept = {
        (cost, gain)
        for cost, gain in points
        if not any((c <= cost and g >= gain) and (c, g) != (cost, gain) for c, g in points)
    }
    front = pareto_front(framed([*points]), "cost", "gain")
    assert list(zip(front["cost"], front["gain"], strict=True)) == sorted(kept)


def test_a_point_without_a_cost_is_not_on_the_front() -> None:
    front = pareto_front(framed([(float("nan"), 90.0), (2.0, 50.0), (1.0, float("nan"))]), "cost", "gain")
    assert front.index.tolist() == [1]
