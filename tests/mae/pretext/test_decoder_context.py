"""More context for the decoder: what each part computes, and that without it nothing is other than before."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.fingerprint import pretrain_settings, untrained_fingerprint
from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.errors import UserError
from mae.pretext.decoder_context import Convolutions, Fusion
from mae.pretext.masked_autoencoder import MaskedAutoencoder
from mae.pretext.masking import Mask
from mae.runtime.rng import generator
from mae.training.step import Trainer
from tests.conftest import TINY
from tests.helpers.pretexts import autoencoder
from tests.helpers.training import first_images, gradients_of_a_step

RECTANGULAR = TINY | {"data.image_size": [6, 10], "model.decoder.depth": 2}  # a grid of 3 x 5
MIXING = {"model.decoder.mixing": "convolutions"}
GLOBAL = {"model.decoder.global_token": True}
FUSION = {"model.decoder.fusion": [1]}
ALL = MIXING | GLOBAL | FUSION


def made(settings: dict[str, Any]) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return autoencoder(build(RECTANGULAR | settings))


def randomised(module: nn.Module) -> Any:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def in_disorder(count: int, seed: int = 1) -> Tensor:
    """Return orders (count, 15) of the patches."""
    return torch.rand(count, 15, generator=generator(seed, "order")).argsort(dim=1)


def mixed(module: Convolutions, tokens: Tensor, order: Tensor) -> Tensor:
    found: Tensor = module(tokens, order, order.argsort(dim=1))
    return found


def test_convolutions_are_those_of_the_grid_in_whatever_order_the_patches_are() -> None:
    module, tokens, order = randomised(Convolutions(8, (3, 5), (3, 5), 1e-6)), torch.randn(2, 16, 8), in_disorder(2)
    for given, found, ranks in zip(tokens, mixed(module, tokens, order), order, strict=True):
        grid = torch.zeros(3, 5, 8)
        for token, place in zip(given[1:], ranks.tolist(), strict=True):
            grid[divmod(place, 5)] = token
        normed = F.layer_norm(grid, (8,), module.norm.weight, module.norm.bias, 1e-6).permute(2, 0, 1)
        seen = torch.cat([F.conv2d(normed, c.weight, c.bias, padding="same", groups=8) for c in module.convolutions])
        expected = grid + module.pointwise(F.gelu(seen).permute(1, 2, 0))
        for token, place in zip(found[1:], ranks.tolist(), strict=True):
            assert torch.allclose(token, expected[divmod(place, 5)], atol=1e-5)
        assert torch.equal(found[0], given[0])  # the class token


@pytest.mark.parametrize("kernels", [(1,), (3,), (3, 5)])
def test_a_patch_reaches_its_neighbours_as_far_as_the_largest_kernel(kernels: tuple[int, ...]) -> None:
    module, order = randomised(Convolutions(8, kernels, (3, 5), 1e-6)), in_disorder(1)
    tokens = torch.randn(1, 16, 8)
    other = tokens.clone()
    corner = order[0].tolist().index(0)
    other[0, 1 + corner] += torch.randn(8)
    changed = (mixed(module, tokens, order) != mixed(module, other, order)).any(dim=2)[0, 1:]
    reach = max(kernels) // 2
    within = {5 * row + column for row in range(3) for column in range(5) if row <= reach and column <= reach}
    assert {order[0, rank].item() for rank in changed.nonzero().flatten()} == within


@pytest.mark.parametrize("settings", [MIXING, GLOBAL, MIXING | GLOBAL])
def test_training_starts_as_without_convolutions_and_global_token(settings: dict[str, Any]) -> None:
    plain, other = made({}), made(settings)
    images, mask = torch.randn(4, 1, 6, 10), Mask(in_disorder(4), 4)
    assert torch.equal(other.loss(images, mask), plain.loss(images, mask))


@pytest.mark.parametrize("settings", [MIXING, GLOBAL, FUSION, ALL])
def test_what_is_added_leaves_the_first_weights_of_all_else_as_they_were(settings: dict[str, Any]) -> None:
    plain, other = made({}).state_dict(), made(settings).state_dict()
    assert all(torch.equal(other[name], value) for name, value in plain.items())
    assert len(other) > len(plain)


@pytest.mark.parametrize("settings", [MIXING, GLOBAL, FUSION, ALL])
def test_every_part_that_is_added_is_trained(settings: dict[str, Any]) -> None:
    model, plain = made(settings), made({}).state_dict()
    randomised(model)  # behind what starts at zero there is no gradient in the first step
    model.loss(torch.randn(4, 1, 6, 10), Mask(in_disorder(4), 4)).backward()
    for name, parameter in model.named_parameters():
        assert name in plain or (parameter.grad is not None and parameter.grad.abs().sum() > 0), name


def test_what_starts_at_zero_has_a_gradient_in_the_first_step() -> None:
    model = made(MIXING | GLOBAL)
    model.loss(torch.randn(4, 1, 6, 10), Mask(in_disorder(4), 4)).backward()
    for layer in (model.decoder.decoder_mixing[0].pointwise, model.decoder.decoder_global):
        assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("depth", [2, 3])
def test_convolutions_are_between_blocks(depth: int) -> None:
    model, calls = made(MIXING | {"model.decoder.depth": depth}), []
    for part in (*list(model.decoder.decoder_blocks)[:-1], *model.decoder.decoder_mixing):
        part.register_forward_hook(lambda module, *given: calls.append(type(module).__name__))
    model.loss(torch.randn(2, 1, 6, 10), Mask(in_disorder(2), 4))
    assert calls == ["Block", "Convolutions"] * (depth - 1)


def test_tokens_that_nothing_reads_change_nothing_with_convolutions_either() -> None:
    model = randomised(made(MIXING))
    patches, mask = torch.randn(2, 15, 4), Mask(in_disorder(2), 4)
    hidden, everywhere = model.predict(patches, mask), model.predict(patches, mask, hidden_only=False)
    assert torch.allclose(hidden, everywhere[:, 4:], atol=1e-4)


def test_the_global_token_is_the_mean_of_the_visible_patches_on_mask_tokens_only() -> None:
    model, tokens = randomised(made(GLOBAL)), []
    decoder, encoded, order = model.decoder, torch.randn(2, 5, 16), in_disorder(2)
    decoder.decoder_blocks.register_forward_pre_hook(lambda module, given: tokens.append(given[0]))
    decoder(encoded, order, 0)
    pooled = decoder.decoder_global
    decoder.decoder_global = None
    decoder(encoded, order, 0)
    added = tokens[0] - tokens[1]
    assert torch.equal(added[:, :5], torch.zeros(2, 5, 8))
    expected = pooled(encoded[:, 1:].mean(dim=1))[:, None].expand(-1, 11, -1)
    assert torch.allclose(added[:, 5:], expected, atol=1e-5)


def test_blocks_are_fused_by_a_mean_under_learned_weights_of_projections() -> None:
    fusion, outputs = Fusion((1, 3), 8), [torch.randn(2, 5, 8) for _ in range(4)]
    first, third = fusion.projections
    assert torch.allclose(fusion(outputs), (first(outputs[0]) + third(outputs[2]) + outputs[3]) / 3, atol=1e-6)
    nn.init.constant_(fusion.weights[1:2].detach(), 50.0)
    assert torch.allclose(fusion(outputs), third(outputs[2]), atol=1e-6)


def test_the_decoder_reads_the_fused_blocks_through_the_encoders_last_norm() -> None:
    model = randomised(made(FUSION))
    encoder, patches = model.encoder, torch.randn(2, 15, 4)
    tokens = encoder.tokens(images := torch.randn(2, 1, 6, 10))
    outputs = [first := encoder.blocks[0](tokens), encoder.blocks[1](first)]
    expected = encoder.norm(model.decoder.decoder_fusion(outputs))
    assert torch.allclose(encoder(images, model.decoder.decoder_fusion), expected, atol=1e-5)
    read: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    mask = Mask(in_disorder(2), 4)
    model.predict(patches, mask)
    assert torch.equal(read[0], encoder.forward_visible(patches, mask.visible, model.decoder.decoder_fusion))
    assert not torch.allclose(read[0], encoder.forward_visible(patches, mask.visible), atol=1e-2)


@pytest.mark.parametrize(
    "more", [{}, {"pretext.kind": "denoise"}, {"pretext.kind": "inpaint"}, {"model.encoder_mask_tokens": True}]
)
def test_fused_blocks_are_read_wherever_a_decoder_is(more: dict[str, Any], digits: ImageData) -> None:
    config = change(build(TINY), FUSION | more)
    gradients = gradients_of_a_step(Trainer(config, digits, torch.device("cpu")), first_images(digits))
    assert gradients["decoder.decoder_fusion.weights"].abs().sum() > 0


def numbers_kept(settings: dict[str, Any]) -> int:
    """Return how many numbers a forward pass keeps for the backward pass."""
    model, kept = autoencoder(build(TINY | {"model.decoder.depth": 2} | settings)), []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.loss(torch.randn(8, 1, 8, 8), Mask(torch.arange(16).expand(8, -1), 4))
    return sum(kept)


def test_convolutions_keep_no_activations_where_blocks_keep_none() -> None:
    kept, again = (
        numbers_kept({"train.checkpoint_blocks": each} | MIXING) - numbers_kept({"train.checkpoint_blocks": each})
        for each in (False, True)
    )
    tokens = 8 * 17 * 8
    assert again == tokens < kept  # what goes into them


def test_convolutions_computed_again_have_the_same_gradients_to_the_bit(digits: ImageData) -> None:
    config = change(build(TINY), ALL | {"model.decoder.depth": 2})
    kept, again = (
        gradients_of_a_step(
            Trainer(change(config, {"train.checkpoint_blocks": each}), digits, torch.device("cpu")),
            first_images(digits),
        )
        for each in (False, True)
    )
    assert all(again[name].equal(gradient) for name, gradient in kept.items())


def test_in_bfloat16_the_loss_is_nearly_that_of_float32() -> None:
    model, images, mask = randomised(made(ALL)), torch.randn(8, 1, 6, 10), Mask(in_disorder(8), 4)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    exact = model.loss(images, mask).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.loss(images, mask).item() == pytest.approx(exact, rel=2e-2)


def test_depthwise_convolutions_are_counted_for_their_own_channels_forward_and_backward() -> None:
    plain, other = (1e9 * made(settings).cost()["gflops_per_image"] for settings in ({}, MIXING))
    dim, patches, taps = 8, 15, 9 + 25 + 49
    assert other - plain == pytest.approx(3 * 2 * patches * (dim * taps + 3 * dim * dim))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (MIXING | {"model.decoder.depth": 1}, r"model\.decoder\.mixing=convolutions: it is between blocks"),
        (MIXING | {"model.decoder.kernels": [3, 4]}, r"model\.decoder\.kernels=\[3, 4\]: expected odd numbers"),
        (MIXING | {"model.decoder.kernels": [5, 3]}, "in ascending order"),
        ({"model.decoder.kernels": [3]}, r"it acts with model\.decoder\.mixing=convolutions only"),
        ({"model.decoder.fusion": [1, 1]}, "expected blocks in ascending order, each once"),
        ({"model.decoder.fusion": [2]}, r"model\.decoder\.fusion=\[2\]: expected blocks before the last of .*depth=2"),
        ({"model.decoder.fusion": [0]}, "whole number, at least 1"),
        (GLOBAL | {"model.encoder_mask_tokens": True}, r"no effect: it acts with model\.encoder_mask_tokens=false"),
        (GLOBAL | {"pretext.kind": "denoise"}, r"no effect: it acts with pretext\.kind=mae or video_mae only"),
        (
            MIXING | {"pretext.kind": "rotation", "data.image_size": 8},
            r"no effect: it acts with pretext\.kind=mae or denoise",
        ),
    ],
)
def test_what_cannot_be_or_acts_on_nothing_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(RECTANGULAR | settings)


def test_context_belongs_to_the_pretraining_and_not_to_the_encoder() -> None:
    plain, other = Config(), build(ALL)
    assert untrained_fingerprint(plain, "d") == untrained_fingerprint(other, "d")
    added = pretrain_settings(other, "d").keys() - pretrain_settings(plain, "d").keys()
    assert added == {*ALL, "model.decoder.kernels"}
