"""Context prediction: where the two tiles lie."""

from typing import Any

import pytest
import torch

from mae.config.resolve import build, change
from mae.data.augmentation import centre
from mae.errors import UserError
from mae.pretext.context_prediction import SIDES, ContextPrediction
from mae.runtime.rng import generator
from tests.conftest import TINY
from tests.helpers.pretexts import stored, surroundings


def make(**more: Any) -> ContextPrediction:
    config = change(build(TINY), {"pretext.kind": "context"} | more)
    return ContextPrediction(config, surroundings(config))


def test_the_second_tile_lies_a_gap_away_on_its_side_of_the_middle_one() -> None:
    pretext = make(**{"data.image_size": [40, 60]})
    assert pretext.config.tile_size == (9, 14)  # 3 of them, 2 gaps of 4 and 7, and 1 of jitter at both ends
    found = pretext.boxes(torch.arange(8), torch.zeros(8, 2, 2, dtype=torch.int64))
    for (row, column), (first, second) in zip(SIDES, found.tolist(), strict=True):
        assert first == [15, 23, 9, 14]
        assert second == [15 + row * (9 + 4), 23 + column * (14 + 7), 9, 14]


@pytest.mark.parametrize("size", [[8, 12], [32, 32], [96, 64]])
def test_tiles_lie_within_the_image_and_never_overlap(size: list[int]) -> None:
    pretext = make(**{"data.image_size": size})
    draws = pretext.draw(2000, generator(0, "step"))
    start, extent = pretext.boxes(draws.sides, draws.jitter).split(2, dim=2)
    assert (start >= 0).all()
    assert (start + extent <= torch.tensor(size)).all()
    apart = (start[:, 0] - start[:, 1]).abs() >= extent[:, 0]
    assert apart.any(dim=1).all()


def test_tiles_are_moved_by_every_jitter_up_to_the_papers_share() -> None:
    pretext = make(**{"data.image_size": 400, "model.patch_size": 100})
    assert pretext.config.tile_size == (96, 96)
    draws = pretext.draw(2000, generator(0, "step"))
    assert draws.jitter.unique().tolist() == list(range(-7, 8))


def test_a_right_guess_shows_the_tiles_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    pretext, rows = make(**{"data.channels": 3}), {}
    draws = pretext.draw(4, generator(0, "picture"))
    monkeypatch.setattr("mae.pretext.context_prediction.image_rows", rows.update)
    for turn, same in ((0, True), (1, False)):
        guess = torch.nn.functional.one_hot((draws.sides + turn) % 8, 8).float()
        monkeypatch.setattr(pretext, "_scores", lambda tiles, reading, guess=guess: guess)
        pretext.picture(centre(stored(pretext.config, 4), pretext.config.data), draws)
        assert torch.equal(rows["two tiles"], rows["as predicted"]) == same


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"data.image_size": 6}, r"context\.gap=0\.5: leaves tiles of 1 x 1 pixels in images of 6 x 6"),
        ({"context.gap": 3.0}, r"context\.gap=3\.0: leaves tiles of 0 x 0 pixels in images of 8 x 8"),
        ({"data.image_size": 32, "context.jitter": 0.4}, r"context\.jitter=0\.4: tiles could overlap"),
        ({"context.color": "project"}, r"context\.color=project has no effect: it acts with .*data\.channels=3"),
        ({"pretext.kind": "mae", "context.gap": 0.25}, r"context\.gap=0\.25 has no effect"),
    ],
)
def test_settings_that_leave_no_tiles_or_have_no_say_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build(TINY | {"pretext.kind": "context"} | settings)
