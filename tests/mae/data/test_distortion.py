from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torch import Tensor

from mae.config.pretext_sections import ViewsConfig
from mae.config.resolve import build
from mae.data.distortion import Draws, blur, distort, draw, solarize
from mae.errors import UserError
from mae.runtime.rng import generator, piece

NEVER = {"jitter": 0.0, "grayscale": 0.0, "blur": (0.0, 0.0), "solarize": (0.0, 0.0)}
EACH = {"jitter": 1.0, "grayscale": 1.0, "blur": (1.0, 1.0), "solarize": (1.0, 1.0)}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 24, 20, generator=torch.Generator().manual_seed(0))


def drawn(count: int = 6, view: int = 0, **settings: Any) -> tuple[ViewsConfig, Draws]:
    config = ViewsConfig(**settings)
    return config, draw(config, count, view, generator(0, "a"))


def differ(one: Tensor, other: Tensor) -> list[bool]:
    return [not torch.allclose(first, second, atol=1e-5) for first, second in zip(one, other, strict=True)]


@pytest.mark.parametrize(("side", "kernel"), [(8, 3), (32, 3), (64, 7), (224, 23)])
def test_blur_is_torchvisions_with_a_kernel_of_a_tenth_of_the_image(side: int, kernel: int) -> None:
    images = torch.rand(3, 3, side, 24)
    sigma = torch.tensor([0.1, 0.7, 2.0])
    for image, own, ours in zip(images, sigma.tolist(), blur(images, sigma), strict=True):
        assert torch.allclose(ours, reference.gaussian_blur(image, [3, kernel], [own, own]), atol=1e-5)


def test_solarisation_is_torchvisions(images: Tensor) -> None:
    assert torch.equal(solarize(images), reference.solarize(images, 0.5))


def test_distortions_follow_one_another_as_torchvisions_would(images: Tensor) -> None:
    settings, draws = drawn(**EACH | {"grayscale": 0.5}, jitter_strength=(0.8, 0.6, 0.4, 0.2))
    for i, ours in enumerate(distort(images, settings, draws)):
        changes = draws.jitter[i].tolist()
        theirs = reference.adjust_brightness(images[i], 1 + 0.8 * changes[0])
        theirs = reference.adjust_contrast(theirs, 1 + 0.6 * changes[1])
        theirs = reference.adjust_saturation(theirs, 1 + 0.4 * changes[2])
        theirs = reference.adjust_hue(theirs, 0.2 * changes[3])
        if draws.applied[i, 1]:
            theirs = reference.rgb_to_grayscale(theirs, 3)
        theirs = reference.gaussian_blur(theirs, [3, 3], [draws.sigma[i].item()] * 2)
        assert torch.allclose(ours, reference.solarize(theirs, 0.5), atol=1e-5)
    assert 0 < draws.applied[:, 1].sum() < 6


@pytest.mark.parametrize("name", EACH)
def test_each_distortion_has_its_own_chance(name: str) -> None:
    images = torch.rand(1, 3, 8, 8).repeat(1000, 1, 1, 1)
    chance = 0.3 if name in ("jitter", "grayscale") else (0.3, 0.3)
    settings, draws = drawn(1000, **NEVER | {name: chance})
    draws = draws._replace(sigma=torch.ones(1000))  # a blur of 0.1 pixels changes nothing
    changed = torch.tensor(differ(distort(images, settings, draws), images))
    assert changed.equal(draws.applied[:, list(EACH).index(name)])
    assert abs(changed.float().mean().item() - 0.3) < 5 * 0.0145  # 5 standard errors


def test_the_second_view_has_chances_of_its_own(images: Tensor) -> None:
    settings = NEVER | {"blur": (1.0, 0.0), "solarize": (0.0, 1.0)}
    (first, draws), second = drawn(view=0, **settings), drawn(view=1, **settings)
    assert torch.allclose(distort(images, first, draws), blur(images, draws.sigma))
    assert torch.equal(distort(images, *second), solarize(images))


def test_sigma_is_drawn_evenly_from_a_tenth_to_two_pixels() -> None:
    sigma = drawn(2000)[1].sigma
    assert torch.allclose(sigma.sort().values, torch.linspace(0.1, 2, 2000), atol=0.1)


def test_a_grey_image_changes_in_brightness_and_contrast_only() -> None:
    images = torch.rand(4, 1, 8, 8)
    settings, draws = drawn(4, **NEVER | {"jitter": 1.0, "grayscale": 1.0})
    for image, changes, ours in zip(images, draws.jitter.tolist(), distort(images, settings, draws), strict=True):
        theirs = reference.adjust_brightness(image, 1 + 0.4 * changes[0])
        assert torch.allclose(ours, reference.adjust_contrast(theirs, 1 + 0.4 * changes[1]), atol=1e-5)


def test_a_part_of_a_batch_has_the_bits_it_has_in_the_whole(images: Tensor) -> None:
    settings, draws = drawn(**EACH)
    part = slice(2, 4)
    assert torch.equal(distort(images[part], settings, piece(draws, part)), distort(images, settings, draws)[part])


def test_images_of_a_single_pixel_are_left_by_a_blur() -> None:
    images = torch.rand(2, 1, 1, 1)
    assert torch.allclose(blur(images, torch.tensor([1.0, 2.0])), images)


def test_one_chance_stands_for_both_views() -> None:
    assert ViewsConfig.model_validate({"blur": 0.5}).blur == (0.5, 0.5)


def test_a_hue_past_half_a_turn_is_refused() -> None:
    with pytest.raises(UserError, match=r"views\.jitter_strength=.*a hue of at most 0\.5 turns"):
        build({"views.jitter_strength": [0.4, 0.4, 0.4, 0.6]})
