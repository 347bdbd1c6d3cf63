import pytest
import torch

from mae.config.resolve import resolve
from mae.config.tree import Config
from tests.helpers.pretexts import autoencoder


def training_flops(config: Config) -> float:
    return 1e9 * cost(config)["gflops_per_image"]


def cost(config: Config) -> dict[str, float]:
    with torch.device("meta"):
        return autoencoder(config).cost()


def test_flops_of_the_encoder_are_those_of_its_matrix_products() -> None:
    config = resolve("cifar10-tiny")
    dim, depth, tokens, pixels = 128, 6, 65, 48
    per_block = tokens * 12 * dim * dim + 2 * tokens * tokens * dim  # qkv, projection, MLP; scores, weighted sum
    assert round(1e9 * cost(config)["gflops_encoder"]) == 2 * (64 * pixels * dim + depth * per_block)


def test_mask_tokens_in_the_encoder_cost_as_much_more_as_in_table_1c() -> None:
    usual, with_tokens = (
        training_flops(resolve("imagenet-vit-l", settings=[f"model.encoder_mask_tokens={on}"]))
        for on in ("false", "true")
    )
    assert with_tokens / usual == pytest.approx(3.3, abs=0.1)


def test_predicting_visible_patches_too_costs_more() -> None:
    masked, everywhere = (training_flops(resolve("digits", settings=[f"loss.region={r}"])) for r in ("masked", "all"))
    assert masked < everywhere


def test_counting_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    training_flops(resolve("digits"))
    assert torch.equal(torch.get_rng_state(), before)


def test_counting_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    cost(resolve("digits"))
    assert capsys.readouterr().out == ""
