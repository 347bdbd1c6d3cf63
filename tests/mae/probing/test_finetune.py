from typing import Any

import pytest
import torch
from timm.layers import DropPath

from mae.config.probe_sections import FinetuneProbeConfig
from mae.config.resolve import build
from mae.config.tree import Config
from mae.models.vit import Encoder, build_encoder, pool
from mae.probing.finetune import Tuned
from mae.probing.tuning import take_step
from mae.training.schedule import set_rates
from tests.conftest import TINY

DEPTH = 4
CONFIG: Config = build(TINY | {"model.encoder.depth": DEPTH})
ALL_BLOCKS = [0, 0.5, 1, 2, 3, DEPTH, DEPTH + 3]


def encoder() -> Encoder:
    torch.manual_seed(0)
    return build_encoder(CONFIG)


def learner(blocks: float, **recipe: Any) -> Tuned:
    return Tuned(encoder(), lambda images: images, blocks, "patch_mean", 10, FinetuneProbeConfig(**recipe))


def trained(model: Tuned) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def images(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("blocks", ALL_BLOCKS)
def test_the_frozen_and_the_trained_part_are_the_encoder_together(blocks: float) -> None:
    model = learner(blocks).eval()
    torch.nn.init.normal_(model.head.weight)
    expected = model.head(model.standardise(pool(encoder()(images()), "patch_mean")))
    assert torch.allclose(model(model.front(images())), expected, atol=1e-5)


def test_partial_fine_tuning_of_all_blocks_is_fine_tuning() -> None:
    whole = {f"encoder.{name}" for name, _ in encoder().named_parameters()} | {"head.weight", "head.bias"}
    assert trained(learner(DEPTH)) == trained(learner(DEPTH + 3)) == whole
    assert not learner(DEPTH).frozen


def test_blocks_are_trained_from_the_last_on_with_the_norm_and_half_of_one_is_its_mlp() -> None:
    end = {"encoder.norm.weight", "encoder.norm.bias", "head.weight", "head.bias"}
    names = [name for name, _ in encoder().named_parameters()]
    last_two = {f"encoder.{name}" for name in names if name.startswith(("blocks.2.", "blocks.3."))}
    assert trained(learner(2)) == last_two | end
    half = {f"encoder.{name}" for name in names if name.startswith(("blocks.3.mlp", "blocks.3.norm2"))}
    assert trained(learner(0.5)) == half | end


def stepped(model: Tuned) -> Tuned:
    optimizer = torch.optim.AdamW(model.groups(), lr=0.0)
    set_rates(optimizer, 0.1)
    take_step(model, optimizer, model.front(images()), torch.full((6, 10), 0.1), 1, 0, 0)
    return model


@pytest.mark.parametrize("blocks", ALL_BLOCKS)
def test_a_step_moves_what_is_trained_and_leaves_the_bits_of_all_else(blocks: float) -> None:
    before, after = learner(blocks), stepped(learner(blocks))
    moved = {
        name
        for (name, ours), theirs in zip(after.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(ours, theirs)
    }
    assert moved <= trained(before)
    assert ("encoder.norm.weight" in moved) == (blocks > 0)
    assert "head.bias" in moved


def test_no_encoder_but_the_copy_is_trained() -> None:
    own = encoder()
    stepped(Tuned(own, lambda images: images, DEPTH, "patch_mean", 10, FinetuneProbeConfig()))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(own.parameters(), encoder().parameters(), strict=True))


@pytest.mark.parametrize("blocks", [1, DEPTH])
def test_learning_rates_fall_by_layer_from_the_head_on(blocks: int) -> None:
    """The official release's `lr_decay.py`: embedding 0, blocks 1 to L, norm and head L + 1."""
    model = learner(blocks, layer_decay=0.5)
    optimizer = torch.optim.AdamW(model.groups(), lr=0.0)
    set_rates(optimizer, 64.0)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    expected = {"cls_token": 2, "patch_embed.proj.weight": 2, "blocks.0.mlp.fc1.bias": 4, "blocks.3.norm1.weight": 32}
    expected |= {"norm.weight": 64}
    for name, parameter in model.encoder.named_parameters():
        if parameter.requires_grad and name in expected:
            assert rates[id(parameter)] == expected[name], name
    assert rates[id(model.head.weight)] == 64


def test_weights_decay_but_vectors_and_the_class_token_do_not() -> None:
    model = learner(DEPTH, weight_decay=0.3)
    decay = {id(parameter): group["weight_decay"] for group in model.groups() for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.3 if parameter.ndim > 1 and "cls_token" not in name else 0), name


def test_paths_are_dropped_in_trained_blocks_at_rates_that_rise_to_the_last() -> None:
    for blocks, rates in ((DEPTH, [0, 0.1, 0.2, 0.3]), (2, [0, 0, 0.2, 0.3]), (0, [0, 0, 0, 0])):
        model = learner(blocks, drop_path=0.3)
        for place, rate in enumerate(rates):
            for path in (model.encoder.blocks[place].drop_path1, model.encoder.blocks[place].drop_path2):
                assert (path.drop_prob if isinstance(path, DropPath) else 0) == pytest.approx(rate)


def test_which_paths_are_dropped_follows_from_the_seed_and_the_step() -> None:
    weights = []
    for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0)):
        model = learner(DEPTH, drop_path=0.5)
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.AdamW(model.groups(), lr=0.1)
        take_step(model, optimizer, images(), torch.eye(10)[:6], 1, seed, step)
        weights.append(model.encoder.blocks[3].mlp.fc1.weight)
    assert torch.equal(weights[0], weights[1])
    assert not any(torch.equal(weights[0], other) for other in weights[2:])


def test_a_batch_in_pieces_gives_the_same_gradients() -> None:
    moments = []
    for micro_batches in (1, 3):
        model = learner(DEPTH)
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.AdamW(model.groups(), lr=0.1)
        take_step(model, optimizer, images(5), torch.eye(10)[:5], micro_batches, 0, 0)
        moments.append(optimizer.state[model.encoder.norm.weight]["exp_avg"])
    assert torch.allclose(*moments, atol=1e-6)
