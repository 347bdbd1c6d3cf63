import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from mae.config.resolve import build
from mae.config.tree import Config
from mae.exchange.naming import official_state
from mae.models.vit import build_encoder, patchify, sincos_positions, unpatchify
from mae.pretext.base import parameter_count
from mae.pretext.masked_autoencoder import reconstruction_loss
from mae.pretext.masking import SAMPLERS, Mask
from mae.runtime.rng import branch, generator
from tests.helpers.pretexts import autoencoder, mask_of


def plain_block(x: Tensor, state: dict[str, Tensor], name: str, heads: int) -> Tensor:
    """A pre-norm ViT block by the textbook, on (T, D)."""

    def norm(y: Tensor, which: str) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.{which}.weight"] + state[f"{name}.{which}.bias"]

    def linear(y: Tensor, which: str) -> Tensor:
        return y @ state[f"{name}.{which}.weight"].T + state[f"{name}.{which}.bias"]

    query, key, value = linear(norm(x, "norm1"), "attn.qkv").chunk(3, dim=-1)
    size = x.shape[1] // heads
    parts = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        weights = (query[:, part] @ key[:, part].T / math.sqrt(size)).softmax(-1)
        parts.append(weights @ value[:, part])
    x = x + linear(torch.cat(parts, 1), "attn.proj")
    hidden = linear(norm(x, "norm2"), "mlp.fc1")
    return x + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), "mlp.fc2")


def plain_loss(
    config: Config, state: dict[str, Tensor], images: Tensor, order: Tensor, visible_weight: float = 0.0
) -> Tensor:
    """The official forward pass written out: one image at a time, all positions in place, nothing gathered."""
    (rows, columns), (height, width) = config.grid, config.model.patch_size
    total = torch.zeros(())
    for image, ranks in zip(images, order, strict=True):
        visible = sorted(ranks[: config.kept_patches].tolist())
        cuts = [
            image[:, r * height : (r + 1) * height, c * width : (c + 1) * width]
            for r in range(rows)
            for c in range(columns)
        ]
        positions, class_position = state["pos_embed"][0, 1:], state["pos_embed"][0, :1]
        kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
        read = range(rows * columns) if config.model.encoder_mask_tokens else visible
        tokens = [
            positions[i]
            + ((kernel * cuts[i]).sum(dim=(1, 2, 3)) + bias if i in visible else state["encoder_mask_token"][0, 0])
            for i in read
        ]
        x = torch.stack([state["cls_token"][0, 0] + class_position[0], *tokens])
        for i in range(config.model.encoder.depth):
            x = plain_block(x, state, f"blocks.{i}", config.model.encoder.heads)
        x = F.layer_norm(x, x.shape[-1:], state["norm.weight"], state["norm.bias"], 1e-6)
        x = x @ state["decoder_embed.weight"].T + state["decoder_embed.bias"]
        full = state["mask_token"][0].repeat(rows * columns, 1)
        for token, i in zip(x[1:], read, strict=True):
            full[i] = token
        x = torch.cat([x[:1], full]) + state["decoder_pos_embed"][0]
        for i in range(config.model.decoder.depth):
            x = plain_block(x, state, f"decoder_blocks.{i}", config.model.decoder.heads)
        x = F.layer_norm(x, x.shape[-1:], state["decoder_norm.weight"], state["decoder_norm.bias"], 1e-6)
        x = x @ state["decoder_pred.weight"].T + state["decoder_pred.bias"]
        errors = [(x[1 + i] - cut.permute(1, 2, 0).flatten()).square().mean() for i, cut in enumerate(cuts)]
        weights = [visible_weight if i in visible else 1.0 for i in range(rows * columns)]
        total = total + sum(w * error for w, error in zip(weights, errors, strict=True)) / sum(weights)
    return total / len(images)


RECTANGULAR = {
    "data.channels": 3,
    "data.image_size": [12, 8],
    "model.patch_size": [4, 2],
    "model.encoder.dim": 16,
    "model.encoder.depth": 2,
    "model.decoder.dim": 8,
    "model.decoder.depth": 2,
    "mask.ratio": 0.6,
}


