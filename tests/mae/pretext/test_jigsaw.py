"""Jigsaw puzzles: which permutations, what is laid where, and what the encoder cannot know."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mae.config.resolve import build, change
from mae.errors import UserError
from mae.models.vit import patchify, unpatchify
from mae.pretext.jigsaw import Jigsaw
from mae.pretext.permutations import far_permutations
from mae.runtime.rng import generator
from tests.conftest import TINY
from tests.helpers.pretexts import surroundings


def make(**more: Any) -> Jigsaw:
    config = change(build(TINY), {"pretext.kind": "jigsaw"} | more)
    torch.manual_seed(0)
    return Jigsaw(config, surroundings(config))


def distance(one: Any, other: Any) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_permutation_is_as_far_from_those_before_as_any_that_is_left(seed: int) -> None:
    found = [tuple(each) for each in far_permutations(40, seed, pieces=5).tolist()]
    for number in range(1, 40):
        before = found[:number]

        def far(one: Any, before: Any = before) -> tuple[int, int]:
            distances = [distance(one, each) for each in before]
            return sum(distances), min(distances)

        assert far(found[number]) == max(far(each) for each in permutations(range(5)) if each not in before)


def test_permutations_follow_from_size_and_seed_and_a_smaller_set_is_the_start_of_a_larger() -> None:
    first = far_permutations(64, 0)
    assert np.array_equal(first, far_permutations.__wrapped__(64, 0))
    assert np.array_equal(first, far_permutations(80, 0)[:64])
    assert not np.array_equal(first, far_permutations(64, 1))
    assert len(np.unique(first, axis=0)) == 64
    assert (np.sort(first, axis=1) == np.arange(9)).all()


def test_all_permutations_are_found_before_any_comes_again() -> None:
    assert len(np.unique(far_permutations(24, 0, pieces=4), axis=0)) == 24


def numbered(size: tuple[int, int]) -> Tensor:
    """Return an image (1, 1, H, W) whose nine parts are 0, 0.1, ... 0.8, row by row."""
    return F.interpolate(torch.arange(9.0).view(1, 1, 3, 3) / 10, size, mode="nearest")


def test_tiles_lie_as_the_permutation_says_each_cut_from_its_ninth_of_the_image() -> None:
    pretext = make(**{"data.image_size": [24, 36]})
    draws = pretext.draw(50, generator(0, "step")).puzzle
    laid = pretext.puzzle.laid(numbered((24, 36)).expand(50, -1, -1, -1), draws)
    expected = torch.from_numpy(pretext.puzzle.permutations[draws.which.numpy()]).float() / 10
    torch.testing.assert_close(laid, expected[:, :, None, None, None].expand_as(laid))


def test_gaps_are_as_wide_as_the_papers_at_the_papers_size_and_drawn() -> None:
    pretext = make(**{"data.image_size": 225, "model.patch_size": 45})
    assert pretext.config.tile_size == (64, 64)
    starts = pretext.draw(500, generator(0, "step")).puzzle.starts
    assert starts.unique().tolist() == list(range(12))


def test_the_brightness_and_the_contrast_of_tiles_tell_nothing() -> None:
    pretext = make(**{"data.image_size": 24, "data.channels": 3})
    draws = pretext.draw(4, generator(0, "step")).puzzle
    images = 0.25 + 0.5 * torch.rand(4, 3, 24, 24)  # so that no resized pixel is cut off at 0 or 1
    other = images * (0.3 + 0.5 * numbered((24, 24))) + 0.4 * numbered((24, 24)).flip(2)
    first, second = (pretext.puzzle(pretext.encoder, each, draws, pretext.look)[0] for each in (images, other))
    torch.testing.assert_close(first, second, rtol=0, atol=3e-3)


def test_a_solved_puzzle_is_the_image_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pretext, images = make(**{"data.image_size": 24}), numbered((24, 24)).expand(4, -1, -1, -1)
    draws = pretext.draw(4, generator(0, "picture")).puzzle
    solved = F.one_hot(draws.which, len(pretext.puzzle.permutations)).float()[:, None]
    monkeypatch.setattr(pretext.puzzle, "_scores", lambda *inputs: solved)
    rows = pretext.puzzle.rows(pretext.encoder, images, draws, pretext.look)
    covered = rows["put back"] != 0.5
    torch.testing.assert_close(rows["put back"][covered], images[covered])
    assert not torch.equal(rows["put back"], rows["shuffled"])


def test_patches_are_read_without_their_places() -> None:
    pretext = make(**{"jigsaw.pieces": "patches", "jigsaw.dropped": 0.0})
    config, draws = pretext.config, pretext.draw(3, generator(0, "step")).puzzle
    images, order = torch.rand(3, 1, 8, 8), torch.randperm(16)
    shuffled = unpatchify(patchify(images, (2, 2))[:, order], (2, 2), config.grid)
    torch.testing.assert_close(pretext.encoder(shuffled)[:, 1:], pretext.encoder(images)[:, 1:][:, order])
    scores, places = pretext.puzzle(pretext.encoder, images, draws, pretext.look)
    whole = pretext.puzzle.head(pretext.encoder(pretext.look(images))[:, 1:])
    torch.testing.assert_close(scores, whole.gather(1, places[..., None].expand_as(scores)))


def test_dropped_patches_are_neither_read_nor_asked_for() -> None:
    pretext = make(**{"jigsaw.pieces": "patches", "jigsaw.dropped": 0.75})
    draws, images = pretext.draw(3, generator(0, "step")).puzzle, torch.rand(3, 1, 8, 8)
    scores, places = pretext.puzzle(pretext.encoder, images, draws, pretext.look)
    assert (scores.shape, places.shape) == ((3, 4, 16), (3, 4))
    patches = patchify(images, (2, 2))
    hidden = torch.ones(3, 16, 1).scatter(1, places[..., None], 0.0)
    other = unpatchify(patches * (1 - hidden) + 9 * hidden, (2, 2), (4, 4))
    torch.testing.assert_close(pretext.puzzle(pretext.encoder, other, draws, pretext.look)[0], scores)


def test_patches_put_where_they_were_are_the_image_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pretext, images = make(**{"jigsaw.pieces": "patches"}), torch.rand(3, 1, 8, 8)
    draws = pretext.draw(3, generator(0, "picture")).puzzle
    places = pretext.puzzle.mask(draws).visible
    monkeypatch.setattr(pretext.puzzle, "forward", lambda *inputs: (F.one_hot(places, 16).float(), places))
    rows = pretext.puzzle.rows(pretext.encoder, images, draws, pretext.look)
    assert torch.equal(rows["put back"], rows["given"])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"data.image_size": 4}, r"jigsaw\.gap=0\.17\d*: leaves tiles of 1 x 1 .*, or jigsaw\.pieces=patches"),
        ({"jigsaw.gap": 0.5}, r"jigsaw\.gap=0\.5: leaves tiles of 1 x 1 pixels in images of 8 x 8"),
        ({"jigsaw.pieces": "patches", "jigsaw.dropped": 0.95}, r"jigsaw\.dropped=0\.95: leaves 1 of 16 patches"),
        ({"jigsaw.dropped": 0.25}, r"jigsaw\.dropped=0\.25 has no effect"),
        ({"jigsaw.pieces": "patches", "jigsaw.permutations": 64}, r"jigsaw\.permutations=64 has no effect"),
    ],
)
def test_settings_that_leave_no_pieces_or_have_no_say_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build(TINY | {"pretext.kind": "jigsaw"} | settings)
