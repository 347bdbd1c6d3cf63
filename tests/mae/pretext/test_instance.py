"""Instance discrimination: losses by plain loops, and a bank that is the same however a batch is shared out."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mae.config.resolve import build, change
from mae.data.augmentation import centre
from mae.pretext.base import Batch
from mae.pretext.instance import Draws, InstanceDiscrimination
from mae.pretext.pixel_noise import hashed
from mae.runtime.rng import generator
from tests.conftest import TINY
from tests.helpers.pretexts import stored, surroundings

PLAIN = {"data.augmentation": "none", "views.jitter": 0.0, "views.grayscale": 0.0}
ROWS = torch.tensor([7, 3, 99, 40])


def made(**more: Any) -> InstanceDiscrimination:
    torch.manual_seed(0)
    own = {"pretext.kind": "instance", "train.batch_size": 4, "instance.loss": "nce", "instance.negatives": 50}
    config = change(build(TINY), PLAIN | own | more)
    return InstanceDiscrimination(config, surroundings(config))


def step(pretext: InstanceDiscrimination) -> tuple[Batch, Draws]:
    batch = Batch(stored(pretext.config, 4), ROWS, torch.zeros(4, dtype=torch.int64))
    return batch, pretext.draw(4, generator(0, "step"))


def test_softmax_is_over_all_rows_of_the_bank() -> None:
    pretext = made(**{"instance.loss": "softmax", "instance.negatives": 4096, "instance.proximal": 3.0})
    batch, draws = step(pretext)
    vectors, losses = pretext.vectors(batch.images.float() / 255).detach(), []
    for vector, row in zip(vectors, ROWS, strict=True):
        chances = [math.exp(float(vector @ other) / 0.07) for other in pretext.bank]
        losses.append(-math.log(chances[row] / sum(chances)) + 3 * float((vector - pretext.bank[row]).square().sum()))
    assert pretext(batch, draws)["loss"].item() == pytest.approx(sum(losses) / 4, rel=1e-5)


@pytest.mark.parametrize("negatives", [1, 50])  # by rows for each image, and by the whole bank
def test_nce_tells_an_images_own_row_from_noise(negatives: int) -> None:
    pretext = made(**{"instance.negatives": negatives, "instance.width": 2 if negatives == 1 else 128})
    batch, draws = step(pretext)
    vectors, losses, z = pretext.vectors(batch.images.float() / 255).detach(), [], float(pretext.z)

    def posterior(vector: torch.Tensor, row: int) -> float:
        chance = math.exp(float(vector @ pretext.bank[row]) / 0.07) / z
        return chance / (chance + negatives / 100)

    for vector, row, drawn in zip(vectors, ROWS, hashed(draws.seeds, negatives) % 100, strict=True):
        noise = sum(math.log(1 - posterior(vector, int(other))) for other in drawn)
        losses.append(-math.log(posterior(vector, int(row))) - noise)
    assert pretext(batch, draws)["loss"].item() == pytest.approx(sum(losses) / 4, rel=1e-4)


def test_z_is_told_by_the_first_batch_and_kept() -> None:
    pretext = made()
    batch, draws = step(pretext)
    vectors, scores = pretext.vectors(batch.images.float() / 255).detach(), []
    for vector, drawn in zip(vectors, hashed(draws.seeds, 50) % 100, strict=True):
        scores += [math.exp(float(vector @ pretext.bank[row]) / 0.07) for row in drawn]
    assert float(pretext.z) / 100 == pytest.approx(math.exp(1 / (2 * 128 * 0.07**2)), rel=1e-5)
    pretext.after_step(1, 9, pretext(batch, draws))
    assert float(pretext.z) == pytest.approx(100 * sum(scores) / len(scores), rel=1e-4)
    kept = float(pretext.z)
    pretext.after_step(2, 9, pretext(batch, draws))
    assert float(pretext.z) == kept


def test_the_bank_follows_the_batch_and_nothing_else() -> None:
    pretext = made(**{"instance.momentum": 0.25})
    before, (batch, draws) = pretext.bank.clone(), step(pretext)
    vectors = pretext.vectors(batch.images.float() / 255).detach()
    tracked = pretext.after_step(1, 9, pretext(batch, draws))
    expected = before.clone()
    expected[ROWS] = F.normalize(0.25 * before[ROWS] + 0.75 * vectors, dim=1)
    torch.testing.assert_close(pretext.bank, expected, rtol=0, atol=1e-6)
    untouched = [row for row in range(100) if row not in ROWS]
    assert torch.equal(pretext.bank[untouched], before[untouched])
    assert {"loss", "accuracy", "moved"} <= tracked.keys()


def test_what_all_vectors_share_is_taken_away() -> None:
    pretext = made()
    vectors = pretext.vectors(stored(pretext.config, 16).float() / 255)
    assert vectors.mean(dim=0).norm() < 0.1  # of a ViT's own vectors, at the start: nearly 1


def test_neighbours_are_found_in_the_bank() -> None:
    pretext = made()
    images = centre(stored(pretext.config, 100), pretext.config.data)
    with torch.no_grad():
        pretext.bank.copy_(pretext.vectors(images))
        figure = pretext.picture(images[20:24], pretext.draw(4, generator(0, "picture")))
    shown = [torch.tensor(axis.images[0].get_array().data) for axis in figure.axes]
    for image, nearest in zip(shown[:4], shown[4:8], strict=True):
        torch.testing.assert_close(image, nearest, rtol=0, atol=1 / 255)
