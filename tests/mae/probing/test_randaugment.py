import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from mae.probing.randaugment import OPERATIONS, Draws, draw, randaugment
from mae.runtime.rng import generator

GREY = torch.full((3, 1, 1), 0.5)
BILINEAR = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}


def photograph() -> Tensor:
    """Return an image uint8 (3, 24, 36) that is smooth, coloured, and neither black nor white anywhere."""
    coarse = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (24, 36), mode="bilinear")[0]
    return (40 + 170 * smooth).round().to(torch.uint8)


@pytest.mark.parametrize(
    ("number", "timms", "arguments"),
    [
        (0, auto_augment.auto_contrast, {}),
        (1, auto_augment.equalize, {}),
        (2, auto_augment.invert, {}),
        (3, auto_augment.posterize, {"bits_to_keep": 1}),
        (4, auto_augment.solarize, {"thresh": 26}),
        (5, auto_augment.solarize_add, {"add": 99}),
        (6, auto_augment.color, {"factor": 1.81}),
        (7, auto_augment.contrast, {"factor": 1.81}),
        (8, auto_augment.brightness, {"factor": 1.81}),
        (9, auto_augment.sharpness, {"factor": 1.81}),
        (10, auto_augment.rotate, {"degrees": 27} | BILINEAR),
        (11, auto_augment.shear_x, {"factor": 0.27} | BILINEAR),
        (12, auto_augment.shear_y, {"factor": 0.27} | BILINEAR),
        (13, auto_augment.translate_x_rel, {"pct": 0.405} | BILINEAR),
        (14, auto_augment.translate_y_rel, {"pct": 0.405} | BILINEAR),
    ],
)
def test_operations_are_those_of_timm_at_magnitude_9(number: int, timms, arguments) -> None:  # type: ignore[no-untyped-def]
    image = photograph()
    expected = pil_to_tensor(timms(to_pil_image(image), **arguments)).float()
    changed = OPERATIONS[number](image[None].float() / 255, torch.full((1, 1, 1, 1), 0.9), GREY).clamp(0, 1)[0] * 255
    off = (changed - expected).abs()
    assert off.mean() < 2  # PIL does not blend the border of what it turns
    assert off.quantile(0.95) <= 2


@pytest.mark.parametrize("number", range(3, len(OPERATIONS)))
def test_each_image_is_changed_by_its_own_strength(number: int) -> None:
    images = photograph()[None].expand(2, -1, -1, -1).float() / 255
    strengths = torch.tensor([0.9, -0.5]).view(-1, 1, 1, 1)
    both = OPERATIONS[number](images, strengths, GREY)
    alone = OPERATIONS[number](images[1:], strengths[1:], GREY)
    assert torch.allclose(both[1:], alone, atol=1e-6)
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_stays_in_range_and_of_its_shape(channels: int) -> None:
    images = torch.rand(64, channels, 6, 10, generator=torch.Generator().manual_seed(1))
    changed = randaugment(images, draw(9.0, 64, generator(0, "a")), GREY[:channels])
    assert changed.shape == images.shape
    assert 0 <= changed.min() <= changed.max() <= 1


def test_an_image_without_operations_stays_as_it_is() -> None:
    images = torch.rand(2, 3, 6, 10)
    nothing_for_the_first = Draws(torch.tensor([[-1, -1], [2, -1]]), torch.full((2, 2), 0.9))
    changed = randaugment(images, nothing_for_the_first, GREY)
    assert torch.equal(changed[0], images[0])
    assert torch.allclose(changed[1], 1 - images[1])


def test_operations_follow_one_another() -> None:
    images = torch.rand(1, 3, 6, 10)
    inverted_twice = Draws(torch.tensor([[2, 2]]), torch.full((1, 2), 0.9))
    assert torch.allclose(randaugment(images, inverted_twice, GREY), images, atol=1e-6)


def test_draws_are_as_the_recipe_says() -> None:
    draws = draw(9.0, 20_000, generator(0, "recipe"))
    done = draws.operations >= 0
    assert done.float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert draws.operations[done].bincount().min() > 1000  # of 1,333 expected
    level = 10 * draws.strengths.abs()
    assert level.median().item() == pytest.approx(9.0, abs=0.05)
    assert level.max() <= 10
    assert (draws.strengths > 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    again = draw(9.0, 20_000, generator(0, "recipe"))
    assert all(torch.equal(first, second) for first, second in zip(draws, again, strict=True))
