"""Context encoders: what is cut out, what the encoder sees, what the loss reads, and who learns from which loss."""

import copy
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mae.config.pretext_sections import InpaintConfig
from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.data.augmentation import centre
from mae.errors import UserError
from mae.pretext.discriminator import Discriminator
from mae.pretext.inpaint import ContextEncoder
from mae.pretext.regions import REGIONS, without_border
from mae.pretext.registry import PRETEXTS
from mae.runtime.autocast import mixed
from mae.runtime.rng import generator, piece
from tests.conftest import TINY
from tests.helpers.pretexts import batch_of, stored, surroundings

CPU = torch.device("cpu")
COLOUR = {"data.channels": 3, "data.image_size": [16, 24], "data.augmentation": "none", "inpaint.overlap": 1 / 16}
"""Overlaps of 1 row and 2 columns, rounded from 1.5."""
LARGE = {"data.image_size": [32, 48]}


def config_of(region: str = "centre", **more: Any) -> Config:
    return change(build(TINY), COLOUR | {"pretext.kind": "inpaint", "inpaint.region": region} | more)


def make(config: Config) -> ContextEncoder:
    torch.manual_seed(0)
    made = PRETEXTS["inpaint"](config, surroundings(config))
    assert isinstance(made, ContextEncoder)
    return made


def inputs(pretext: ContextEncoder, count: int = 8) -> Any:
    return batch_of(stored(pretext.config, count)), pretext.draw(count, generator(0, "step"))


def cover(region: str, count: int, **more: Any) -> Tensor:
    """Return which pixels of some images are in their regions, bool (count, H, W)."""
    config = config_of(region, **more)
    draws = REGIONS[region].draw(generator(0, "region"), count, config)
    return REGIONS[region].covered(draws, config, CPU)[:, 0].expand(count, -1, -1)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: each.grad for name, each in module.named_parameters() if each.grad is not None}


def test_every_region_has_its_name_among_the_settings() -> None:
    assert set(REGIONS) == set(get_args(InpaintConfig.model_fields["region"].annotation))


def test_the_centre_is_half_as_high_and_as_wide_as_the_image() -> None:
    expected = torch.zeros(16, 24, dtype=torch.bool)
    expected[4:12, 6:18] = True
    assert torch.equal(cover("centre", 2), expected.expand(2, -1, -1))


def test_blocks_lie_anywhere_in_the_image_and_cover_no_more_than_their_share() -> None:
    covered = cover("blocks", 3000, **LARGE)
    shares = covered.float().mean(dim=(1, 2))
    assert shares.max() == 0.25  # of 8 x 12 pixels each, where none overlap
    assert shares.min() >= 1 / 16
    assert covered.any(dim=0).all()


@pytest.mark.parametrize("share", [0.05, 0.25, 0.6])
def test_shapes_cover_the_same_number_of_pixels_in_every_image(share: float) -> None:
    covered = cover("shapes", 40, **LARGE, **{"inpaint.share": share})
    assert covered.sum(dim=(1, 2)).tolist() == [round(32 * 48 * share)] * 40
    assert len(covered.flatten(1).unique(dim=0)) == 40


def test_shapes_hang_together_and_come_everywhere() -> None:
    covered = cover("shapes", 4000, **LARGE)
    both = (covered[:, :, 1:] & covered[:, :, :-1]).sum() / covered[:, :, 1:].sum()
    assert both > 0.85  # at random it were 0.25
    assert torch.allclose(covered.float().mean(dim=0), torch.full((32, 48), 0.25), atol=0.06)


def test_a_border_is_where_the_context_is_near() -> None:
    region = torch.zeros(1, 1, 6, 9, dtype=torch.bool)
    region[..., 1:6, 2:9] = True  # down to the image's own border, and to its right one
    expected = torch.zeros(6, 9, dtype=torch.bool)
    expected[2:6, 4:9] = True
    assert torch.equal(without_border(region, (1, 2))[0, 0], expected)
    assert torch.equal(without_border(region, (0, 0)), region)


def test_a_border_is_as_wide_as_the_papers_at_the_papers_size() -> None:
    config = build({"pretext.kind": "inpaint", "data.image_size": 128})
    assert (config.piece_size, config.overlap_pixels) == ((64, 64), (7, 7))


@pytest.mark.parametrize("region", REGIONS)
def test_the_encoder_sees_the_border_of_the_region_and_the_training_mean_within(region: str) -> None:
    pretext, seen = make(config_of(region, **LARGE)), []
    images, draws = torch.full((4, 3, 32, 48), 7.0), pretext.draw(4, generator(0, "step"))
    covered, hole = pretext.region(draws.region)
    pretext.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pretext.fill(images, hole)
    assert torch.equal(seen[0] == 0, hole.expand_as(images))
    assert set(seen[0].unique().tolist()) == {0.0, 7.0}
    assert (hole < covered).any(dim=(1, 2, 3)).all()  # part of the region is border
    assert not (hole & ~covered).any()


