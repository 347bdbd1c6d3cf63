import pytest
import torch
from torch import Tensor

from mae.config.resolve import build
from mae.models.vit import patchify, unpatchify
from mae.pretext import masked_autoencoder
from mae.pretext.targets import TARGETS, LowPass, NormalizedPixels, fit_principal_components
from mae.runtime.rng import generator
from tests.conftest import DIGITS
from tests.helpers.pretexts import autoencoder, surroundings

OF_PIXELS = [kind for kind in TARGETS if kind != "tokens"]  # which test_tokens.py is about


def test_normalised_patches_have_mean_0_and_variance_1() -> None:
    patches = NormalizedPixels(48)(torch.rand(4, 9, 48) * 7 + 3)
    assert torch.allclose(patches.mean(-1), torch.zeros(4, 9), atol=1e-5)
    assert torch.allclose(patches.var(-1), torch.ones(4, 9), atol=1e-4)


def test_a_constant_patch_normalises_to_zero() -> None:
    assert NormalizedPixels(48)(torch.full((1, 48), 0.3)).abs().max() < 1e-3


def test_all_components_give_back_the_patch() -> None:
    patches = torch.randn(500, 12) @ torch.randn(12, 12)
    target = fit_principal_components(patches, 1.0)
    assert torch.allclose(target.pixels(target(patches), patches), patches, atol=1e-3)


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99])
def test_the_fewest_components_that_explain_the_variance_are_kept(variance: float) -> None:
    patches = torch.randn(2000, 12) * torch.linspace(3, 0.1, 12)
    target = fit_principal_components(patches, variance)
    centred = patches - patches.mean(0)
    explained = target(patches).square().sum(0) / centred.square().sum()
    assert explained.sum() >= variance - 1e-4
    assert explained[:-1].sum() < variance


def test_components_are_the_largest_singular_vectors_about_the_mean() -> None:
    patches = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 3.0, 2.0, 1.0]) + 7
    target = fit_principal_components(patches, 0.99)
    centred = patches - patches.mean(0)
    axes = torch.linalg.svd(centred).Vh
    assert torch.allclose((target.components @ axes.T).abs(), torch.eye(4), atol=1e-3)
    assert torch.allclose(target(patches).abs(), (centred @ axes.T).abs(), atol=1e-2)


def test_a_share_that_is_met_exactly_takes_no_further_component() -> None:
    patches = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 2.0]])
    assert fit_principal_components(torch.cat([patches, -patches]), 0.5).outputs == 2


@pytest.mark.parametrize(("kind", "outputs"), [("pixels", 6), ("normalized_pixels", 6), ("pca", 2)])
def test_a_config_gets_the_target_that_it_names(kind: str, outputs: int) -> None:
    patches = torch.randn(50, 2) @ torch.randn(2, 6) + 3
    config = build(DIGITS | {"target.kind": kind, "data.image_size": [6, 4], "model.patch_size": [3, 2]})
    target = TARGETS[kind].fit(config, lambda: patches, surroundings(config))
    expected = {
        "pixels": patches,
        "normalized_pixels": (patches - patches.mean(1, keepdim=True)) / patches.std(1, keepdim=True),
        "pca": fit_principal_components(patches, 0.99)(patches),
    }
    assert torch.allclose(target(patches), expected[kind], atol=1e-4)
    assert target.outputs == outputs


def low_pass(images: Tensor, cutoff: float) -> Tensor:
    """Filter images through the target of a config of their size."""
    size = {"data.channels": images.shape[1], "data.image_size": list(images.shape[2:]), "model.patch_size": 2}
    target = LowPass(build(size | {"target.kind": "low_pass", "target.cutoff": cutoff}))
    return unpatchify(target.of_images(patchify(images, (2, 2))), (2, 2), target.grid)


