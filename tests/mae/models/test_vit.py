import pytest
import torch
from torch import Tensor

from mae.config.model_sections import TransformerConfig
from mae.config.resolve import build
from mae.data.dataset import ImageData
from mae.models.vit import Blocks
from mae.training.step import Trainer
from tests.conftest import TINY
from tests.helpers.training import first_images, gradients_of_a_step

SIZE = TransformerConfig(dim=16, depth=2, heads=4)


@pytest.mark.parametrize("start", [1, 3, 7])
def test_tokens_that_nothing_reads_are_left_out_of_the_last_block_and_change_nothing(start: int) -> None:
    torch.manual_seed(0)
    blocks, tokens = Blocks(SIZE, recompute=False, eps=1e-6), torch.randn(5, 8, 16, requires_grad=True)
    parameters = [tokens, *blocks.parameters()]
    whole, part = blocks(tokens)[:, start:], blocks(tokens, start)
    assert torch.allclose(part, whole, atol=1e-5)
    expected, found = (torch.autograd.grad(each.square().sum(), parameters) for each in (whole, part))
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_blocks_whose_activations_are_not_kept_have_the_same_gradients_to_the_bit(digits: ImageData) -> None:
    kept, again = (
        gradients_of_a_step(
            Trainer(build({**TINY, "train.checkpoint_blocks": each}), digits, torch.device("cpu")), first_images(digits)
        )
        for each in (False, True)
    )
    assert all(again[name].equal(gradient) for name, gradient in kept.items())


def test_of_a_block_that_is_computed_again_only_its_input_is_kept() -> None:
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    tokens = torch.randn(5, 8, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        Blocks(SIZE, recompute=True, eps=1e-6)(tokens, 3)
    assert saved == [tokens.numel()] * SIZE.depth
