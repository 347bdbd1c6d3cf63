"""Denoising autoencoders: what is corrupted, by how much, and what the loss reads."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from mae.config.pretext_sections import DenoiseConfig
from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.errors import UserError
from mae.models.vit import patchify
from mae.pretext.denoise import DenoisingAutoencoder
from mae.pretext.masked_autoencoder import MaskedAutoencoder
from mae.pretext.masking import masks
from mae.pretext.pixel_noise import PIXEL_NOISES, draw_seeds, hashed, normal
from mae.pretext.registry import PRETEXTS
from mae.runtime.rng import generator, piece
from tests.conftest import TINY
from tests.helpers.pretexts import batch_of, stored, surroundings

COLOUR = {"data.channels": 3, "data.image_size": [8, 12], "data.augmentation": "none"}
NOISES = get_args(DenoiseConfig.model_fields["noise"].annotation)


def config_of(noise: str, **more: Any) -> Config:
    return change(build(TINY), COLOUR | {"pretext.kind": "denoise", "denoise.noise": noise} | more)


def make(config: Config) -> Any:
    torch.manual_seed(0)
    return PRETEXTS[config.pretext.kind](config, surroundings(config))


def corrupt(noise: str, images: Tensor, seed: int = 0, **more: Any) -> tuple[Tensor, Tensor]:
    """Corrupt images, black being -2 and white 3; return them and which of their pixels were corrupted (B, H, W)."""
    extremes = torch.tensor([-2.0, 3.0]).view(2, 1, 1, 1)
    seeds = draw_seeds(len(images), generator(seed, "noise"))
    noisy, corrupted = PIXEL_NOISES[noise](images, seeds, extremes, config_of(noise, **more))
    return noisy, corrupted[:, 0]


def test_every_noise_has_its_name_among_the_settings() -> None:
    assert set(NOISES) == {*PIXEL_NOISES, "masked_patches"}


def test_bits_of_pixels_differ_under_one_seed_and_between_seeds() -> None:
    first, second = hashed(torch.tensor([1, 2]), 50_000)
    assert len(first.unique()) == 50_000
    assert len(torch.cat([first, second]).unique()) > 99_900  # nor are those of one the other's in another order
    assert first.min() >= 0 and first.max() < 2**32  # noqa: PT018


def test_every_bit_is_set_half_of_the_time_whatever_its_neighbours_are() -> None:
    bits = (hashed(draw_seeds(4, generator(0, "noise")), 50_000)[..., None] >> torch.arange(32)) % 2
    flat = bits.flatten(0, 1).float() - 0.5
    correlation = 4 * flat.T @ flat / len(flat)
    assert flat.mean(dim=0).abs().max() < 0.006  # 5 standard errors
    assert (correlation - torch.eye(32)).abs().max() < 0.012
    assert (4 * (flat[1:] * flat[:-1]).mean(dim=0)).abs().max() < 0.012


def test_gaussian_noise_is_standard_normal() -> None:
    numbers = normal(draw_seeds(8, generator(0, "noise")), 50_000).double()
    moments = [numbers.pow(power).mean().item() for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.08)
    assert torch.corrcoef(numbers).fill_diagonal_(0).abs().max() < 0.025  # images have noise of their own
    assert numbers.abs().max() < 6


def test_the_smallest_and_the_largest_bits_give_finite_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mae.pretext.pixel_noise.hashed", lambda seeds, count: torch.tensor([[0, 2**32 - 1]]))
    assert normal(torch.zeros(1, dtype=torch.int64), 2).abs().tolist() == [[pytest.approx(5.295, abs=1e-2)] * 2]


def test_gaussian_noise_has_the_deviation_that_is_set() -> None:
    images = torch.full((50, 3, 8, 12), 7.0)
    noisy, corrupted = corrupt("gaussian", images, **{"denoise.deviation": 0.25})
    assert (noisy - images).std().item() == pytest.approx(0.25, rel=0.03)
    assert corrupted.all()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.95])
@pytest.mark.parametrize("noise", ["masked_pixels", "salt_and_pepper"])
def test_every_image_has_the_same_number_of_corrupted_pixels(noise: str, share: float) -> None:
    noisy, corrupted = corrupt(noise, torch.full((40, 3, 8, 12), 7.0), **{"denoise.share": share})
    assert corrupted.sum(dim=(1, 2)).tolist() == [round(96 * share)] * 40
    assert ((noisy != 7).all(dim=1) == corrupted).all()
    assert ((noisy != 7).any(dim=1) == corrupted).all()  # all channels of a pixel, or none


def test_masked_pixels_have_the_training_mean() -> None:
    noisy, _ = corrupt("masked_pixels", torch.full((2, 3, 8, 12), 7.0))
    assert set(noisy.unique().tolist()) == {0.0, 7.0}


def test_salt_and_pepper_are_white_and_black_by_the_toss_of_a_coin() -> None:
    noisy, _ = corrupt("salt_and_pepper", torch.full((400, 1, 8, 12), 7.0), **{"denoise.share": 0.5})
    values, counts = noisy.unique(return_counts=True)
    assert values.tolist() == [-2.0, 3.0, 7.0]
    assert counts[0].item() / counts[:2].sum().item() == pytest.approx(0.5, abs=0.02)


def test_salt_and_pepper_are_white_and_black_in_the_images_own_units() -> None:
    config = config_of("salt_and_pepper", **{"denoise.share": 0.9})
    pretext = make(config)
    pretext.mean, pretext.std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    corrupted = pretext._corrupted(torch.full((4, 3, 8, 12), 0.5), draw_seeds(4, generator(0, "noise")))
    assert corrupted.unique().tolist() == pytest.approx([0, 0.5, 1], abs=1e-6)


@pytest.mark.parametrize("noise", ["masked_pixels", "salt_and_pepper"])
def test_every_pixel_is_corrupted_equally_often(noise: str) -> None:
    _, corrupted = corrupt(noise, torch.zeros(20_000, 1, 8, 12))
    assert torch.allclose(corrupted.float().mean(dim=0), torch.full((8, 12), 0.25), atol=0.016)  # 5 standard errors


@pytest.mark.parametrize("noise", NOISES)
def test_part_of_a_batch_has_the_noise_and_the_losses_of_the_whole(noise: str) -> None:
    pretext = make(config_of(noise))
    batch, draws = batch_of(stored(pretext.config, 8)), pretext.draw(8, generator(0, "step"))
    whole = pretext(batch, draws)
    parts = [pretext(piece(batch, part), piece(draws, part)) for part in (slice(0, 2), slice(2, 4), slice(4, 8))]
    for name, value in whole.items():
        assert (parts[0][name] + parts[1][name] + 2 * parts[2][name]).item() / 4 == pytest.approx(value.item(), 1e-5)


@pytest.mark.parametrize("noise", PIXEL_NOISES)
def test_a_step_makes_few_random_numbers_on_the_host(noise: str) -> None:
    config = config_of(noise, **{"data.image_size": 224, "model.patch_size": 16})
    assert make(config).draw(8, generator(0, "step")).noise.numel() == 8


@pytest.mark.parametrize(
    ("noise", "region", "expected"),
    [
        ("masked_pixels", {"loss.region": "masked"}, lambda corrupted, clean: corrupted),
        ("salt_and_pepper", {"loss.region": "all"}, lambda corrupted, clean: 0.25 * corrupted + 0.75 * clean),
        (
            "masked_patches",
            {"loss.region": "weighted", "loss.visible_weight": 0.5},
            lambda corrupted, clean: (0.75 * corrupted + 0.125 * clean) / 0.875,
        ),
    ],
)
def test_the_loss_is_a_weighted_mean_of_both_parts(noise: str, region: dict[str, Any], expected: Any) -> None:
    pretext = make(config_of(noise, **region))
    losses = pretext(batch_of(stored(pretext.config, 8)), pretext.draw(8, generator(0, "step")))
    corrupted, clean = losses["error_corrupted"].item(), losses["error_clean"].item()
    assert losses["loss"].item() == pytest.approx(expected(corrupted, clean), rel=1e-5)
    assert corrupted != pytest.approx(clean, rel=1e-3)


def test_errors_of_both_parts_are_those_of_their_pixels() -> None:
    pretext = make(config_of("masked_pixels"))
    batch, draws = batch_of(stored(pretext.config, 8)), pretext.draw(8, generator(0, "step"))
    losses, images = pretext(batch, draws), pretext.look(batch.images.float() / 255)
    noisy, chosen = pretext._with_noise(images, draws.noise)
    assert torch.equal(noisy, images.masked_fill(chosen, 0))
    pixels = chosen.expand_as(images)
    order = torch.arange(pretext.config.patches).expand(8, -1)
    errors = (pretext.decoder(pretext.encoder(noisy), order, 0) - patchify(images, (2, 2))).square()
    for name, part in (("error_corrupted", pixels), ("error_clean", ~pixels)):
        assert losses[name].item() == pytest.approx(errors[patchify(part, (2, 2))].mean().item(), rel=1e-5)


@pytest.mark.parametrize("region", ["masked", "all"])
@pytest.mark.parametrize("sampling", ["random", "block"])
def test_with_masked_patches_it_is_masked_autoencoding_with_mask_tokens(region: str, sampling: str) -> None:
    settings = {"loss.region": region, "mask.sampling": sampling}
    denoising = make(config_of("masked_patches", **settings))
    masking = make(change(build(TINY), COLOUR | {"model.encoder_mask_tokens": True} | settings))
    assert (type(denoising), type(masking)) == (DenoisingAutoencoder, MaskedAutoencoder)
    batch, found = batch_of(stored(masking.config, 8)), []
    for pretext in (denoising, masking):
        loss = pretext(batch, pretext.draw(8, generator(0, "step")))["loss"]
        loss.backward()
        norms = {name: float(value.grad.norm()) for name, value in pretext.named_parameters() if value.grad is not None}
        found.append({"loss": loss.item(), **norms})
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-7)


def test_the_encoder_sees_all_positions_but_no_pixel_of_a_hidden_patch() -> None:
    pretext = make(config_of("masked_patches"))
    lengths: list[int] = []
    pretext.encoder.blocks[0].register_forward_hook(lambda *given: lengths.append(given[1][0].shape[1]))
    batch, draws = batch_of(stored(pretext.config, 1)), pretext.draw(1, generator(0, "step"))
    images = pretext.look(batch.images.float() / 255)
    predictions = pretext.restore(images, draws.noise).predictions
    hidden = masks(pretext.config, draws.noise).hidden[0].tolist()
    for place in hidden:
        row, column = divmod(place, 6)
        images[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 100.0
    assert torch.equal(pretext.restore(images, draws.noise).predictions, predictions)
    assert lengths == [25, 25]


@pytest.mark.parametrize("noise", NOISES)
def test_a_perfect_reconstruction_is_drawn_as_the_original(noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretext, rows = make(config_of(noise)), {}
    restore = pretext.restore

    def perfect(images: Tensor, draws: Tensor) -> Any:
        restored = restore(images, draws)
        where = restored.order[..., None].expand_as(restored.predictions)
        return restored._replace(predictions=patchify(images, (2, 2)).gather(1, where))

    monkeypatch.setattr(pretext, "restore", perfect)
    monkeypatch.setattr("mae.pretext.denoise.image_rows", rows.update)
    images = torch.rand(4, 3, 8, 12)
    pretext.picture(images, pretext.draw(4, generator(0, "picture")))
    assert torch.allclose(rows["reconstruction"], images, atol=1e-5)
    assert not torch.allclose(rows["corrupted"], images, atol=1e-2)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_a_share_that_corrupts_no_pixel_or_all_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"denoise\.share=.*: corrupts (0|64) of 64 pixels"):
        change(build(TINY), {"pretext.kind": "denoise", "denoise.noise": "masked_pixels", "denoise.share": share})


def test_coefficients_are_no_target_of_corrupted_pixels() -> None:
    with pytest.raises(UserError, match=r"target\.kind=pca: .* whether denoise.noise=masked_pixels has corrupted it"):
        config_of("masked_pixels", **{"target.kind": "pca"})
    for noise in ("gaussian", "masked_patches"):
        pretext = make(config_of(noise, **{"target.kind": "pca"}))
        assert pretext(batch_of(stored(pretext.config, 4)), pretext.draw(4, generator(0, "step")))["loss"].isfinite()
