"""Masked autoencoding of clips."""

from typing import Any

import torch

from mae.config.resolve import build
from mae.data.augmentation import centre
from mae.models.vit import patchify
from mae.pretext.registry import PRETEXTS
from mae.pretext.video_masked_autoencoder import VideoMaskedAutoencoder
from mae.runtime.rng import generator
from tests.helpers.pretexts import stored, surroundings


def task(**more: Any) -> VideoMaskedAutoencoder:
    settings = {"data.source": "moving_digits", "data.image_size": 8, "data.frames": 6, "mask.ratio": 0.9}
    config = build(settings | {"pretext.kind": "video_mae"} | more)
    made = PRETEXTS["video_mae"](config, surroundings(config))
    assert isinstance(made, VideoMaskedAutoencoder)
    return made


def test_tubelets_are_hidden_in_space_and_time_together() -> None:
    """Wherever and whenever: of 3 times and 4 places, 1 tubelet in 12 stays visible, each equally often."""
    video = task()
    assert (video.config.patches, video.config.kept_patches) == (12, 1)
    seen = video.mask(video.draw(6000, generator(0, "step"))).visible.flatten().bincount(minlength=12)
    assert ((seen / 500 - 1).abs() < 0.25).all()  # five standard errors


def test_the_encoder_reads_visible_tubelets_alone() -> None:
    video = task()
    clips = video.look(centre(stored(video.config, 2), video.config.data))
    mask = video.mask(video.draw(2, generator(0, "step")))
    patches = patchify(clips, video.patch)
    others = patches.scatter(1, mask.hidden[..., None].expand(-1, -1, patches.shape[2]), 9.0)
    assert torch.equal(video.predict(patches, mask), video.predict(others, mask))


def test_a_reconstruction_keeps_the_visible_tubelets() -> None:
    video = task(**{"target.kind": "normalized_pixels"})
    clips = centre(stored(video.config, 2), video.config.data) * 0.8 + 0.1
    video.mean.fill_(0.5)
    video.std.fill_(0.25)
    mask = video.mask(video.draw(2, generator(0, "step")))
    masked, completed = video.reconstruct(clips, mask)
    for found in (masked, completed):
        equal = (patchify(found, video.patch) - patchify(clips, video.patch)).abs().amax(dim=2) < 1e-5
        visible = torch.zeros_like(equal).scatter(1, mask.visible, True)
        assert torch.equal(equal, visible)
