import math

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torch import Tensor
from torch.nn import functional as F

from mae.config.data_section import DataConfig
from mae.config.resolve import build
from mae.data.augmentation import _shift_hue, augment, centre, color_jitter, crop_boxes, draw, resample, views
from mae.runtime.rng import generator, piece


def data(augmentation: str, **more: object) -> DataConfig:
    settings = {f"data.{key}": value for key, value in more.items()}
    return build({"data.channels": 3, "data.image_size": 16, "data.augmentation": augmentation} | settings).data


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (6, 3, 24, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_crops_equal_torchvisions_one_by_one(images: Tensor) -> None:
    boxes = crop_boxes(data("random_resized_crop", crop_scale=[0.1, 1.0]), 6, 24, 20, generator(0, "a"))
    ours = resample(images, boxes, (16, 12), torch.zeros(6, dtype=torch.bool))
    for i in range(6):
        box = boxes[i].tolist()
        mode = reference.InterpolationMode.BICUBIC
        theirs = reference.resized_crop(images[i].float() / 255, *box, [16, 12], interpolation=mode, antialias=True)
        assert torch.allclose(ours[i], theirs.clamp(0, 1), atol=1e-5)


def test_mirrored_images_are_flipped_left_to_right(images: Tensor) -> None:
    boxes = crop_boxes(data("random_resized_crop"), 6, 24, 20, generator(0, "a"))
    plain, mirrored = (resample(images, boxes, (16, 16), torch.full((6,), flip)) for flip in (False, True))
    assert torch.allclose(plain.flip(-1), mirrored, atol=1e-6)


def test_boxes_stay_inside_and_cover_the_asked_share() -> None:
    config = data("random_resized_crop", crop_scale=[0.2, 0.6])
    top, left, height, width = crop_boxes(config, 5000, 100, 80, generator(0, "a")).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 100).all()
    assert (left + width <= 80).all()
    share = (height * width).float() / 8000
    assert share.min() > 0.19
    assert share.max() < 0.61
    assert abs(share.mean().item() - 0.4) < 0.01


def first_that_fits(attempts: Tensor, height: int, width: int, scale: tuple[float, float]) -> tuple[int, int]:
    """Height and width of a random resized crop by its text, one of `attempts` (10, 2) after the other."""
    for share, shape in attempts.tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
        aspect = 0.75 * (16 / 9) ** shape
        crop = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 1 <= crop[0] <= height and 1 <= crop[1] <= width:
            return crop
    return height, width


@pytest.mark.parametrize(("height", "width"), [(40, 30), (60, 12), (12, 60), (1, 9), (9, 1)])
def test_a_random_crop_is_the_first_of_ten_that_fits_or_the_whole(height: int, width: int) -> None:
    boxes = crop_boxes(data("random_resized_crop", crop_scale=[0.02, 0.9]), 200, height, width, generator(0, "a"))
    draws = generator(0, "a")
    attempts, places = torch.rand(200, 10, 2, generator=draws), torch.rand(200, 2, generator=draws)
    for (top, left, *crop), each, place in zip(boxes.tolist(), attempts, places.tolist(), strict=True):
        assert tuple(crop) == first_that_fits(each, height, width, (0.02, 0.9))
        assert (top, left) == (int(place[0] * (height - crop[0] + 1)), int(place[1] * (width - crop[1] + 1)))


@pytest.mark.parametrize(
    ("size", "stored", "places"),
    [
        (16, (24, 20), (range(9), range(5))),
        (16, (16, 16), (range(-2, 3), range(-2, 3))),  # a border of an eighth
        (20, (20, 20), (range(-2, 3), range(-2, 3))),
    ],
)
def test_fixed_crops_lie_equally_often_at_every_place(
    size: int, stored: tuple[int, int], places: tuple[range, range]
) -> None:
    config = data("fixed_crop", image_size=size, stored_size=stored)
    *corner, height, width = crop_boxes(config, 9000, *stored, generator(0, "a")).unbind(1)
    assert (height == size).all()
    assert (width == size).all()
    for start, expected in zip(corner, places, strict=True):
        found, counts = start.unique(return_counts=True)
        assert found.tolist() == list(expected)
        assert torch.allclose(counts / 9000, torch.tensor(1 / len(expected)), atol=0.02)