def wave(rows: int, columns: int) -> Tensor:
    """Return a wave of so many cycles per image of 8 x 12 pixels, in each of three channels."""
    row, column = torch.arange(8).view(8, 1), torch.arange(12).view(1, 12)
    phase = 2 * torch.pi * (rows * row / 8 + columns * column / 12)
    return torch.stack([(phase + shift).cos() for shift in (0.3, 0.7, 1.1)])[None]


@pytest.mark.parametrize(
    ("rows", "columns", "kept"),
    [
        (0, 0, True),
        (2, 0, True),
        (0, 3, True),
        (1, 2, True),
        (3, 0, False),
        (0, 4, False),
        (2, 1, False),
        (1, 3, False),
    ],
)
def test_frequencies_up_to_a_radius_are_kept_and_others_removed(rows: int, columns: int, kept: bool) -> None:
    image = wave(rows, columns)  # the highest ones are of 4 and 6 cycles: half of them are 2 and 3
    assert torch.allclose(low_pass(image, 0.5), image if kept else torch.zeros_like(image), atol=1e-5)


def test_all_frequencies_of_a_side_are_kept_at_a_cutoff_of_1() -> None:
    image = wave(4, 0) + wave(0, 6)
    assert torch.allclose(low_pass(image, 1.0), image, atol=1e-5)


def test_by_default_the_radius_is_pixmims_40_cycles_of_an_image_of_224_pixels() -> None:
    disc = LowPass(build({"data.image_size": 224, "model.patch_size": 16, "target.kind": "low_pass"})).disc
    rows, columns = torch.meshgrid(torch.fft.fftfreq(224, 1 / 224), torch.arange(113.0), indexing="ij")
    assert torch.equal(disc, (rows**2 + columns**2 <= 40**2).float())


def test_the_loss_compares_with_the_filtered_image(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Tensor] = []
    monkeypatch.setattr(
        masked_autoencoder, "reconstruction_loss", lambda prediction, target, weights: compared.append(target)
    )
    model, images = autoencoder(build(DIGITS | {"target.kind": "low_pass"})), torch.randn(8, 1, 8, 8)
    mask = model.mask(model.draw(8, generator(0, "mask")))
    model.loss(images, mask)
    where = mask.hidden[..., None].expand(-1, -1, 4)
    assert torch.allclose(compared[0], patchify(low_pass(images, 40 / 112), (2, 2)).gather(1, where), atol=1e-5)


@pytest.mark.parametrize("kind", OF_PIXELS)
def test_a_saved_target_is_the_one_that_was_fitted(kind: str) -> None:
    config = build({"target.kind": kind})
    fitted = TARGETS[kind].fit(config, lambda: torch.randn(50, 4), surroundings(config))
    saved, patches = TARGETS[kind].saved(config, fitted.state_dict(), surroundings(config)), torch.randn(3, 4)
    assert saved.outputs == fitted.outputs
    assert torch.equal(saved(patches), fitted(patches))


@pytest.mark.parametrize("kind", OF_PIXELS)
def test_what_is_predicted_exactly_is_drawn_exactly(kind: str) -> None:
    patches = torch.randn(50, 4) * 3 + 2
    config = build({"target.kind": kind, "target.pca_variance": 1.0} if kind == "pca" else {})
    target = TARGETS[kind].fit(config, lambda: patches, surroundings(config))
    assert torch.allclose(target.pixels(target(patches), patches), patches, atol=1e-4)


@pytest.mark.parametrize("kind", OF_PIXELS)
def test_under_mixed_precision_targets_have_the_bits_of_float32(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Tensor] = []

    def loss(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        compared.append(target)
        return prediction.sum()

    monkeypatch.setattr(masked_autoencoder, "reconstruction_loss", loss)
    model, images = autoencoder(build(DIGITS | {"target.kind": kind})), torch.randn(8, 1, 8, 8)
    mask = model.mask(model.draw(8, generator(0, "mask")))
    model.loss(images, mask)
    with torch.autocast("cpu", torch.bfloat16):
        model.loss(images, mask)
    assert torch.equal(*compared)