@pytest.mark.parametrize("region", REGIONS)
def test_the_error_is_each_regions_mean_with_ten_times_the_weight_on_its_border(region: str) -> None:
    pretext = make(config_of(region, **LARGE))
    batch, draws = inputs(pretext, 4)
    images, (covered, hole) = batch.images.float() / 255, pretext.region(draws.region)
    squares = (pretext.fill(images, hole) - images).square()
    expected = []
    for each, one, inner in zip(squares, covered.expand(4, -1, -1, -1), hole.expand(4, -1, -1, -1), strict=True):
        border = one & ~inner
        total = each[inner.expand(3, -1, -1)].sum() + 10 * each[border.expand(3, -1, -1)].sum()
        expected.append(total / (3 * (inner.sum() + 10 * border.sum())))
    found = pretext(batch, draws)["error"].item()
    assert found == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_the_loss_is_the_generators() -> None:
    pretext = make(config_of(**{"inpaint.adversarial_weight": 0.25}))
    losses = {name: value.item() for name, value in pretext(*inputs(pretext)).items()}
    assert losses["loss"] == pytest.approx(0.75 * losses["error"] + 0.25 * losses["adversarial"], rel=1e-6)


@pytest.mark.parametrize("weight", [0.001, 0.3])
@pytest.mark.parametrize("region", REGIONS)
def test_one_backward_pass_gives_the_gradients_of_two_players_with_an_optimiser_each(
    region: str, weight: float
) -> None:
    pretext = make(config_of(region, **{"inpaint.adversarial_weight": weight}))
    batch, draws = inputs(pretext)
    alone = copy.deepcopy(pretext)
    pretext(batch, draws)["loss"].backward()

    images, (covered, hole) = batch.images.float() / 255, alone.region(draws.region)
    rows, columns = (slice(4, 12), slice(6, 18)) if region == "centre" else (slice(None), slice(None))
    made = torch.where(covered, alone.fill(images, hole), images)[:, :, rows, columns]
    second = alone.discriminator
    assert second is not None
    real, yes, no = images[:, :, rows, columns], torch.ones(8), torch.zeros(8)
    told = F.binary_cross_entropy_with_logits(second(real), yes)
    (told + F.binary_cross_entropy_with_logits(second(made.detach()), no)).backward()
    theirs = {name: grad.clone() for name, grad in gradients(second).items()}
    error = alone(batch, draws)["error"]
    ((1 - weight) * error + weight * F.binary_cross_entropy_with_logits(second(made), yes)).backward()
    expected = gradients(alone) | {f"discriminator.{name}": grad for name, grad in theirs.items()}

    found = gradients(pretext)
    assert found.keys() == expected.keys() == dict(pretext.named_parameters()).keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-7), name
    assert any(name.startswith("discriminator.") for name in found)


def test_the_discriminator_learns_as_much_whatever_its_weight_is_to_the_generator() -> None:
    found = []
    for weight in (0.001, 1.0):
        pretext = make(config_of(**{"inpaint.adversarial_weight": weight}))
        pretext(*inputs(pretext))["loss"].backward()
        assert pretext.discriminator is not None
        found.append(gradients(pretext.discriminator))
    assert all(torch.equal(one, other) for one, other in zip(found[0].values(), found[1].values(), strict=True))


def test_without_an_adversarial_loss_there_is_no_discriminator_and_the_error_alone_is_learnt_to_the_bit() -> None:
    plain, adversarial = (make(config_of(**{"inpaint.adversarial_weight": weight})) for weight in (0.0, 0.001))
    losses, others = (each(*inputs(each)) for each in (plain, adversarial))
    assert set(losses) == {"loss", "error"}
    assert torch.equal(losses["loss"], others["error"])
    losses["loss"].backward()
    others["error"].backward()
    names = dict(plain.named_parameters()).keys()
    assert names == {name for name, _ in adversarial.named_parameters() if not name.startswith("discriminator")}
    assert all(torch.equal(gradients(plain)[name], gradients(adversarial)[name]) for name in names)
    assert not any("discriminator" in name for name in plain.state_dict())


def test_the_discriminator_is_counted_as_cost() -> None:
    without, with_one = (make(config_of(**{"inpaint.adversarial_weight": weight})) for weight in (0.0, 0.001))
    second = with_one.discriminator
    assert second is not None
    own = sum(parameter.numel() for parameter in second.parameters())
    costs, others = without.cost(), with_one.cost()
    assert others["parameters"] - costs["parameters"] == own
    assert others["gflops_per_image"] > costs["gflops_per_image"]
    assert others["gflops_encoder"] == costs["gflops_encoder"]


def test_a_discriminator_that_diverges_is_seen_in_the_loss() -> None:
    pretext = make(config_of())
    assert pretext.discriminator is not None
    with torch.no_grad():
        pretext.discriminator.score.bias.fill_(torch.inf)
    assert not pretext(*inputs(pretext))["loss"].isfinite()


