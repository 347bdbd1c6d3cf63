"""BEiT: blocks are hidden behind mask tokens, their codes predicted."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ablations.studies.own import OWN
from ablations.studies.study import plan_cells
from mae.config.resolve import build, change, resolve
from mae.config.tree import Config
from mae.data.augmentation import views
from mae.data.dataset import ImageData
from mae.errors import UserError
from mae.pretext.beit import Beit
from mae.pretext.registry import made_up_tokenizer, new_pretext
from mae.runtime.rng import generator, piece
from mae.training.step import Trainer
from tests.conftest import TINY
from tests.helpers.pretexts import batch_of, stored, surroundings
from tests.helpers.training import first_images, take_step

CPU = torch.device("cpu")


def config_of(**more: Any) -> Config:
    return change(build(TINY), {"pretext.kind": "beit", "target.tokenizer": "0123456789ab"} | more)


def made(**more: Any) -> Beit:
    config = config_of(**more)
    return Beit(config, surroundings(config))


@pytest.mark.parametrize(("size", "hidden"), [([8, 8], 6), ([8, 12], 10), ([28, 28], 78)])
def test_40_percent_of_patches_are_hidden_in_blocks(size: list[int], hidden: int) -> None:
    pretext = made(**{"data.image_size": size})
    mask = pretext.mask(pretext.draw(50, generator(0, "step")))
    assert mask.hidden.shape == (50, hidden)
    covered = torch.zeros(50, math.prod(pretext.config.grid)).scatter(1, mask.hidden, 1.0)
    covered = covered.unflatten(1, pretext.config.grid)
    beside = (covered[:, :, 1:] * covered[:, :, :-1]).sum() / covered[:, :, 1:].sum()
    assert beside > 0.6  # of hidden patches with a neighbour on the left, those whose neighbour is hidden: chance 0.4


def test_the_loss_is_the_cross_entropy_of_the_hidden_patches_codes() -> None:
    pretext = made()
    batch, draws = batch_of(stored(pretext.config, 8)), pretext.draw(8, generator(0, "step"))
    images, mask = views(batch.images, pretext.config.data, draws.crops), pretext.mask(draws)
    logits, codes = pretext.predict(images, mask), pretext.tokenizer.codes(images).gather(1, mask.hidden)
    assert pretext(batch, draws)["loss"].item() == pytest.approx(
        F.cross_entropy(logits.flatten(0, 1), codes.flatten()).item(), rel=1e-5
    )


def test_what_is_hidden_does_not_reach_the_encoder() -> None:
    pretext = made()
    images = torch.rand(2, 1, 8, 8)
    mask = pretext.mask(pretext.draw(2, generator(0, "step")))
    with torch.no_grad():
        before = pretext.predict(images, mask)
        unseen = images.unflatten(2, (4, 2)).unflatten(4, (4, 2)).movedim(3, 4).reshape(2, 1, 16, 2, 2).clone()
        for image, hidden in enumerate(mask.hidden):
            unseen[image, :, hidden] = 0.123
        changed = unseen.view(2, 1, 4, 4, 2, 2).movedim(4, 3).reshape(2, 1, 8, 8)
        assert not torch.equal(changed, images)
        assert torch.equal(pretext.predict(changed, mask), before)
        assert not torch.equal(pretext.predict(torch.rand(2, 1, 8, 8), mask), before)


def test_under_mixed_precision_codes_are_those_of_float32() -> None:
    pretext, images = made(), torch.rand(64, 1, 8, 8)
    codes = pretext.tokenizer.codes(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pretext.tokenizer.codes(images), codes)


def test_a_tiny_set_is_learned_to_below_chance(digits: ImageData) -> None:
    config = config_of(**{"train.epochs": 20, "train.base_lr": 4e-3})
    work = Trainer(config, digits, CPU, tokenizer=made_up_tokenizer(config))
    losses = [take_step(work, first_images(digits), step).losses["loss"].item() for step in range(50)]
    assert losses[0] == pytest.approx(math.log(512), rel=0.2)
    assert losses[-1] < 0.8 * math.log(512)


def test_the_encoders_first_weights_are_those_of_other_tasks(digits: ImageData) -> None:
    config = config_of()
    ours = new_pretext(config, digits, tokenizer=made_up_tokenizer(config)).encoder.state_dict()
    others = new_pretext(build(TINY), digits).encoder.state_dict()
    assert ours.keys() - others.keys() == {"encoder_mask_token"}
    assert all(torch.equal(value, ours[name]) for name, value in others.items())


def test_micro_batches_are_parts_of_the_same_masks() -> None:
    pretext = made()
    draws = pretext.draw(8, generator(0, "step"))
    parts = [pretext.mask(piece(draws, part)).order for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat(parts), pretext.mask(draws).order)


def test_it_needs_a_tokenizer_and_something_to_hide() -> None:
    with pytest.raises(UserError, match=r"target\.tokenizer=unset: expected a finished run"):
        build({"pretext.kind": "beit"})
    with pytest.raises(UserError, match=r"beit\.ratio=0\.01: keeps 16 of 16 patches"):
        config_of(**{"beit.ratio": 0.01})
    with pytest.raises(UserError, match=r"mask\.ratio=0\.5 has no effect"):
        build(TINY | {"pretext.kind": "beit", "target.tokenizer": "ab", "mask.ratio": 0.5})


def test_the_study_of_tasks_has_it_where_the_base_config_names_a_tokenizer() -> None:
    without, named = (
        [cell.name for cell in plan_cells(OWN["pretext"], resolve(settings=settings))]
        for settings in ([], ["pretext.kind=beit", "target.tokenizer=0123456789ab"])
    )
    assert set(named) - set(without) == {"beit"}
