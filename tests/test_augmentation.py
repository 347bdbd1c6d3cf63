import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torch import Tensor

from mae.augmentation import _shift_hue, augment, centre, crop_boxes, draw, resample, views
from mae.config import DataConfig
from mae.config_sources import build
from mae.draws import generator


def data(augmentation: str, **more: object) -> DataConfig:
    settings = {f"data.{key}": value for key, value in more.items()}
    return build({"data.channels": 3, "data.image_size": 16, "data.augmentation": augmentation} | settings).data


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (6, 3, 24, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_crops_equal_torchvisions_one_by_one(images: Tensor) -> None:
    boxes = crop_boxes(data("random_resized_crop", crop_scale=[0.1, 1.0]), 6, 24, 20, generator(0, "a"))
    ours = resample(images, boxes, (16, 16), torch.zeros(6, dtype=torch.bool))
    for i in range(6):
        box = [int(side[i]) for side in boxes]
        mode = reference.InterpolationMode.BICUBIC
        theirs = reference.resized_crop(images[i].float() / 255, *box, [16, 16], interpolation=mode, antialias=True)
        assert torch.allclose(ours[i], theirs.clamp(0, 1), atol=1e-5)


def test_mirrored_images_are_flipped_left_to_right(images: Tensor) -> None:
    boxes = crop_boxes(data("random_resized_crop"), 6, 24, 20, generator(0, "a"))
    plain, mirrored = (resample(images, boxes, (16, 16), torch.full((6,), flip)) for flip in (False, True))
    assert torch.allclose(plain.flip(-1), mirrored, atol=1e-6)


def test_boxes_stay_inside_and_cover_the_asked_share() -> None:
    top, left, height, width = crop_boxes(
        data("random_resized_crop", crop_scale=[0.2, 0.6]), 5000, 100, 80, generator(0, "a")
    )
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 100).all()
    assert (left + width <= 80).all()
    share = (height * width).float() / 8000
    assert share.min() > 0.19
    assert share.max() < 0.61
    assert abs(share.mean().item() - 0.4) < 0.01


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


@pytest.mark.parametrize("kind", ["fixed_crop", "random_resized_crop", "color_jitter"])
def test_every_image_gets_its_own_parameters(kind: str, images: Tensor) -> None:
    same = images[:1].repeat(4, 1, 1, 1)
    views = augment(same, data(kind, stored_size=[24, 20]), generator(0, "a"))
    assert len({view.numpy().tobytes() for view in views}) > 1


@pytest.mark.parametrize("kind", ["none", "fixed_crop", "random_resized_crop", "color_jitter"])
def test_a_part_of_a_batch_has_the_bits_it_has_in_the_whole(kind: str, images: Tensor) -> None:
    config, part = data(kind, stored_size=[24, 20], flip=True), slice(2, 4)
    draws = draw(config, 6, (24, 20), generator(0, "a"))
    assert torch.equal(views(images[part], config, draws[part]), views(images, config, draws)[part])
