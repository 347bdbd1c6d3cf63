"""Colourisation: Lab as scikit-image has it, targets as the paper defines them, and an encoder that sees no colour."""

from typing import Any

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor

from mae.config.fingerprint import untrained_fingerprint
from mae.config.resolve import build, change
from mae.data.facts import DataFacts
from mae.exchange.feature_encoder import FeatureEncoder
from mae.exchange.incoming import Model
from mae.pretext.base import under
from mae.pretext.colorize import Colorize
from mae.pretext.lab import gamut, lab_to_rgb, rgb_to_lab
from mae.pretext.registry import saved_pretext
from tests.conftest import TINY
from tests.helpers.pretexts import batch_of, stored, surroundings

SIZES = {"data.channels": 3, "data.image_size": [16, 12], "model.patch_size": [8, 4]}
"""Of a patch with two cells, one above the other, in images that are no squares."""


def made(**more: Any) -> Colorize:
    torch.manual_seed(0)
    config = change(build(TINY), SIZES | {"pretext.kind": "colorize"} | more)
    return Colorize(config, surroundings(config))


def images(count: int, height: int = 16, width: int = 12) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def last(pixels: Tensor) -> np.ndarray:
    return pixels.movedim(-3, -1).double().numpy()


def test_lab_is_that_of_scikit_image() -> None:
    dark = images(1) / 20  # where the curves are lines
    for pixels in (images(2), dark, torch.eye(3).view(3, 3, 1, 1), torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)):
        lab = rgb_to_lab(pixels)
        assert np.abs(last(lab) - rgb2lab(last(pixels))).max() < 2e-3
        assert np.abs(last(lab_to_rgb(lab)) - lab2rgb(last(lab))).max() < 1e-3
        assert (lab_to_rgb(lab) - pixels).abs().max() < 1e-4


def test_bins_are_those_that_some_colour_of_8_bits_is_nearest_to() -> None:
    levels = np.arange(0, 256, 15) / 255
    colors = rgb2lab(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3))[:, 0, 1:]
    inside = {tuple(each) for each in (10 * np.round(colors / 10) + 0.0).tolist()}
    bins = {tuple(each) for each in gamut().tolist()}
    assert inside <= bins
    assert (len(inside), len(bins)) == (254, 261)


def test_cells_are_patch_by_patch_and_have_the_mean_of_their_colours() -> None:
    pixels = images(2)
    found, lab = made().colors_of(pixels), rgb2lab(last(pixels))
    cells = [
        lab[:, 8 * row + 4 * cell : 8 * row + 4 * cell + 4, 4 * column : 4 * column + 4, 1:].mean(axis=(1, 2))
        for row in range(2)
        for column in range(3)
        for cell in range(2)
    ]
    assert np.abs(found.numpy() - np.stack(cells, axis=1)).max() < 2e-3


def test_a_picture_puts_the_colours_of_cells_where_they_are() -> None:
    pretext = made()
    flat = images(1, 4, 3).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)  # a colour per cell
    shown = pretext._colored(flat, pretext.colors_of(flat))
    middle = (slice(None), slice(None), slice(1, None, 4), slice(1, None, 4))
    greyed = pretext._colored(flat, torch.zeros_like(pretext.colors_of(flat)))
    assert (shown[middle] - flat[middle]).abs().mean() < (greyed[middle] - flat[middle]).abs().mean() / 2
    one = flat[:, :, :1, :1].expand(-1, -1, 16, 12)
    assert (pretext._colored(one, pretext.colors_of(one)) - one).abs().max() < 1e-3


def test_soft_targets_are_on_the_five_nearest_bins() -> None:
    pretext, color = made(), torch.tensor([[13.0, -4.0]])
    bins, shares = pretext.soft_targets(color)
    near = sorted((float((color[0] - each).square().sum()), number) for number, each in enumerate(gamut()))[:5]
    weights = np.array([np.exp(-square / 50) for square, _ in near])
    assert bins[0].tolist() == [number for _, number in near]
    assert shares[0].numpy() == pytest.approx(weights / weights.sum(), abs=1e-6)


