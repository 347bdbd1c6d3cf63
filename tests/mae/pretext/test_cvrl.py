"""Contrasting clips: what is drawn, how frames are changed, and the loss."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from mae.config.resolve import build
from mae.config.tree import Config
from mae.errors import UserError
from mae.pretext.cvrl import ContrastedClips, contrast, draw_starts
from mae.runtime.distributed import launched
from mae.runtime.gathering import mean_of_all
from mae.runtime.rng import generator, piece
from tests.helpers.commands import Group
from tests.helpers.pretexts import batch_of, stored, surroundings

SMALL = {
    "data.source": "moving_digits",
    "data.image_size": 12,
    "data.stored_size": 16,
    "data.frames": 4,
    "data.stored_frames": 9,
    "data.augmentation": "random_resized_crop",
    "model.encoder.depth": 1,
    "pretext.kind": "cvrl",
}


def task(**more: Any) -> tuple[Config, ContrastedClips]:
    config = build(SMALL | more)
    return config, ContrastedClips(config, surroundings(config))


def test_the_time_between_clips_falls_linearly() -> None:
    room, count = 5, 60_000
    starts = draw_starts(room, count, generator(0, "starts"))
    assert starts.min() >= 0
    assert starts.max() <= room
    times = starts[:, 1] - starts[:, 0]
    expected = np.array([room + 1 - time for time in range(room + 1)])  # P(t) = c (T - t), T being room + 1
    assert chisquare(times.bincount().numpy(), count * expected / expected.sum()).pvalue > 1e-4
    for time in range(room):  # every place that leaves room for it is equally likely
        assert chisquare(starts[times == time, 0].bincount(minlength=room + 1 - time).numpy()).pvalue > 1e-4


def test_both_clips_are_cut_where_the_draws_say() -> None:
    """With nothing else changed, and frames that tell their number by their brightness."""
    _, cvrl = task(**{"data.augmentation": "none", "views.jitter": 0.0, "views.grayscale": 0.0})
    videos = (20 * torch.arange(9)).view(1, 1, 9, 1, 1).expand(50, 3, 9, 16, 16).byte()
    draws = cvrl.draw(50, generator(0, "step"))
    for clips, start in zip(cvrl.clips(videos, draws), draws.starts.T, strict=True):
        assert clips.shape == (50, 3, 4, 12, 12)
        shown = (255 * clips / 20).round().long()
        assert torch.equal(shown[:, 0, :, 0, 0], start[:, None] + torch.arange(4))
        assert (shown == shown[:, :1, :, :1, :1]).all()


def test_all_frames_of_a_clip_are_changed_alike_and_its_two_clips_differ() -> None:
    config, cvrl = task(**{"views.blur": 0.5, "views.solarize": 0.5})
    still = stored(config, 20)[:, :, :1].expand(-1, -1, 9, -1, -1)
    earlier, later = cvrl.clips(still, cvrl.draw(20, generator(0, "step")))
    for clips in (earlier, later):
        torch.testing.assert_close(clips, clips[:, :, :1].expand_as(clips))
    different = (earlier - later).abs().amax(dim=(1, 2, 3, 4))
    assert (different > 0.1).all()
    assert len({tuple(clip.flatten()[:5].tolist()) for clip in earlier}) == 20


def loop(earlier: Tensor, later: Tensor, temperature: float) -> tuple[float, float]:
    clips = [each / each.norm() for each in (*earlier.double(), *later.double())]
    count, losses, right = len(earlier), [], 0
    for place, clip in enumerate(clips):
        scores = {other: math.exp(float(clip @ clips[other]) / temperature) for other in range(2 * count)}
        del scores[place]
        partner = (place + count) % (2 * count)
        losses.append(-math.log(scores[partner] / sum(scores.values())))
        right += max(scores, key=lambda other: scores[other]) == partner
    return sum(losses) / len(losses), 100 * right / len(losses)


def test_the_loss_is_infonce_over_all_other_clips() -> None:
    earlier = torch.randn(7, 5)
    later = earlier + torch.randn(7, 5)
    loss, accuracy = contrast(earlier, later, 0.2)
    assert (loss.item(), accuracy.item()) == pytest.approx(loop(earlier, later, 0.2), rel=1e-5)
    assert 20 < accuracy < 100


def test_a_batch_in_pieces_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.micro_batches=2: expected 1, as all images of a batch"):
        task(**{"train.micro_batches": 2})


def test_a_picture_has_both_clips_of_each_video() -> None:
    config, cvrl = task()
    with torch.inference_mode():
        figure = cvrl.picture(cvrl.pictured(stored(config, 4)), cvrl.draw(4, generator(0, "picture")))
    assert len(figure.axes) == 8
    assert all(len(axis.images) == 1 for axis in figure.axes)


def loss_and_gradients(part: slice, around: Any = lambda cvrl: cvrl) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a part of a batch of 8, and the norm of each weight's gradient."""
    torch.manual_seed(0)
    config, cvrl = task(**{"cvrl.hidden": 16, "cvrl.hidden_layers": 1})
    batch, draws = batch_of(stored(config, 8)), cvrl.draw(8, generator(0, "step"))
    model = around(cvrl)  # which has to live until the backward pass is done
    loss = model(piece(batch, part), piece(draws, part))["loss"]
    loss.backward()
    return loss.detach(), {
        name: each.grad.norm().item() for name, each in cvrl.named_parameters() if each.grad is not None
    }


def share(told: Path, arguments: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    processes, device = launched(), torch.device("cpu")
    with processes.joined(device):
        part = processes.part(8)
        loss, gradients = loss_and_gradients(part, lambda cvrl: processes.parallel(cvrl, device))
        told.write_text(json.dumps([mean_of_all(loss).item(), gradients]))


def test_two_processes_contrast_all_clips_of_a_batch(tmp_path: Path) -> None:
    loss, gradients = loss_and_gradients(slice(0, 8))
    codes, said = Group(tmp_path, [[]] * 2, share, share).wait()
    assert codes == [0, 0], said
    for told in said:
        found, shared = json.loads(told)
        assert found == pytest.approx(loss.item(), rel=1e-5)
        assert shared == pytest.approx(gradients, rel=1e-3, abs=1e-5)
