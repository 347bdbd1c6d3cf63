"""The encoder of clips: tubelets, positions in space and time."""

import math

import pytest
import torch
from torch.nn import functional as F

from mae.config.resolve import build
from mae.config.tree import Config
from mae.models.vit import build_encoder, patchify, sincos_positions, unpatchify


@pytest.fixture
def config() -> Config:
    settings = {"data.source": "moving_digits", "data.image_size": [8, 12], "data.frames": 6, "model.tubelet": 3}
    return build(settings | {"pretext.kind": "video_mae", "model.encoder.depth": 1})


def test_tubelets_are_cut_by_time_row_and_column() -> None:
    clips = torch.arange(2 * 3 * 4 * 6 * 8).view(2, 3, 4, 6, 8)
    tubelets, (t, h, w) = patchify(clips, (2, 3, 4)), (2, 3, 4)
    expected = [
        [clips[b, :, i * t : (i + 1) * t, j * h : (j + 1) * h, k * w : (k + 1) * w].permute(1, 2, 3, 0).flatten()
         for i in range(2) for j in range(2) for k in range(2)]
        for b in range(2)
    ]  # fmt: skip
    assert torch.equal(tubelets, torch.stack([torch.stack(each) for each in expected]))
    assert torch.equal(unpatchify(tubelets, (2, 3, 4), (2, 2, 2)), clips)


def test_tokens_are_a_convolution_in_space_and_time_and_positions(config: Config) -> None:
    encoder = build_encoder(config)
    clips = torch.randn(2, 3, 6, 8, 12)
    embedding = encoder.patch_embed.proj
    convolved = F.conv3d(clips, embedding.weight, embedding.bias, stride=(3, 4, 4)).flatten(2).transpose(1, 2)
    tokens = encoder.tokens(clips)
    assert tokens.shape == (2, 1 + config.patches, 64) == (2, 1 + 2 * 2 * 3, 64)
    torch.testing.assert_close(tokens[:, 1:], convolved + encoder.pos_embed[:, 1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [8, 16, 64, 768])
def test_positions_tell_time_row_and_column_apart(dim: int) -> None:
    grid = (3, 4, 5)
    positions = sincos_positions(dim, grid)[0]
    assert positions.shape == (1 + 60, dim)
    assert not positions[0].any()
    of_time = 4 * max(1, round(dim / 12))
    half = (dim - of_time) // 2
    widths = {"column": (0, half), "row": (half, half), "time": (2 * half, of_time)}
    for number in range(60):
        place = {"time": number // 20, "row": number // 5 % 4, "column": number % 5}
        for name, (start, width) in widths.items():
            waves = [place[name] / 10000 ** (index / (width // 2)) for index in range(width // 2)]
            expected = [*map(math.sin, waves), *map(math.cos, waves)]
            found = positions[1 + number, start : start + width].tolist()
            assert found == pytest.approx(expected, abs=1e-6)
    assert len(positions[1:].unique(dim=0)) == 60