def test_accuracy_is_the_share_of_real_and_made_images_that_are_told_rightly() -> None:
    pretext = make(config_of())
    second = pretext.discriminator
    assert second is not None
    with torch.no_grad():
        second.score.weight.zero_()
    for bias, expected in ((1.0, 50.0), (0.0, 50.0), (-1.0, 50.0)):  # all real, or all made
        torch.nn.init.constant_(second.score.bias, bias)
        assert pretext(*inputs(pretext))["discriminator_accuracy"] == expected
    real, made = torch.ones(4, 1, 4, 4), -torch.ones(4, 1, 4, 4)
    made[0] = 1
    judge = Discriminator(1, (4, 4))
    judge.forward = lambda images: images.mean(dim=(1, 2, 3))  # type: ignore[method-assign]
    assert judge.play(real, made).right == 7 / 8


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 9), (64, 64), (112, 40), (224, 224)])
def test_an_image_of_any_size_has_a_score_that_no_other_image_of_the_batch_changes(size: tuple[int, int]) -> None:
    judge, images = Discriminator(3, size), torch.randn(2, 3, *size)
    first = judge(images)
    images[1] *= 5
    assert judge(images)[0].item() == pytest.approx(first[0].item(), rel=1e-4)
    assert first.shape == (2,)
    assert sum(parameter.numel() for parameter in judge.parameters()) < 2e6


@pytest.mark.parametrize("region", REGIONS)
def test_part_of_a_batch_has_the_regions_and_the_losses_of_the_whole(region: str) -> None:
    pretext = make(config_of(region))
    batch, draws = inputs(pretext)
    whole = pretext(batch, draws)
    parts = [pretext(piece(batch, part), piece(draws, part)) for part in (slice(0, 2), slice(2, 4), slice(4, 8))]
    for name, value in whole.items():
        assert (parts[0][name] + parts[1][name] + 2 * parts[2][name]).item() / 4 == pytest.approx(value.item(), 1e-5)


@pytest.mark.parametrize("region", ["blocks", "shapes"])
def test_a_step_makes_few_random_numbers_on_the_host(region: str) -> None:
    draws = make(config_of(region, **{"data.image_size": 224, "model.patch_size": 16})).draw(8, generator(0, "step"))
    assert draws.region is not None
    assert draws.region.numel() <= 8 * 16


@pytest.mark.parametrize("region", REGIONS)
def test_mixed_precision_stays_near_full_precision(region: str) -> None:
    pretext = make(config_of(region))
    expected = pretext(*inputs(pretext))
    with mixed("bf16", CPU):
        found = pretext(*inputs(pretext))
    for name in ("loss", "error", "adversarial"):
        assert found[name].dtype == torch.float32
        assert found[name].item() == pytest.approx(expected[name].item(), rel=0.03)


def test_compiled_players_have_the_gradients_of_plain_ones() -> None:
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        judge, real, made = Discriminator(1, (4, 4)), torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4).requires_grad_()
        play = torch.compile(judge.play, fullgraph=True, backend="aot_eager") if compiled else judge.play
        game = play(real, made)
        (0.1 * game.generator + game.discriminator).backward()
        found.append([made.grad, *gradients(judge).values()])
    assert all(torch.allclose(one, other, rtol=1e-4) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("region", REGIONS)
def test_a_perfect_filling_is_drawn_as_the_original(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretext, rows = make(config_of(region)), {}
    monkeypatch.setattr(pretext, "fill", lambda images, hole: images)
    monkeypatch.setattr("mae.pretext.inpaint.image_rows", rows.update)
    images = centre(stored(pretext.config, 4), pretext.config.data)
    pretext.mean, pretext.std = torch.full((3, 1, 1), 0.4), torch.full((3, 1, 1), 0.5)
    draws = pretext.draw(4, generator(0, "picture"))
    pretext.picture(images, draws)
    assert torch.allclose(rows["filled in"], images, atol=1e-6)
    hole = pretext.region(draws.region)[1].expand_as(images)
    assert torch.allclose(rows["cut out"], images.masked_fill(hole, 0.4), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"inpaint.overlap": 0.3}, r"inpaint\.region=centre: cuts nothing out, as pieces of 4 x 4 pixels"),
        ({"inpaint.region": "blocks", "inpaint.share": 0.05}, r"cuts nothing out, as pieces of 0 x 0 pixels"),
        ({"inpaint.region": "shapes", "inpaint.share": 0.001}, r"inpaint\.share=0\.001: cuts out 0 of 64 pixels"),
        ({"inpaint.region": "shapes", "inpaint.share": 0.999}, r"cuts out 64 of 64 pixels"),
        ({"inpaint.share": 0.5}, r"inpaint\.share=0\.5 has no effect"),
        ({"target.kind": "pca"}, r"target\.kind=pca has no effect"),
        ({"mask.ratio": 0.5}, r"mask\.ratio=0\.5 has no effect"),
        ({"pretext.kind": "mae", "inpaint.overlap": 0.1}, r"inpaint\.overlap=0\.1 has no effect"),
    ],
)
def test_settings_that_cut_nothing_out_or_have_no_say_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build(TINY | {"pretext.kind": "inpaint"} | settings)
