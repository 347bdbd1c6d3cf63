"""`mae.load_encoder`: the features that probes see, of images as they come, in any program."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae import load_encoder
from mae.config.resolve import build
from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.data.image_files import decode
from mae.errors import UserError
from mae.exchange.feature_encoder import FeatureEncoder
from mae.exchange.incoming import Model
from mae.pretext.base import under
from mae.pretext.registry import new_pretext
from mae.probing.features import extract
from mae.runtime.progress import Silent
from tests.conftest import TINY
from tests.helpers.checkpoints import HEADS_SET, SIZES, official, saved
from tests.mae.exchange.test_imported_runs import own_run
from tests.mae.exchange.test_outgoing import model, model_of

CPU = torch.device("cpu")


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("stored", [8, 12])
@pytest.mark.parametrize("pooling", ["class_token", "patch_mean", "both"])
def test_features_are_those_that_probes_see(pooling: str, stored: int, digits: ImageData, tiny: Config) -> None:
    config = build(TINY | {"data.stored_size": stored, "data.mean": digits.mean, "data.std": digits.std})
    pretext, images = new_pretext(config, digits), noise(5, 1, stored, stored)

    class Some:
        def batches(self, indexes: list[torch.Tensor]) -> list[torch.Tensor]:
            return [images[each] for each in indexes]

    expected = extract(pretext, Some(), torch.arange(5), pooling, CPU, Silent())  # type: ignore[arg-type]
    known = model_of(config)
    state = pretext.state_dict()
    made = Model(config, known.facts, under(state, "encoder."), {}, "", (), cuts_off=False)
    assert FeatureEncoder(made, pooling)(images).equal(expected)


@pytest.mark.parametrize("size", [(40, 40), (40, 56), (9, 16)])
def test_images_of_any_size_are_resized_as_image_files_are(size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(80, 180, (*size, 3), dtype=np.uint8)  # PIL cuts off twice
    Image.fromarray(pixels).save(tmp_path / "image.png")
    read = torch.from_numpy(decode(tmp_path / "image.png", (16, 16), 3))[None].float() / 255
    seen = []
    encoder = FeatureEncoder(model())
    encoder.task.look = lambda images: seen.append(images) or images  # type: ignore[method-assign,func-returns-value]
    encoder(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    inner = (seen[0] - read)[..., 4:-4, 4:-4].abs()  # at a crop's edge PIL looks past it
    assert inner.max() < 2 / 255
    assert seen[0].shape == read.shape


def test_floats_mean_the_same_as_bytes() -> None:
    encoder, images = FeatureEncoder(model()), noise(2, 3, 20, 30)
    assert torch.allclose(encoder(images.float() / 255), encoder(images), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(3, 16, 16), r"expected images \(B, 3, H, W\); found \(3, 16, 16\)"),
        (torch.zeros(2, 1, 16, 16), r"expected images \(B, 3, H, W\)"),
        (torch.full((1, 3, 16, 16), 255.0), "expected uint8, or floats in 0..1; found torch.float32 up to 255"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int64), "expected uint8, or floats in 0..1; found torch.int64"),
    ],
)
def test_what_is_no_image_is_refused(images: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FeatureEncoder(model())(images)


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(UserError, match="expected one of class_token"):
        FeatureEncoder(model(), "max")


def test_it_is_frozen_and_has_no_decoder() -> None:
    encoder = FeatureEncoder(model())
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not [name for name in encoder.state_dict() if "decoder" in name]


def test_a_file_is_loaded_without_a_run(tmp_path: Path) -> None:
    file = saved({"model": official(build(SIZES))}, tmp_path / "mae.pth")
    assert load_encoder(file, "both", HEADS_SET)(noise(2, 3, 50, 40)).shape == (2, 64)
    with pytest.raises(UserError, match="give --set model"):
        load_encoder(file)


def test_a_process_that_never_saw_the_cli_loads_a_run(runs_dir: Path) -> None:
    run = own_run(runs_dir, **{"probe.features": "class_token"})
    code = f"""
import sys, mae
assert not {{"torch", "timm", "pydantic"}} & sys.modules.keys(), "the import is heavy"
import torch
encoder = mae.load_encoder({str(run)!r})
print(tuple(encoder(torch.zeros(3, 1, 30, 20)).shape), encoder.pooling, "cli" in sys.modules, "mlflow" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout.strip() == "(3, 16) class_token False False", said.stderr
