"""RankMe and LiDAR by what their definitions promise, and LiDAR by SciPy's generalised eigenvalues."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import eigh
from torch import Tensor

from mae.probing.effective_rank import lidar, rankme

seeds, counts, widths = st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 20)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, width: int) -> Tensor:
    return torch.linalg.qr(noise(seed, width, width))[0]


def stretch(seed: int, width: int) -> Tensor:
    """An invertible map that stretches some directions four times as much as others."""
    scales = torch.logspace(-0.3, 0.3, width, dtype=torch.float64)
    return rotation(seed, width) @ scales.diag() @ rotation(seed + 1, width)


@given(seeds, counts, widths)
def test_rankme_is_between_one_and_the_number_of_directions(seed: int, count: int, width: int) -> None:
    assert 0.999 < rankme(noise(seed, count, width)) < min(count, width) + 0.001


@given(seeds, counts, widths, st.floats(1e-3, 1e3))
def test_rankme_is_the_same_when_features_are_turned_and_scaled(
    seed: int, count: int, width: int, scale: float
) -> None:
    features = noise(seed, count, width)
    assert rankme(scale * features @ rotation(seed + 1, width)) == pytest.approx(rankme(features), rel=1e-6)


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_features_that_are_alike_along_k_directions_and_have_no_other_have_rankme_k(directions: int) -> None:
    features = torch.zeros(24 * directions, 8)
    features[torch.arange(24 * directions), torch.arange(24 * directions) % directions] = 2.0
    assert rankme(features) == pytest.approx(directions, abs=1e-4)


def test_rankme_is_the_exponential_of_the_entropy_of_singular_values() -> None:
    shares = (0.5, 0.25, 0.25)
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert rankme(torch.diag(torch.tensor([4.0, 2.0, 2.0]))) == pytest.approx(expected, abs=1e-5)


def test_a_mean_that_dwarfs_the_spread_is_one_direction_as_features_are_not_centred() -> None:
    assert rankme(noise(0, 200, 8)) > 7.5
    assert rankme(noise(0, 200, 8) + 1e4) < 1.01


@pytest.mark.parametrize("constant", [0.0, 1.0, 1 / 3])
def test_features_that_are_all_the_same_have_one_direction(constant: float) -> None:
    assert rankme(torch.full((20, 6), constant)) == pytest.approx(1.0, abs=1e-4)
    assert lidar(torch.full((20, 7, 6), constant)) == pytest.approx(1.0, abs=1e-4)


@given(seeds, counts, st.integers(1, 5), widths)
def test_lidar_is_between_one_and_the_number_of_directions_in_which_images_differ(
    seed: int, images: int, views: int, width: int
) -> None:
    found = lidar(noise(seed, images, views, width))
    assert 0.999 < found < max(1, min(images - 1, width)) + 0.001


@given(seeds, st.integers(2, 30), st.integers(2, 5), widths)
def test_lidar_is_that_of_scipys_generalised_eigenvalues(seed: int, images: int, views: int, width: int) -> None:
    features = noise(seed, images, 1, width) + 0.3 * noise(seed + 1, images, views, width)
    means = features.mean(1).numpy()
    within = sum(np.cov(each.T.numpy(), bias=True).reshape(width, width) for each in features) / images
    between = np.cov(means.T, bias=True).reshape(width, width)
    values = eigh(between, within + 1e-4 * np.eye(width), eigvals_only=True).clip(0)
    shares = values / values.sum() + 1e-7
    assert lidar(features) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


@given(seeds, st.integers(2, 30), st.integers(1, 6))
def test_lidar_is_the_same_under_any_invertible_map_if_views_differ_in_all_directions(
    seed: int, images: int, width: int
) -> None:
    features = 100 * (noise(seed, images, 1, width) + noise(seed + 1, images, 2 * width, width))  # delta is nothing
    moved = features @ stretch(seed + 2, width) + noise(seed + 3, width)
    assert lidar(moved) == pytest.approx(lidar(features), rel=1e-4)


@pytest.mark.parametrize("directions", [1, 3, 5])
def test_images_that_differ_alike_along_k_directions_have_lidar_k_whatever_their_views_do(directions: int) -> None:
    """Views differ in eight directions, alike: images are at the ends of the first k axes, views around each."""
    images = torch.cat([torch.eye(8)[:directions], -torch.eye(8)[:directions]])
    views = torch.cat([torch.eye(8), -torch.eye(8)])
    assert lidar(images[:, None] + views) == pytest.approx(directions, abs=1e-4)


def test_what_differs_as_much_between_views_as_between_images_counts_for_lidar_less_and_for_rankme_the_same() -> None:
    images, views = torch.cat([torch.eye(2), -torch.eye(2)]), torch.tensor([[0.01, 1.0], [-0.01, -1.0]])
    views = torch.cat([views, views * torch.tensor([1.0, -1.0])])
    features = images[:, None] + views
    assert lidar(features) < 1.01
    assert rankme(features.flatten(0, 1)) > 1.9


def test_fewer_images_than_directions_and_views_that_do_not_differ_have_a_lidar() -> None:
    features = noise(0, 5, 1, 40).expand(5, 3, 40)
    assert 3.5 < lidar(features) < 4.001  # five points span four directions