def test_the_two_sides_of_a_fixed_crop_are_drawn_apart() -> None:
    top, left, *_ = crop_boxes(data("fixed_crop"), 100, 16, 16, generator(0, "a")).unbind(1)
    assert not top.equal(left)


@pytest.mark.parametrize("place", [(-2, 0), (0, 2), (1, -2), (2, 1), (-1, -1), (0, 0)])
def test_a_box_past_the_edge_finds_black(place: tuple[int, int], images: Tensor) -> None:
    square, (top, left) = images[:1, :, :16, :16], place
    boxes = torch.tensor([[top, left, 16, 16]])
    bordered = F.pad(square.float() / 255, (2, 2, 2, 2))[:, :, top + 2 : top + 18, left + 2 : left + 18]
    assert torch.allclose(resample(square, boxes, (16, 16), torch.tensor([False]), 2), bordered, atol=1e-5)


def test_half_of_the_images_are_mirrored_if_they_may_be(images: Tensor) -> None:
    same = images[:1, :, :16, :16].repeat(600, 1, 1, 1)
    plain = same[0].float() / 255
    for flip, least, most in ((False, 0, 0), (True, 240, 360)):  # 5 standard errors about 300
        views = augment(same, data("none", flip=flip), generator(0, "a"))
        mirrored = torch.tensor([torch.allclose(view, plain.flip(-1), atol=1e-5) for view in views])
        assert least <= mirrored.sum() <= most
        assert torch.allclose(views[~mirrored], plain, atol=1e-5)


def test_brightness_is_drawn_evenly_from_60_to_140_percent() -> None:
    grey = torch.full((1500, 3, 16, 16), 100, dtype=torch.uint8)  # contrast, saturation and hue leave it as it is
    shares = augment(grey, data("color_jitter", flip=False), generator(0, "a"))[:, 0, 0, 0] * 255 / 100
    expected = torch.linspace(0.6, 1.4, 1500)
    assert torch.allclose(shares.sort().values, expected, atol=0.04)


