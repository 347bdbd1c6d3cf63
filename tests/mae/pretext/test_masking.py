import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mae.config.pretext_sections import MaskConfig
from mae.pretext.masking import BLOCKS, SAMPLERS, Mask, _bayer, _blurred
from mae.runtime.rng import generator
from tests.helpers.pretexts import mask_of

GRIDS = st.tuples(st.integers(1, 17), st.integers(1, 17)).filter(lambda grid: grid[0] * grid[1] > 1)


def hidden_map(sampling: str, grid: tuple[int, int], kept: int, count: int = 64, **settings: str) -> Tensor:
    """1 where a patch is hidden, (count, rows, columns)."""
    mask = mask_of(sampling, generator(0, "test"), count, grid, kept, **settings)
    hidden = torch.ones(count, grid[0] * grid[1]).scatter(1, mask.visible, 0.0)
    return hidden.view(count, *grid)


@pytest.mark.parametrize("sampling", SAMPLERS)
@settings(deadline=None, max_examples=40)
@given(grid=GRIDS, share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_every_order_is_a_permutation(sampling: str, grid: tuple[int, int], share: float, seed: int) -> None:
    patches = grid[0] * grid[1]
    kept = min(max(1, round(share * patches)), patches - 1)
    order = mask_of(sampling, generator(seed, "test"), 3, grid, kept).order
    assert (order.sort(dim=1).values == torch.arange(patches)).all()


def test_a_mask_tells_visible_patches_from_hidden_ones() -> None:
    mask = Mask(torch.tensor([[3, 0, 2, 1]]), 1)
    assert mask.visible.tolist() == [[3]]
    assert mask.hidden.tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_equal_generators_give_equal_masks(sampling: str) -> None:
    first, second = (mask_of(sampling, generator(7, "mask", 3), 5, (6, 8), 12).order for _ in range(2))
    assert first.equal(second)


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_images_of_a_batch_get_different_masks(sampling: str) -> None:
    assert len({tuple(each.flatten().tolist()) for each in hidden_map(sampling, (8, 8), 16)}) > 1


def test_random_masks_hide_every_patch_equally_often() -> None:
    shares = hidden_map("random", (4, 4), 4, count=20_000).mean(dim=0)
    assert torch.allclose(shares, torch.full((4, 4), 0.75), atol=0.015)  # 5 standard errors


def covered_by_blocks(draws: Tensor, grid: tuple[int, int], wanted: int, upwards: bool) -> set[tuple[int, int]]:
    """What rectangles of draws (BLOCKS, 4) hide, one patch at a time, until `wanted` patches are hidden."""
    hidden: set[tuple[int, int]] = set()
    for size, shape, vertical, horizontal in draws.tolist():
        area, aspect = wanted * (0.25 + 0.75 * size), 0.3 * (1 / 0.3**2) ** shape
        height, width = (
            min(max(1, round(math.sqrt(side))), most)
            for side, most in zip((area * aspect, area / aspect), grid, strict=True)
        )
        top, left = int(vertical * (grid[0] - height + 1)), int(horizontal * (grid[1] - width + 1))
        places = [(top + row, left + column) for row in range(height) for column in range(width)]
        for place in reversed(places) if upwards else places:
            if len(hidden) < wanted:
                hidden.add(place)
    return hidden


@pytest.mark.parametrize(("grid", "kept"), [((14, 14), 49), ((6, 9), 40), ((2, 12), 8), ((3, 3), 8)])
def test_block_masks_are_rectangles_drawn_until_enough_is_hidden(grid: tuple[int, int], kept: int) -> None:
    hidden = hidden_map("block", grid, kept)
    draws = generator(0, "test")
    rectangles, upwards = torch.rand(64, BLOCKS, 4, generator=draws), torch.rand(64, generator=draws) < 0.5
    for mask, each, up in zip(hidden, rectangles, upwards.tolist(), strict=True):
        places = {(row, column) for row, column in mask.nonzero().tolist()}
        assert places == covered_by_blocks(each, grid, grid[0] * grid[1] - kept, up)


def test_grid_ranks_are_those_of_ordered_dither() -> None:
    cpu = torch.device("cpu")
    assert (
        _bayer(3, cpu).tolist()
        == _bayer(4, cpu).tolist()
        == [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]
    )


def test_grid_masks_hide_every_patch_equally_often() -> None:
    shares = hidden_map("grid", (4, 4), 4, count=20_000).mean(dim=0)
    assert torch.allclose(shares, torch.full((4, 4), 0.75), atol=0.015)


def test_a_grid_that_is_no_square_is_shifted_along_both_sides() -> None:
    masks = hidden_map("grid", (3, 5), 1, count=20_000)
    assert torch.allclose(masks.mean(dim=0), torch.full((3, 5), 14 / 15), atol=0.01)


def test_grid_masks_at_75_percent_keep_one_of_every_two_by_two() -> None:
    visible = 1 - hidden_map("grid", (14, 14), 49)
    assert (visible.unfold(1, 2, 2).unfold(2, 2, 2).sum(dim=(3, 4)) == 1).all()


def test_block_masks_hang_together_more_than_random_ones() -> None:
    def borders(sampling: str) -> float:
        hidden = hidden_map(sampling, (14, 14), 98)
        return float((hidden[:, 1:] != hidden[:, :-1]).float().mean())

    assert borders("block") < 0.5 * borders("random")


COLORS = get_args(MaskConfig.model_fields["color"].annotation)


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize(("grid", "kept"), [((14, 14), 49), ((3, 7), 5), ((1, 12), 11)])
def test_colored_masks_hide_the_same_number_of_patches_in_every_image(
    color: str, grid: tuple[int, int], kept: int
) -> None:
    hidden = hidden_map("colored_noise", grid, kept, color=color)
    assert (hidden.sum(dim=(1, 2)) == grid[0] * grid[1] - kept).all()


@pytest.mark.parametrize("color", COLORS)
def test_colored_masks_hide_every_patch_about_equally_often(color: str) -> None:
    shares = hidden_map("colored_noise", (4, 5), 5, count=20_000, color=color).mean(dim=0)
    assert (shares - 0.75).abs().max() < 0.08  # the ends of a smooth slope are strongest, and they are at a border


def spectrum(color: str) -> list[float]:
    """Return the shares of the power of masks at low, middle and high frequencies of a grid of 32 x 32."""
    visible = 1 - hidden_map("colored_noise", (32, 32), 256, count=200, color=color)
    power = torch.fft.fft2(visible - visible.mean(dim=(1, 2), keepdim=True)).abs().square().mean(dim=0)
    rows, columns = torch.meshgrid(torch.fft.fftfreq(32), torch.fft.fftfreq(32), indexing="ij")
    radius = torch.hypot(rows, columns)
    bands = [radius < 0.08, (radius >= 0.08) & (radius < 0.35), radius >= 0.35]
    return [(power[band].mean() / power.mean()).item() for band in bands]


@pytest.mark.parametrize(("color", "strongest"), [("red", 0), ("green", 1), ("blue", 2)])
def test_colors_favour_frequencies_as_their_names_say(color: str, strongest: int) -> None:
    found = spectrum(color)
    assert found.index(max(found)) == strongest, found


def test_purple_has_least_of_the_middle_frequencies() -> None:
    low, middle, high = spectrum("purple")
    assert middle < 0.96 * min(low, high)


def test_noise_is_filtered_by_a_gaussian_around_each_patch() -> None:
    noise = torch.randn(1, 3 + 12, 2 + 12, dtype=torch.float64)
    rows, columns = torch.arange(15.0).view(15, 1), torch.arange(14.0).view(1, 14)
    for row in range(3):
        for column in range(2):
            weights = (-((rows - row - 6) ** 2 + (columns - column - 6) ** 2) / (2 * 1.5**2)).exp()
            expected = (weights * noise[0]).sum() / weights.sum()
            assert _blurred(noise, (3, 2), 1.5)[0, row, column].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_order_of_colored_noise_is_no_matter_of_precision() -> None:
    draws = SAMPLERS["colored_noise"].draw(generator(0, "test"), 16, (14, 14), 49)
    order = SAMPLERS["colored_noise"].order(draws, (14, 14), MaskConfig())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(SAMPLERS["colored_noise"].order(draws, (14, 14), MaskConfig()), order)