@pytest.fixture
def rectangular() -> Config:
    return build(RECTANGULAR)


def agree(config: Config, visible_weight: float = 0.0) -> None:
    """Check that the loss of a config equals a plain dense computation, every parameter counting."""
    torch.manual_seed(0)
    model = autoencoder(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)  # biases and norms too, and large, so that each one counts
    for part in (model.encoder, model.decoder):
        for buffer in part.buffers():
            torch.nn.init.normal_(buffer)  # the class token's position too, which is zero otherwise
    images, mask = torch.randn(3, 3, 12, 8), model.mask(model.draw(3, generator(1, "mask")))
    expected = plain_loss(config, official_state(model.state_dict()), images, mask.order, visible_weight)
    assert model.loss(images, mask).item() == pytest.approx(float(expected), rel=1e-5)


def test_the_loss_equals_a_plain_dense_computation(rectangular: Config) -> None:
    agree(rectangular)


@pytest.mark.parametrize(
    ("settings", "weight"),
    [({"loss.region": "weighted", "loss.visible_weight": 0.25}, 0.25), ({"loss.region": "all"}, 1.0)],
)
def test_visible_patches_have_their_weight_in_the_loss(settings: dict[str, object], weight: float) -> None:
    agree(build({**RECTANGULAR, **settings}), weight)


def test_an_encoder_with_mask_tokens_computes_the_same_as_a_plain_one() -> None:
    agree(build({**RECTANGULAR, "model.encoder_mask_tokens": True}))


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_an_autoencoder_hides_patches_as_its_config_says(sampling: str) -> None:
    config = build({**RECTANGULAR, "mask.sampling": sampling})
    model = autoencoder(config)
    mask = model.mask(model.draw(3, generator(1, "step")))
    expected = mask_of(sampling, branch(generator(1, "step"), "mask"), 3, (3, 4), 5)
    assert (mask.order.equal(expected.order), mask.kept) == (True, 5)


def test_encoder_weights_load_strictly_in_timm_and_compute_the_same(rectangular: Config) -> None:
    encoder = build_encoder(rectangular)
    timm = VisionTransformer((12, 8), (4, 2), embed_dim=16, depth=2, num_heads=4, num_classes=0)
    timm.load_state_dict(encoder.state_dict())
    images = torch.randn(2, 3, 12, 8)
    assert torch.allclose(timm.forward_features(images), encoder(images), atol=1e-5)


def test_all_visible_equals_the_whole_image_up_to_order(rectangular: Config) -> None:
    encoder, images = build_encoder(rectangular), torch.randn(2, 3, 12, 8)
    order = torch.stack([torch.randperm(12), torch.randperm(12)])
    tokens = encoder.forward_visible(patchify(images, (4, 2)), order)
    whole = encoder(images)[:, 1:].gather(1, order[..., None].expand(-1, -1, 16))
    assert torch.allclose(tokens[:, 1:], whole, atol=1e-5)


def test_hidden_pixels_do_not_reach_the_encoder(rectangular: Config) -> None:
    model = autoencoder(rectangular)
    patches, mask = torch.randn(1, 12, 24), Mask(torch.randperm(12)[None], 5)
    changed = patches.clone()
    changed[0, mask.hidden[0]] = 100.0
    assert model.predict(patches, mask).equal(model.predict(changed, mask))


def test_an_encoder_with_mask_tokens_sees_every_position(rectangular: Config) -> None:
    section = rectangular.model.model_copy(update={"encoder_mask_tokens": True})
    config = rectangular.model_copy(update={"model": section})
    model, lengths = autoencoder(config), []
    model.encoder.blocks[0].register_forward_hook(lambda block, inputs, output: lengths.append(inputs[0].shape[1]))
    model.predict(torch.randn(1, 12, 24), Mask(torch.randperm(12)[None], 5))
    assert lengths == [13]


def test_unpatchify_undoes_patchify() -> None:
    images = torch.randn(2, 3, 12, 8)
    assert unpatchify(patchify(images, (4, 2)), (4, 2), (3, 4)).equal(images)