def test_weights_are_inverse_frequencies_smoothed_and_mixed_with_uniform_ones() -> None:
    pretext, bins = made(), gamut().double()
    pixels = stored(pretext.config, 100).float() / 255
    colors = pretext.colors_of(pixels).flatten(0, 1).double()
    nearest = (colors[:, None] - bins).square().sum(dim=2).argmin(dim=1)
    frequency = torch.zeros(len(bins), dtype=torch.float64)
    for number, share in enumerate(nearest.bincount(minlength=len(bins)) / len(nearest)):
        around = torch.exp(-(bins - bins[number]).square().sum(dim=1) / 50)
        frequency += share * around / around.sum()
    weights = 1 / (0.5 * frequency + 0.5 / len(bins))
    torch.testing.assert_close(pretext.weights.double(), weights / (weights * frequency).sum(), rtol=1e-4, atol=1e-4)
    assert made(**{"colorize.uniform": 1.0}).weights == pytest.approx(np.ones(len(bins)), abs=1e-5)


def test_the_loss_is_the_weighted_cross_entropy_of_soft_targets() -> None:
    pretext = made()
    scores, truth = torch.randn(2, 12, len(gamut())), pretext.colors_of(images(2))
    expected = []
    for score, color in zip(scores.flatten(0, 1), truth.flatten(0, 1), strict=True):
        bins, shares = pretext.soft_targets(color)
        chances = score.double().softmax(dim=0)
        expected.append(-pretext.weights[bins[0]] * (shares * chances[bins].log()).sum())
    found = pretext._classified(scores, truth)["loss"].item()
    assert found == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_the_shown_colour_is_between_mode_and_mean() -> None:
    pretext = made()
    scores = torch.full((1, 1, len(gamut())), -100.0)
    scores[..., 3], scores[..., 7] = 1.0, 0.0
    share = 1 / (1 + np.exp(-1 / 0.38))
    expected = share * gamut()[3] + (1 - share) * gamut()[7]
    torch.testing.assert_close(pretext.mean_colors(scores)[0, 0], expected.float(), rtol=0, atol=1e-3)


def test_the_encoder_sees_lightness_alone() -> None:
    lightness, pretext = 40 + 20 * torch.rand(2, 1, 16, 12), made()
    tinted = [lab_to_rgb(torch.cat([lightness, shift + torch.zeros(2, 2, 16, 12)], dim=1)) for shift in (-8.0, 8.0)]
    assert (tinted[0] - tinted[1]).abs().mean() > 0.05
    grey, other = map(pretext.look, tinted)
    torch.testing.assert_close(grey, other, rtol=0, atol=1e-3)
    torch.testing.assert_close(grey, (lightness / 50 - 1).expand(-1, 3, -1, -1), rtol=0, atol=1e-3)


def test_an_encoder_without_the_rest_of_its_task_sees_lightness_too() -> None:
    task = made()
    state = {name: value for name, value in task.state_dict().items() if name.startswith("encoder.")}
    facts = DataFacts(mean=(0.5,) * 3, std=(0.25,) * 3, class_names=(), train_images=0)
    alone = saved_pretext(task.config, facts, state)
    torch.testing.assert_close(alone.look(images(2)), task.look(images(2)))
    model = Model(task.config, facts, under(state, "encoder."), {}, "", (), cuts_off=False)
    torch.testing.assert_close(FeatureEncoder(model).tokens(images(2)), task.encoder(task.look(images(2))))


def test_the_untrained_encoder_that_sees_lightness_is_another_baseline() -> None:
    names = [
        untrained_fingerprint(change(build(TINY | SIZES), {"pretext.kind": kind}), "digest")
        for kind in ("instance", "supervised", "colorize")
    ]
    assert names[0] == names[1] != names[2]


def test_regression_loses_half_the_squared_distance() -> None:
    pretext = made(**{"colorize.loss": "regression"})
    batch = batch_of(stored(pretext.config, 2))
    draws = pretext.draw(2, torch.Generator().manual_seed(0))
    plain = change(pretext.config, {"data.augmentation": "none"})
    pretext.config = plain
    pixels = batch.images.float() / 255
    apart = pretext.predict(pixels) - pretext.colors_of(pixels) / 110
    expected = sum(each.square().sum().item() for each in apart.flatten(0, 1)) / 2 / 24
    assert pretext(batch, draws)["loss"].item() == pytest.approx(expected, rel=1e-4)
