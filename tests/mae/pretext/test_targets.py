import pytest
import torch
from torch import Tensor

from mae.config.resolve import build
from mae.pretext import masked_autoencoder
from mae.pretext.targets import TARGETS, NormalizedPixels, fit_principal_components
from mae.runtime.rng import generator
from tests.conftest import DIGITS
from tests.helpers.pretexts import autoencoder


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
    target = TARGETS[kind].fit(config, lambda: patches)
    expected = {
        "pixels": patches,
        "normalized_pixels": (patches - patches.mean(1, keepdim=True)) / patches.std(1, keepdim=True),
        "pca": fit_principal_components(patches, 0.99)(patches),
    }
    assert torch.allclose(target(patches), expected[kind], atol=1e-4)
    assert target.outputs == outputs


@pytest.mark.parametrize("kind", TARGETS)
def test_a_saved_target_is_the_one_that_was_fitted(kind: str) -> None:
    config = build({"target.kind": kind})
    fitted = TARGETS[kind].fit(config, lambda: torch.randn(50, 4))
    saved, patches = TARGETS[kind].saved(config, fitted.state_dict()), torch.randn(3, 4)
    assert saved.outputs == fitted.outputs
    assert torch.equal(saved(patches), fitted(patches))


@pytest.mark.parametrize("kind", TARGETS)
def test_what_is_predicted_exactly_is_drawn_exactly(kind: str) -> None:
    patches = torch.randn(50, 4) * 3 + 2
    target = TARGETS[kind].fit(
        build({"target.kind": kind, "target.pca_variance": 1.0} if kind == "pca" else {}), lambda: patches
    )
    assert torch.allclose(target.pixels(target(patches), patches), patches, atol=1e-4)


@pytest.mark.parametrize("kind", ["pixels", "normalized_pixels", "pca"])
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
