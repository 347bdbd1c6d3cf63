from hypothesis import given
from hypothesis import strategies as st

from ablations.sweeps.pareto import pareto_front

POINTS = st.integers(1, 3).flatmap(
    lambda objectives: st.lists(st.tuples(*[st.integers(0, 5)] * objectives), min_size=1, max_size=12)
)


@given(POINTS)
def test_the_front_is_what_no_point_beats(points: list[tuple[int, ...]]) -> None:
    for point, kept in zip(points, pareto_front(points), strict=True):
        beaten = any(other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in points)
        assert kept is not beaten