def test_other_augmentations_leave_colours_alone() -> None:
    flat = torch.tensor([10, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1).expand(6, 3, 24, 20)
    views = augment(flat, data("random_resized_crop"), generator(0, "a"))
    assert torch.allclose(views, flat[:, :, :16, :16].float() / 255, atol=1e-5)


def test_the_centre_of_an_odd_margin_is_rounded_down(images: Tensor) -> None:
    config = DataConfig(image_size=(8, 6), stored_size=(23, 19), augmentation="none")
    expected = images[:, :, 7:15, 6:12].float() / 255
    assert torch.allclose(centre(images[:, :, :23, :19], config), expected)
    boxes = crop_boxes(config, 2, 23, 19, generator(0, "a"))
    assert boxes.tolist() == [[7, 6, 8, 6]] * 2


def test_no_augmentation_is_the_centre(images: Tensor) -> None:
    config = data("none", stored_size=[24, 20])
    assert torch.allclose(augment(images, config, generator(0, "a")), centre(images, config), atol=1e-6)


def test_a_fixed_crop_moves_whole_pixels(images: Tensor) -> None:
    crop = augment(images[:1], data("fixed_crop", stored_size=[24, 20]), generator(0, "a"))[0]
    places = images[0].float().div(255).unfold(1, 16, 1).unfold(2, 16, 1)  # (3, 9, 5, 16, 16)
    assert ((places - crop[:, None, None]).abs().amax(dim=(0, 3, 4)) < 1e-5).sum() == 1


@pytest.mark.parametrize("turns", [-0.1, 0.07])
def test_hue_turns_as_torchvisions_does(turns: float) -> None:
    images = torch.rand(2, 3, 8, 8)
    ours = _shift_hue(images, torch.full((2, 1, 1), turns))
    assert torch.allclose(ours, reference.adjust_hue(images, turns), atol=1e-5)


def test_colours_change_one_by_one_as_torchvisions_do() -> None:
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    draws = torch.rand(5, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for image, drawn, ours in zip(images, draws.tolist(), color_jitter(images, draws), strict=True):
        theirs = reference.adjust_brightness(image, 1 + 0.4 * drawn[0])
        theirs = reference.adjust_contrast(theirs, 1 + 0.4 * drawn[1])
        theirs = reference.adjust_saturation(theirs, 1 + 0.4 * drawn[2])
        assert torch.allclose(ours, reference.adjust_hue(theirs, 0.1 * drawn[3]), atol=1e-5)


def test_grey_images_change_in_brightness_and_contrast_only() -> None:
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = color_jitter(images, torch.tensor([[0.5, -1.0, 1.0, 1.0], [-0.25, 1.0, -1.0, 0.0]]))
    for image, brightness, contrast, changed in zip(images, (1.2, 0.9), (0.6, 1.4), ours, strict=True):
        theirs = reference.adjust_contrast(reference.adjust_brightness(image, brightness), contrast)
        assert torch.allclose(changed, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ["fixed_crop", "random_resized_crop", "color_jitter"])
def test_every_image_gets_its_own_parameters(kind: str, images: Tensor) -> None:
    same = images[:1].repeat(4, 1, 1, 1)
    views = augment(same, data(kind, stored_size=[24, 20]), generator(0, "a"))
    assert len({view.numpy().tobytes() for view in views}) > 1


@pytest.mark.parametrize("kind", ["none", "fixed_crop", "random_resized_crop", "color_jitter"])
def test_a_part_of_a_batch_has_the_bits_it_has_in_the_whole(kind: str, images: Tensor) -> None:
    config, part = data(kind, stored_size=[24, 20], flip=True), slice(2, 4)
    draws = draw(config, 6, (24, 20), generator(0, "a"))
    assert torch.equal(views(images[part], config, piece(draws, part)), views(images, config, draws)[part])


def clips(augmentation: str, **more: object) -> DataConfig:
    of_clips = {"data.source": "moving_digits", "data.frames": 4, "pretext.kind": "video_mae"}
    settings = of_clips | {f"data.{key}": value for key, value in more.items()}
    return build({"data.image_size": 16, "data.augmentation": augmentation} | settings).data


@pytest.mark.parametrize("augmentation", ["none", "fixed_crop", "random_resized_crop"])
def test_every_frame_of_a_clip_is_cut_as_an_image_would_be(augmentation: str) -> None:
    config = clips(augmentation, stored_frames=7, stored_size=20, flip=True)
    videos = torch.randint(0, 256, (6, 3, 7, 20, 20), dtype=torch.uint8)
    draws = draw(config, 6, config.stored, generator(0, "a"))
    assert draws.starts is not None
    cut = views(videos, config, draws)
    assert cut.shape == (6, 3, 4, 16, 16)
    for number in range(4):
        chosen = torch.stack([video[:, start + number] for video, start in zip(videos, draws.starts, strict=True)])
        image = views(chosen, config.model_copy(update={"frames": None}), draws._replace(starts=None))
        torch.testing.assert_close(cut[:, :, number], image)


def test_a_still_clip_has_the_colours_of_its_image() -> None:
    config = clips("color_jitter")
    still = torch.randint(0, 256, (6, 3, 1, 16, 16), dtype=torch.uint8).expand(-1, -1, 4, -1, -1)
    draws = draw(config, 6, config.stored, generator(0, "a"))
    image = views(still[:, :, 0], config.model_copy(update={"frames": None}), draws._replace(starts=None))
    torch.testing.assert_close(views(still, config, draws), image[:, :, None].expand(-1, -1, 4, -1, -1))


def test_clips_begin_anywhere_or_in_the_middle() -> None:
    config = clips("fixed_crop", stored_frames=7)
    starts = draw(config, 400, config.stored, generator(0, "a")).starts
    assert starts is not None
    assert starts.bincount().tolist() == pytest.approx([100] * 4, abs=45)  # five standard errors
    videos = torch.arange(7).view(1, 1, 7, 1, 1).expand(1, 3, 7, 16, 16).byte()
    assert (255 * centre(videos, config)[0, 0, :, 0, 0]).round().tolist() == [1, 2, 3, 4]
