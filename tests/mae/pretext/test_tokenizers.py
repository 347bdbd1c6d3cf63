"""Tokenizers: codes of patches, a codebook that follows the encoder, and codes that are all in use."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.errors import UserError
from mae.pretext.dvae import DiscreteVAE, gumbel
from mae.pretext.registry import PRETEXTS
from mae.pretext.tokenizer import Tokenizer, annealed, code_colours, use_of
from mae.pretext.vqvae import VectorQuantiser
from mae.runtime.rng import generator
from mae.training.step import Trainer
from tests.conftest import TINY
from tests.helpers.pretexts import batch_of, stored, surroundings
from tests.helpers.training import first_images, take_step

CPU = torch.device("cpu")
KINDS = ("vqvae", "dvae")
each_kind = pytest.mark.parametrize("kind", KINDS)


def config_of(kind: str, **more: Any) -> Config:
    return change(build(TINY), {"pretext.kind": kind, "tokenizer.codes": 8, "tokenizer.width": 2} | more)


def tokenizer(config: Config) -> Tokenizer:
    torch.manual_seed(0)
    made = PRETEXTS[config.pretext.kind](config, surroundings(config))
    assert isinstance(made, Tokenizer)
    return made


def quantiser(codebook: list[list[float]], recent_use: list[float], **more: Any) -> VectorQuantiser:
    made = tokenizer(config_of("vqvae", **{"tokenizer.codes": len(codebook)} | more))
    assert isinstance(made, VectorQuantiser)
    made.codebook.copy_(torch.tensor(codebook))
    made.recent_use.copy_(torch.tensor(recent_use))
    return made


def found(use: list[float], sums: list[list[float]], commitment: float = 0.0) -> dict[str, Tensor]:
    """Return what a forward pass finds, as far as codes go."""
    numbers = {"loss": 1.0, "reconstruction": 1.0, "commitment": commitment, "use": use, "sums": sums}
    return {name: torch.tensor(value) for name, value in numbers.items()}


@each_kind
def test_codes_are_whole_numbers_of_the_codebook_one_per_patch(kind: str) -> None:
    config = config_of(kind, **{"data.image_size": [8, 12], "data.channels": 3})
    codes = tokenizer(config).codes(torch.randn(5, 3, 8, 12))
    assert (codes.shape, codes.dtype) == ((5, 24), torch.int64)
    assert 0 <= codes.min() <= codes.max() < 8


def test_the_decoder_is_given_nothing_but_codes() -> None:
    made = tokenizer(config_of("vqvae"))
    vectors, _ = made.quantise(torch.randn(3, 16, 16), torch.zeros(3))
    known = (vectors[:, :, None] - made.codebook).abs().amax(dim=-1).amin(dim=-1)
    assert known.max() < 1e-6


def test_a_patch_gets_the_nearest_code() -> None:
    made = quantiser([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]], [1.0, 1.0, 1.0])
    assert made._nearest(torch.tensor([[[0.4, 0.0], [0.6, 0.0], [7.0, 5.0]]])).tolist() == [[0, 1, 2]]


def test_gradients_pass_codes_as_if_these_were_not_there() -> None:
    made = quantiser([[0.0, 0.0], [1.0, 0.0]], [1.0, 1.0])
    tokens = torch.randn(1, 16, 16, requires_grad=True)
    through, around = (
        torch.autograd.grad(vectors.square().sum() / 2, tokens)[0]
        for vectors in (made.quantise(tokens, torch.zeros(1))[0], made._vectors(tokens))
    )
    codes = made._nearest(made._vectors(tokens))
    expected = made.codebook[codes] @ made.to_code.weight  # the derivative is the vector itself: the code's
    assert torch.allclose(through, expected, atol=1e-6)
    assert not torch.allclose(through, around)


def test_a_code_moves_towards_the_mean_of_its_patches() -> None:
    made = quantiser([[0.0, 0.0], [4.0, 0.0]], [0.5, 0.5], **{"tokenizer.decay": 0.75})
    made.after_step(1, 10, found([0.25, 0.75], [[0.5, 0.0], [3.0, 0.75]]))  # means (2, 0) and (4, 1)
    # 3/4 of 0.5 patches at the code and 1/4 of 0.25 patches at their mean; of 0.75 for the other
    assert made.codebook.tolist() == [pytest.approx([0.125 / 0.4375, 0]), pytest.approx([4, 0.1875 / 0.5625])]
    assert made.recent_use.tolist() == pytest.approx([0.4375, 0.5625])


def test_the_first_step_puts_codes_in_use_at_the_mean_of_their_patches() -> None:
    made = quantiser([[5.0, 0.0], [6.0, 0.0]], [0.0, 0.0])
    made.after_step(1, 10, found([0.5, 0.5], [[1.0, 1.0], [2.0, 2.0]]))
    assert made.codebook.tolist() == [pytest.approx([2, 2]), pytest.approx([4, 4])]


def test_codes_out_of_use_start_anew_around_codes_in_use_and_share_their_use() -> None:
    made = quantiser([[0.0, 0.0], [50.0, 0.0], [9.0, 9.0], [60.0, 0.0]], [0.4, 0.0, 0.6, 0.0])
    made.after_step(1, 10, found([0.4, 0.0, 0.6, 0.0], [[0.0, 0.0], [0.0, 0.0], [5.4, 5.4], [0.0, 0.0]], 0.01))
    distances = torch.cdist(made.codebook[[1, 3]], made.codebook[[2, 0]]).diagonal()  # the most used first
    assert (distances > 0).all()
    assert distances.max() < 0.6  # 6 standard deviations of 0.1
    assert made.codebook[[0, 2]].flatten().tolist() == pytest.approx([0, 0, 9, 9])
    assert made.recent_use.tolist() == pytest.approx([0.2, 0.3, 0.3, 0.2])


def test_all_codes_start_from_one_if_one_alone_is_in_use() -> None:
    made = quantiser([[1.0, 1.0], *[[50.0, 50.0]] * 7], [0.0] * 8)
    made.after_step(1, 10, found([1.0] + 7 * [0.0], [[2.0, 3.0]] + 7 * [[0.0, 0.0]], 1.0))
    assert made.recent_use.tolist() == pytest.approx(8 * [0.01 / 8])
    assert torch.allclose(made.codebook.mean(dim=0), torch.tensor([2.0, 3.0]), atol=2)
    assert len(made.codebook.unique(dim=0)) == 8


def test_many_codes_come_into_use_where_one_alone_was(digits: ImageData) -> None:
    work = Trainer(config_of("vqvae", **{"tokenizer.codes": 64, "train.epochs": 20}), digits, CPU)
    work.pretext.codebook[1:] += 50
    images = first_images(digits)
    perplexities = [take_step(work, images, step).losses["perplexity"].item() for step in range(5)]
    assert perplexities[0] == 1
    assert perplexities[-1] > 12


@each_kind
def test_micro_batches_give_the_codebook_of_the_whole_batch(kind: str, digits: ImageData) -> None:
    images = first_images(digits)
    states = []
    for pieces in (1, 4):
        work = Trainer(config_of(kind, **{"train.micro_batches": pieces}), digits, CPU)
        tracked = [take_step(work, images, step).losses for step in range(3)]
        states.append((work.pretext.codebook.detach().clone(), tracked[-1]["perplexity"], tracked[-1]["codes_used"]))
    for whole, parts in zip(*states, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


@each_kind
def test_codes_stay_in_float32_under_mixed_precision(kind: str) -> None:
    made = tokenizer(config_of(kind))
    batch, draws = batch_of(stored(made.config, 4)), made.draw(4, generator(0, "step"))
    with torch.autocast("cpu", torch.bfloat16):
        losses = made(batch, draws)
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert losses["loss"].isfinite()


def test_use_and_perplexity_are_of_the_batch() -> None:
    made = tokenizer(config_of("dvae"))
    use = use_of(torch.tensor([[0, 1], [1, 7]]), 8)
    assert use.tolist() == [0.25, 0.5, 0, 0, 0, 0, 0, 0.25]
    told = made.after_step(1, 10, {"loss": torch.tensor(2.0), "use": torch.tensor([0.25] * 4 + [0.0] * 4)})
    assert {name: value.item() for name, value in told.items()} == pytest.approx(
        {"loss": 2, "codes_used": 50, "perplexity": 4}
    )


def test_gumbel_numbers_have_their_mean_and_deviation_and_none_is_infinite() -> None:
    numbers = gumbel(torch.arange(50), 2000)
    assert numbers.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert numbers.std().item() == pytest.approx(1.2825, abs=0.02)
    assert numbers.isfinite().all()


def test_half_a_cosine_leads_from_the_first_temperature_to_the_last() -> None:
    values = [annealed(torch.tensor(progress), 1.0, 0.5).item() for progress in (0.0, 0.5, 1.0)]
    assert values == pytest.approx([1.0, 0.75, 0.5])


def test_the_divergence_is_0_of_uniform_codes_and_has_no_weight_before_the_first_step() -> None:
    made = tokenizer(config_of("dvae"))
    assert isinstance(made, DiscreteVAE)
    with torch.no_grad():
        made.to_code.weight.zero_()
        made.to_code.bias.zero_()
    tokens = torch.randn(2, 16, 16)
    assert made.quantise(tokens, torch.zeros(2, dtype=torch.int64))[1]["divergence"].item() == pytest.approx(
        0, abs=1e-5
    )
    with torch.no_grad():
        made.to_code.bias[3] = 50
    parts = made.quantise(tokens, torch.zeros(2, dtype=torch.int64))[1] | {"reconstruction": torch.tensor(1.0)}
    assert parts["divergence"].item() == pytest.approx(torch.tensor(8.0).log().item(), abs=1e-4)
    assert made.total(parts)["loss"].item() == 1
    made.after_step(10, 10, {"use": torch.tensor([1.0])})
    assert made.total(parts)["loss"].item() == pytest.approx(1 + 0.05 * parts["divergence"].item())


def test_towards_the_end_mixtures_are_single_codes() -> None:
    made = tokenizer(config_of("dvae", **{"tokenizer.temperature": [5.0, 0.001]}))
    tokens, seeds = torch.randn(2, 16, 16), torch.arange(2)
    distances = []
    for step in (0, 10):
        made.after_step(step, 10, {"use": torch.tensor([1.0])})
        vectors = made.quantise(tokens, seeds)[0]
        distances.append((vectors[:, :, None] - made.codebook).norm(dim=-1).amin(dim=-1).mean().item())
    assert distances[1] < 0.02 < distances[0]


def test_equal_codes_have_equal_colours_and_others_others() -> None:
    colours = code_colours(torch.arange(512).repeat(2, 1))
    assert torch.equal(colours[0], colours[1])
    assert len(colours[0].unique(dim=1).T) == 512


@pytest.mark.parametrize(
    ("kind", "key", "value", "told"),
    [
        ("mae", "tokenizer.codes", 16, "it acts with pretext.kind=vqvae or dvae only"),
        ("dvae", "tokenizer.decay", 0.9, "it acts with pretext.kind=vqvae only"),
        ("vqvae", "tokenizer.kl_weight", 1.0, "it acts with pretext.kind=dvae only"),
        ("vqvae", "target.kind", "pca", "it acts with pretext.kind=mae or denoise or video_mae only"),
        ("dvae", "tokenizer.temperature", [1.0, 0.0], "expected two values above 0"),
    ],
)
def test_settings_of_another_kind_are_refused(kind: str, key: str, value: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        build({"pretext.kind": kind, key: value})
