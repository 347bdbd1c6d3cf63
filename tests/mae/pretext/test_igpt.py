"""Pixels as tokens: the palette, what each token may read, what is hidden, and what the loss comes to."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.data.augmentation import centre
from mae.errors import UserError
from mae.pretext.encoder_only import EncoderOnly
from mae.pretext.igpt import AutoregressivePixels, MaskedPixels
from mae.pretext.palette import fit_palette
from mae.pretext.registry import PRETEXTS, saved_pretext
from mae.runtime.autocast import mixed
from mae.runtime.rng import generator
from tests.conftest import TINY
from tests.helpers.pretexts import batch_of, stored, surroundings

COLOUR = {"data.channels": 3, "data.image_size": [6, 8], "data.augmentation": "none", "igpt.colors": 32}


def config_of(kind: str, **more: Any) -> Config:
    return change(build(TINY), COLOUR | {"pretext.kind": kind} | more)


def make(kind: str, **more: Any) -> Any:
    config = config_of(kind, **more)
    torch.manual_seed(0)
    return PRETEXTS[kind](config, surroundings(config))


def some_colors(pretext: Any, count: int = 3) -> Tensor:
    config = pretext.config
    return torch.randint(config.colors, (count, config.patches), generator=generator(0, "colours"))


def other_color(colors: Tensor, place: int) -> Tensor:
    changed = colors.clone()
    changed[:, place] = (changed[:, place] + 1) % 32
    return changed


@pytest.mark.parametrize("place", [0, 17, 47])
def test_a_pixel_is_predicted_from_those_before_it_and_no_others(place: int) -> None:
    encoder = make("igpt_ar").encoder.eval()
    colors = some_colors(make("igpt_ar"))
    before, after = (encoder.forward_colors(each)[:, 1:] for each in (colors, other_color(colors, place)))
    differs = (before != after).any(dim=2).all(dim=0)
    assert differs.tolist() == [predicted > place for predicted in range(48)]


@pytest.mark.parametrize("place", [0, 17, 47])
@pytest.mark.parametrize("kind", ["igpt_ar", "igpt_bert"])
def test_the_class_token_reads_every_pixel(kind: str, place: int) -> None:
    pretext = make(kind)
    colors = some_colors(pretext)
    first, second = (pretext.encoder.forward_colors(each)[:, 0] for each in (colors, other_color(colors, place)))
    assert (first != second).any(dim=1).all()


def test_the_first_pixel_is_predicted_from_the_start_alone() -> None:
    pretext = make("igpt_ar")
    tokens = pretext.encoder.tokens_of(some_colors(pretext))
    assert torch.equal(tokens[:, 1], (pretext.encoder.cls_token + pretext.encoder.pos_embed[:, 1:2])[0].expand(3, -1))


def test_of_a_hidden_pixel_nothing_is_read() -> None:
    pretext = make("igpt_bert")
    colors, hidden = some_colors(pretext), torch.tensor([[3, 40]]).expand(3, -1)
    seen = torch.ones(3, 48).scatter(1, hidden, 0.0)
    changed = colors.scatter(1, hidden, (colors.gather(1, hidden) + 1) % 32)
    assert torch.equal(pretext.tokens_at(hidden, colors), pretext.tokens_at(hidden, changed))
    tokens = pretext.encoder.tokens_of(colors, seen)[:, 1:]
    assert torch.equal(tokens[:, 3], pretext.encoder.pos_embed[:, 4].expand(3, -1))
    assert (pretext.tokens_at(hidden, colors) != pretext.tokens_at(hidden, other_color(colors, 20))).any(dim=2).all()


def test_a_fixed_share_of_every_images_pixels_is_hidden_each_equally_often() -> None:
    pretext = make("igpt_bert")
    hidden = pretext.hidden(pretext.draw(20_000, generator(0, "step")))
    assert hidden.shape[1] == round(0.15 * 48)
    chosen = torch.zeros(20_000, 48).scatter(1, hidden, 1.0)
    assert (chosen.sum(dim=1) == 7).all()
    assert torch.allclose(chosen.mean(dim=0), torch.full((48,), 7 / 48), atol=0.0125)  # 5 standard errors


@pytest.mark.parametrize(("kind", "read"), [("igpt_ar", 48), ("igpt_bert", 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_chance_is_the_logarithm_of_the_colours(channels: int, kind: str, read: int) -> None:
    mean = {1: 256, 3: 600}[channels]
    pretext = make(kind, **{"data.channels": channels, "igpt.colors": 600})
    batch, draws = batch_of(stored(pretext.config, 8)), pretext.draw(8, generator(0, "step"))
    assert pretext(batch, draws)["bits_per_pixel"].item() == pytest.approx(math.log2(mean), abs=0.1)
    pretext.head.weight.data.zero_()
    rows: list[int] = []
    pretext.head.register_forward_hook(lambda *given: rows.append(given[1][0].shape[1]))
    losses = pretext(batch, draws)
    assert losses["bits_per_pixel"].item() == pytest.approx(math.log2(mean), rel=1e-5)
    assert losses["loss"].item() == pytest.approx(math.log(mean), rel=1e-5)
    assert rows == [read]


@pytest.mark.parametrize("kind", ["igpt_ar", "igpt_bert"])
def test_a_sure_and_right_guess_has_no_loss_and_full_accuracy(kind: str) -> None:
    pretext = make(kind)
    colors = some_colors(pretext)
    pretext.head = torch.nn.Identity()
    right = 100 * torch.nn.functional.one_hot(colors, 32).float()
    found, wrong = pretext.losses(right, colors), pretext.losses(right, (colors + 1) % 32)
    assert (found["loss"].item(), found["accuracy"].item()) == pytest.approx((0, 100), abs=1e-6)
    assert (wrong["loss"].item(), wrong["accuracy"].item()) == pytest.approx((100, 0), abs=1e-4)


def few_colors(count: int, channels: int) -> Tensor:
    """Return images of `count` random colours, uint8 (20, channels, 6, 8), each of which is there."""
    palette = torch.randperm(256, generator=generator(1, "colours"))[: count * channels].view(count, channels).byte()
    chosen = torch.arange(20 * 48) % count
    return palette[chosen].view(20, 6, 8, channels).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize(("channels", "count"), [(1, 32), (3, 32), (3, 5)])
def test_few_colours_are_told_exactly(channels: int, count: int) -> None:
    config, images = config_of("igpt_ar", **{"data.channels": channels}), few_colors(count, channels)
    around = surroundings(config)
    around = type(around)(20, 10, around.statistics, lambda wanted: images)
    pretext = PRETEXTS["igpt_ar"](config, around)
    assert isinstance(pretext, AutoregressivePixels)
    shown = centre(images, config.data)
    colors = pretext.encoder.patch_embed.colors(pretext.look(shown))
    assert torch.allclose(pretext.shown(colors), shown, atol=1e-6)
    assert colors.unique().tolist() == list(range(count))  # of colours that are there twice, the first
    assert len(pretext.encoder.patch_embed.palette) == 32


def test_a_palette_of_many_colours_is_as_near_as_the_seed_makes_it() -> None:
    pixels = torch.randn(4000, 3, generator=generator(0, "pixels"))
    palettes = [fit_palette(pixels, 64, seed) for seed in (0, 0, 1)]
    assert torch.equal(palettes[0], palettes[1])
    assert not torch.equal(palettes[0], palettes[2])
    assert palettes[0].shape == (64, 3)
    nearest = [torch.cdist(pixels, palette).amin(dim=1).square().mean() for palette in (palettes[0], pixels[:64])]
    assert nearest[0] < 0.7 * nearest[1]  # than 64 of the pixels


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pixel_has_the_nearest_colour_in_every_precision(precision: str) -> None:
    pretext = make("igpt_ar", **{"igpt.colors": 200})
    embed = pretext.encoder.patch_embed
    images = torch.randn(4, 3, 6, 8)
    nearest = torch.cdist(images.flatten(2).transpose(1, 2), embed.palette).argmin(dim=2)
    with mixed(precision, torch.device("cpu")):
        assert torch.equal(embed.colors(images), nearest)


@pytest.mark.parametrize(
    ("size", "side", "grid"),
    [((8, 12), 6, (4, 6)), ((8, 12), 32, (8, 12)), ((12, 8), 12, (12, 8)), ((40, 2), 10, (10, 1))],
)
def test_images_keep_their_shape_and_are_not_made_larger(
    size: tuple[int, int], side: int, grid: tuple[int, int]
) -> None:
    config = config_of("igpt_ar", **{"data.image_size": list(size), "igpt.side": side})
    assert (config.grid, config.patches) == (grid, math.prod(grid))


def test_large_images_are_averaged_down() -> None:
    pretext = make("igpt_bert", **{"data.image_size": [6, 8], "igpt.side": 4})
    images = torch.randn(2, 3, 6, 8)
    means = images.unflatten(2, (3, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5))
    assert torch.allclose(pretext.encoder.patch_embed.pixels(images), means.flatten(2).transpose(1, 2), atol=1e-6)


def test_a_completion_takes_for_each_pixel_all_before_it() -> None:
    pretext = make("igpt_ar", **{"model.encoder.depth": 3})
    given = some_colors(pretext)
    expected = given.clone()
    with torch.no_grad():
        found = pretext.encoder.complete(given, 20, lambda tokens: pretext.head(tokens).argmax(dim=1))
        for place in range(20, 48):
            tokens = pretext.encoder.forward_colors(expected)[:, 1 + place]
            expected[:, place] = pretext.head(tokens).argmax(dim=1)
    assert torch.equal(found, expected)
    assert torch.equal(found[:, :20], given[:, :20])
    assert found.unique().numel() > 3


def rows_of(pretext: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    rows: dict[str, Tensor] = {}
    monkeypatch.setattr("mae.pretext.igpt.image_rows", rows.update)
    pretext.picture(images, pretext.draw(len(images), generator(0, "picture")))
    return rows


def test_a_picture_of_the_autoregressive_task_keeps_the_upper_half(monkeypatch: pytest.MonkeyPatch) -> None:
    pretext, images = make("igpt_ar"), torch.rand(4, 3, 6, 8)
    rows, again = (rows_of(pretext, images, monkeypatch) for _ in range(2))
    assert torch.equal(rows["completed"][:, :, :3], rows["palette"][:, :, :3])
    assert not torch.equal(rows["completed"][:, :, 3:], rows["palette"][:, :, 3:])
    assert torch.equal(rows["completed"], again["completed"])
    assert rows["upper half"][:, :, 3:].unique().tolist() == [0.5]


def test_a_picture_of_the_masked_task_changes_hidden_pixels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pretext, images = make("igpt_bert"), torch.rand(4, 3, 6, 8)
    rows = rows_of(pretext, images, monkeypatch)
    hidden = (rows["masked"] == 0.5).all(dim=1)
    assert hidden.sum(dim=(1, 2)).tolist() == [7] * 4
    same = (rows["filled in"] == rows["palette"]).all(dim=1)
    assert same[~hidden].all()
    assert not same[hidden].all()


def test_the_palette_goes_with_the_encoders_weights() -> None:
    pretext = make("igpt_bert")
    config, images = pretext.config, torch.randn(2, 3, 6, 8)
    weights = {name: value for name, value in pretext.state_dict().items() if name.startswith("encoder.")}
    facts: Any = surroundings(config)
    facts = type("Facts", (), {"train_images": 1, "class_names": (), "mean": (0.0,) * 3, "std": (1.0,) * 3})
    alone = saved_pretext(config, facts, weights)
    assert isinstance(alone, EncoderOnly)
    assert torch.equal(alone.encoder(images), pretext.encoder(images))


def test_an_untrained_twin_has_the_palette_and_sees_no_image() -> None:
    pretext = make("igpt_ar")
    around = surroundings(pretext.config)
    state = dict(pretext.state_dict()) | {"encoder.patch_embed.palette": torch.full((32, 3), 7.0)}

    def sample(count: int) -> Tensor:
        raise AssertionError("no image is there")

    torch.manual_seed(0)
    twin = AutoregressivePixels(pretext.config, type(around)(20, 10, around.statistics, sample, state))
    assert (twin.encoder.patch_embed.palette == 7).all()
    assert torch.equal(twin.head.weight, pretext.head.weight)


def test_a_share_that_hides_no_pixel_is_refused() -> None:
    with pytest.raises(UserError, match=r"igpt\.mask_ratio=0\.005: hides 0 of 48 pixels"):
        config_of("igpt_bert", **{"igpt.mask_ratio": 0.005})


def test_patches_have_no_say_where_pixels_are_tokens() -> None:
    with pytest.raises(
        UserError, match=r"model\.patch_size=.* has no effect: it acts with pretext\.kind=mae or denoise"
    ):
        config_of("igpt_ar", **{"model.patch_size": 2})
    assert config_of("igpt_ar", **{"data.image_size": [7, 9]}).grid == (7, 9)
    assert isinstance(make("igpt_bert", **{"data.image_size": [7, 9]}), MaskedPixels)
