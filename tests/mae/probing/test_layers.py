"""Which block's output probes of a frozen encoder read (`probe.layer`), under every kind of encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from cli import app
from mae.config.kinds import ProbeKind
from mae.config.resolve import build, change
from mae.data.dataset import ImageData
from mae.errors import UserError
from mae.models.vit import pool
from mae.pretext.base import Pretext
from mae.pretext.registry import new_pretext
from mae.probing.attentive import Attentive
from mae.probing.features import encode
from mae.probing.finetune import Tuned
from mae.probing.subject import Setup, Subject, features_of
from mae.runtime.progress import Silent
from tests.conftest import TINY

CPU = torch.device("cpu")
KINDS = ("mae", "igpt_ar", "igpt_bert")
POOLINGS = ("class_token", "patch_mean", "both")


def made(kind: str, digits: ImageData, **more: Any) -> Any:
    return new_pretext(change(build(TINY), {"pretext.kind": kind, "model.encoder.depth": 3} | more), digits).eval()


def entering(pretext: Pretext, images: Tensor) -> list[Tensor]:
    """Return what every block's attention reads and, last, what comes of the encoder, all (B, 1 + N, D)."""
    found: list[Tensor] = []
    encoder: Any = pretext.encoder
    hooks = [block.norm1.register_forward_hook(lambda *given: found.append(given[2])) for block in encoder.blocks]
    with torch.no_grad():
        found.append(encoder(pretext.look(images)))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_read_as_the_block_after_it_reads_it(kind: str, layer: int, digits: ImageData) -> None:
    pretext, images = made(kind, digits), torch.rand(3, 1, 8, 8)
    expected = entering(pretext, images)[layer]
    (features,) = encode(pretext, [images], "both", layer)
    assert torch.equal(features, pool(expected, "both"))
    attentive = Attentive(pretext, layer, 16, 10, build({"probe.attentive.queries": 4}).probe.attentive)
    assert torch.equal(attentive.front(pretext.look(images)), expected[:, 1:])


def test_layers_after_the_one_that_is_read_are_not_computed(digits: ImageData) -> None:
    pretext, computed = made("mae", digits), []
    for number, block in enumerate(pretext.encoder.blocks, 1):
        block.register_forward_hook(lambda *_, number=number: computed.append(number))
    list(encode(pretext, [torch.rand(3, 1, 8, 8)], "both", 2))
    assert computed == [1, 2]


def test_the_features_of_probes_are_those_of_the_layer_that_is_set(digits: ImageData) -> None:
    pretext = made("mae", digits)
    whole, second, last = (
        features_of(Subject("pretrained", "0", pretext), "test", Setup(config, digits, CPU, Silent()))
        for config in (change(pretext.config, {"probe.layer": layer}) for layer in ("unset", 2, 3))
    )
    assert torch.equal(whole, last)
    assert not torch.allclose(whole, second, atol=1e-2)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_fine_tuning_starts_from_an_encoder_of_pixels_as_it_is(kind: str, pooling: str, digits: ImageData) -> None:
    pretext, images = made(kind, digits), torch.rand(3, 1, 8, 8)
    for blocks in (0, 0.5, 2, 3):
        tuned = Tuned(pretext.encoder, pretext.look, blocks, pooling, 10, build({}).probe.finetune).eval()
        with torch.no_grad():
            logits = tuned(tuned.front(pretext.look(images)))
            expected = tuned.head(tuned.standardise(pool(pretext.encoder(pretext.look(images)), pooling)))
        assert torch.allclose(logits, expected, atol=1e-6)


def test_colours_are_tuned_at_the_rate_of_the_first_layer(digits: ImageData) -> None:
    pretext = made("igpt_ar", digits)
    tuned = Tuned(pretext.encoder, pretext.look, 3, "patch_mean", 10, build({}).probe.finetune)
    rates = {id(parameter): group["lr_scale"] for group in tuned.groups() for parameter in group["params"]}
    encoder: Any = tuned.encoder
    assert rates[id(encoder.patch_embed.color.weight)] == rates[id(encoder.cls_token)] == pytest.approx(0.75**4)


def test_probes_that_are_trained_run_on_an_encoder_of_pixels(tmp_path: Path) -> None:
    used = {key: value for key, value in TINY.items() if not key.startswith(("model.decoder", "model.patch_size"))}
    few = {"probe.finetune.epochs": 1, "probe.attentive.epochs": 1, "probe.layer": 1, "igpt.side": 4}
    chosen = used | few | {"pretext.kind": "igpt_ar", "train.epochs": 1, "probe.labels_per_class": 2}
    settings = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    probes = [part for each in ("attentive", "finetune") for part in ("--kind", each)]
    command = ["run", *settings, *probes, "--runs-dir", str(tmp_path), "--tracking-uri", "none", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"probe\.layer=5: expected at most model\.encoder\.depth=4"):
        build({"probe.layer": 5})


@pytest.mark.parametrize("kinds", [["finetune"], ["partial", "finetune"]])
def test_a_layer_has_no_effect_on_fine_tuning(kinds: list[ProbeKind]) -> None:
    said = r"probe\.layer=2 has no effect: it acts with probe\.kinds=linear or knn or attentive only"
    with pytest.raises(UserError, match=said):
        build({"probe.layer": 2, "probe.kinds": kinds})
    build({"probe.layer": 2, "probe.kinds": [*kinds, "knn"]})
