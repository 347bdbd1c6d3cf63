import pytest
import torch

from mae.config.probe_sections import FinetuneProbeConfig
from mae.probing.mixing import Mix, draw_erased, draw_mix, erase, mix
from mae.runtime.rng import generator

SIZE = (8, 12)
LABELS = torch.tensor([0, 1, 2, 2])
BOTH = FinetuneProbeConfig(mixup=0.8, cutmix=1.0)


def images() -> torch.Tensor:
    """Return four images (4, 1, 8, 12), each of its own grey."""
    return torch.arange(4.0)[:, None, None, None].expand(4, 1, *SIZE)


def drawn(config: FinetuneProbeConfig, position: int) -> Mix:
    return draw_mix(config, SIZE, generator(0, "mix", position))


def test_draws_follow_from_their_generator() -> None:
    first, again = ([drawn(BOTH, position) for position in range(20)] for _ in range(2))
    assert first == again
    assert len(set(first)) == 20
    boxes = [draw_erased(0.5, 5, SIZE, generator(0, "erased", position)).tolist() for position in (0, 0, 1)]
    assert boxes[0] == boxes[1] != boxes[2]


def test_mixup_and_cutmix_take_turns_where_both_are_on() -> None:
    both = [drawn(BOTH, position).box is None for position in range(200)]
    assert 60 < sum(both) < 140
    assert all(drawn(FinetuneProbeConfig(mixup=0.8), position).box is None for position in range(20))
    assert all(drawn(FinetuneProbeConfig(cutmix=1.0), position).box is not None for position in range(20))


def test_without_mixup_and_cutmix_a_batch_stays_as_it_is() -> None:
    mixed, targets = mix(images(), LABELS, drawn(FinetuneProbeConfig(), 0), 3, smoothing=0.0)
    assert torch.equal(mixed, images())
    assert targets.argmax(1).tolist() == LABELS.tolist()


@pytest.mark.parametrize("position", range(10))
def test_targets_sum_to_1_and_say_what_share_of_the_pixels_is_whose(position: int) -> None:
    how = drawn(BOTH, position)
    mixed, targets = mix(images(), LABELS, how, 3, smoothing=0.0)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    share_of_other = mixed[0].mean().item() / 3  # the first image is 0, its mirror 3
    assert targets[0].tolist() == pytest.approx([1 - share_of_other, 0, share_of_other], abs=1e-5)


def test_smoothing_gives_every_class_its_part() -> None:
    _, targets = mix(images(), LABELS, Mix(1.0, None), 4, smoothing=0.2)
    assert targets[0].tolist() == pytest.approx([0.85, 0.05, 0.05, 0.05])


def test_what_is_erased_is_0_in_a_share_of_the_images_and_a_part_of_each() -> None:
    boxes = draw_erased(0.25, 400, SIZE, generator(0, "erased"))
    gone = erase(torch.ones(400, 1, *SIZE), boxes).eq(0).flatten(1).float().mean(1)
    assert gone.gt(0).float().mean().item() == pytest.approx(0.25, abs=0.07)
    assert gone.max() <= 0.45
    assert torch.allclose(gone, boxes[:, 2] * boxes[:, 3] / (SIZE[0] * SIZE[1]))