def test_positions_are_sines_and_cosines_of_column_and_row_as_in_the_official_release() -> None:
    positions = sincos_positions(12, (2, 3))[0]
    assert positions[0].tolist() == [0.0] * 12  # the class token has no place
    for row, column in [(0, 0), (0, 2), (1, 0), (1, 2)]:
        angles = [[place / 10_000 ** (i / 3) for i in range(3)] for place in (column, row)]
        expected = [f(angle) for each in angles for f in (math.sin, math.cos) for angle in each]
        assert positions[1 + 3 * row + column].tolist() == pytest.approx(expected, abs=1e-7)


def test_an_autoencoder_begins_as_the_official_release_does() -> None:
    settings = {"model.encoder.dim": 512, "model.decoder.dim": 512, "model.encoder_mask_tokens": True}
    model = autoencoder(build({**RECTANGULAR, **settings}))
    state = {name: value for name, value in official_state(model.state_dict()).items() if "pos_embed" not in name}
    for name in ("cls_token", "encoder_mask_token", "mask_token"):
        assert state.pop(name).std().item() == pytest.approx(0.02, rel=0.15)  # 5 standard errors
    convolution = state.pop("patch_embed.proj.bias")  # as PyTorch starts it: there too only linear layers' biases are 0
    assert convolution.abs().max().item() == pytest.approx(1 / math.sqrt(24), rel=0.02)
    for name, value in state.items():
        if value.ndim == 1:
            assert (value == float("norm" in name and name.endswith("weight"))).all(), name
        else:
            matrix = value.flatten(1)
            edge = math.sqrt(6 / sum(matrix.shape))  # Xavier's, the patches' kernel taken as a matrix
            assert matrix.abs().max().item() == pytest.approx(edge, rel=0.01), name
            assert matrix.std().item() == pytest.approx(edge / math.sqrt(3), rel=0.05), name


def test_official_weights_keep_their_shapes(rectangular: Config) -> None:
    state = official_state(autoencoder(rectangular).state_dict())
    shapes = {
        "cls_token": (1, 1, 16),
        "pos_embed": (1, 13, 16),
        "patch_embed.proj.weight": (16, 3, 4, 2),
        "mask_token": (1, 1, 8),
        "decoder_pos_embed": (1, 13, 8),
        "decoder_embed.weight": (8, 16),
        "decoder_pred.weight": (24, 8),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_an_encoder_alone_takes_the_weights_of_one_in_an_autoencoder() -> None:
    config = build({**RECTANGULAR, "model.encoder_mask_tokens": True})
    build_encoder(config).load_state_dict(autoencoder(config).encoder.state_dict())


def test_only_hidden_patches_are_predicted_unless_all_are_asked_for(rectangular: Config) -> None:
    model, patches, mask = autoencoder(rectangular), torch.randn(2, 12, 24), Mask(torch.arange(12).expand(2, -1), 5)
    hidden, everywhere = model.predict(patches, mask), model.predict(patches, mask, hidden_only=False)
    assert hidden.shape == (2, 7, 24)
    assert torch.allclose(hidden, everywhere[:, 5:], atol=1e-6)


def test_a_loss_on_hidden_patches_costs_no_prediction_of_visible_ones(rectangular: Config) -> None:
    model, shapes = autoencoder(rectangular), []
    model.decoder.decoder_pred.register_forward_hook(lambda *given: shapes.append(given[2].shape))
    model.loss(torch.randn(2, 3, 12, 8), Mask(torch.arange(12).expand(2, -1), 5))
    assert shapes == [(2, 7, 24)]


def test_frozen_parameters_are_not_counted() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5))
    layers[1].requires_grad_(False)
    assert parameter_count(layers) == 3 * 4 + 4


@pytest.mark.parametrize(("visible", "expected"), [(0.0, 4.0), (1.0, 3.0), (0.5, 3.4)])
def test_the_loss_is_a_weighted_mean_over_patches(visible: float, expected: float) -> None:
    prediction = torch.tensor([[[1.0], [2.0], [2.0]]])  # squared errors 1, 4, 4; the first patch is visible
    loss = reconstruction_loss(prediction, torch.zeros(1, 3, 1), torch.tensor([visible, 1.0, 1.0]))
    assert loss.item() == pytest.approx(expected)
