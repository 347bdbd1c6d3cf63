"""Models go out to where others load them strictly and compute the same, and come back with the same bits."""

import json
from pathlib import Path
from typing import Any, get_args

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from transformers import ViTMAEForPreTraining, ViTMAEModel

from cli import export_results
from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.data.facts import DataFacts
from mae.errors import UserError
from mae.exchange.incoming import Model, read_model
from mae.exchange.outgoing import FORMATS, export_model
from mae.pretext.base import under
from mae.pretext.masked_autoencoder import MaskedAutoencoder
from mae.pretext.masking import Mask
from mae.pretext.registry import PRETEXTS
from tests.helpers.checkpoints import HEADS_SET, SIZES, hugging_face, imported, invoke, official, ours, saved
from tests.helpers.pretexts import surroundings

STATISTICS = {"data.mean": [0.4, 0.5, 0.6], "data.std": [0.2, 0.3, 0.1]}
WHOLE = [name for name, form in FORMATS.items() if form.with_decoder]
PATCHES = {"pretext.kind": "denoise", "denoise.noise": "masked_patches"}
CONTEXT = {
    "model.decoder.mixing": "convolutions",
    "model.decoder.kernels": [1, 3],
    "model.decoder.global_token": True,
    "model.decoder.fusion": [1],
}
PATHS = {"official": "out.pth", "hf": "out", "onnx": "out.onnx"}


def model_of(config: Config) -> Model:
    """Return a model of random weights as it is read from a run."""
    own = config.pixel_tokens or config.sees_lightness
    state = (PRETEXTS[config.pretext.kind](config, surroundings(config)) if own else ours(config)).state_dict()
    rest = {name: value for name, value in state.items() if not name.startswith("encoder.")}
    facts = DataFacts(mean=config.data.mean or (), std=config.data.std or (), class_names=(), train_images=0)
    return Model(config, facts, under(state, "encoder."), rest, "", (), cuts_off=False)


def model(**more: Any) -> Model:
    return model_of(change(build(SIZES | STATISTICS), more))


def export(made: Model, kind: str, folder: Path) -> Path:
    to = folder / PATHS.get(kind, "out.safetensors")
    export_model(made, kind, to)
    return to


def differs(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def bits(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: value.detach().numpy().tobytes() for name, value in state.items()}


@pytest.mark.parametrize("kind", WHOLE)
def test_weights_and_settings_come_back_as_they_went_out(kind: str, tmp_path: Path) -> None:
    more = {"mask.ratio": 0.9, "target.kind": "normalized_pixels", "model.norm_eps": 1e-7, "data.image_size": [24, 24]}
    made = model(**more)
    back = read_model(export(made, kind, tmp_path))
    assert bits(back.state) == bits(made.state)
    assert back.config.model_dump(exclude={"data"}) == made.config.model_dump(exclude={"data"})
    assert (back.facts, back.config.data.image_size) == (made.facts, made.config.data.image_size)
    assert back.found == "model that mae-cli exported, with decoder"


def test_a_decoder_with_more_context_comes_back_as_it_went_out(tmp_path: Path) -> None:
    made = model(**CONTEXT)
    back = read_model(export(made, "safetensors", tmp_path))
    assert bits(back.state) == bits(made.state)
    assert back.config.model == made.config.model


def test_an_encoder_comes_back_as_it_went_out(tmp_path: Path) -> None:
    made = model()
    back = read_model(export(made, "timm", tmp_path))
    assert (bits(back.encoder), back.rest) == (bits(made.encoder), {})
    assert back.found == "model that mae-cli exported, encoder only"


def test_of_a_denoising_autoencoder_the_encoder_goes_out(tmp_path: Path) -> None:
    made = model(**{"pretext.kind": "denoise", "model.decoder.fusion": [1]})
    assert read_model(export(made, "official", tmp_path)).rest == {}


def test_a_hugging_face_model_comes_back_to_hugging_face_with_the_same_bits(tmp_path: Path) -> None:
    theirs = hugging_face()
    theirs.save_pretrained(tmp_path / "theirs")
    to = export(read_model(tmp_path / "theirs"), "hf", tmp_path)
    assert bits(ViTMAEForPreTraining.from_pretrained(to).state_dict()) == bits(theirs.state_dict())


@pytest.mark.parametrize("more", [{}, {"mask.ratio": 0.65}, {"target.kind": "normalized_pixels"}])
def test_hugging_face_loads_all_of_it_and_has_the_same_loss(more: dict[str, Any], tmp_path: Path) -> None:
    made = model(**more)
    theirs, told = ViTMAEForPreTraining.from_pretrained(export(made, "hf", tmp_path), output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    images, noise, pretext = torch.randn(3, 3, 16, 16), torch.rand(3, 16), made.pretext()
    assert isinstance(pretext, MaskedAutoencoder)
    mask = Mask(noise.argsort(dim=1), made.config.kept_patches)
    assert theirs.eval()(images, noise=noise).loss.item() == pytest.approx(pretext.loss(images, mask).item(), rel=1e-5)


def test_hugging_face_loads_an_encoder_that_has_the_same_features(tmp_path: Path) -> None:
    state = dict(model().encoder)
    made = read_model(saved({"model": state}, tmp_path / "mae.pth"), HEADS_SET)
    theirs, told = ViTMAEModel.from_pretrained(export(made, "hf", tmp_path), output_loading_info=True, mask_ratio=0.0)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    images = torch.randn(2, 3, 16, 16)
    tokens = theirs.eval()(images, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
    assert differs(tokens, made.pretext().encoder(images)) < 1e-5


def test_timm_loads_it_strictly_and_has_the_same_features(tmp_path: Path) -> None:
    made = model()
    theirs = VisionTransformer(16, 4, embed_dim=32, depth=2, num_heads=4, num_classes=0).eval()
    theirs.load_state_dict(load_file(export(made, "timm", tmp_path)))
    images = torch.randn(2, 3, 16, 16)
    assert differs(theirs.forward_features(images), made.pretext().encoder(images)) < 1e-5


class OfficialModel(nn.Module):
    """The parts of the official release's MaskedAutoencoderViT, as its constructor makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(16, 4, 3, 32)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 32))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, 32), requires_grad=False)
        self.blocks = nn.ModuleList([Block(32, 4, 4.0, qkv_bias=True) for _ in range(2)])
        self.norm = nn.LayerNorm(32)
        self.decoder_embed = nn.Linear(32, 16)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 17, 16), requires_grad=False)
        self.decoder_blocks = nn.ModuleList([Block(16, 2, 4.0, qkv_bias=True) for _ in range(2)])
        self.decoder_norm = nn.LayerNorm(16)
        self.decoder_pred = nn.Linear(16, 48)


def test_the_official_code_loads_it_strictly(tmp_path: Path) -> None:
    OfficialModel().load_state_dict(torch.load(export(model(), "official", tmp_path), weights_only=True)["model"])


def test_onnx_computes_the_same_features_of_any_number_of_images(tmp_path: Path) -> None:
    made = model()
    session = onnxruntime.InferenceSession(export(made, "onnx", tmp_path), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = torch.rand(count, 3, 16, 16)
        pretext = made.pretext()
        with torch.no_grad():
            tokens = pretext.encoder(pretext.look(images))
        class_token, patch_mean = map(torch.from_numpy, session.run(None, {"images": images.numpy()}))
        assert differs(class_token, tokens[:, 0]) < 1e-5
        assert differs(patch_mean, tokens[:, 1:].mean(dim=1)) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"pretext.kind": "igpt_ar", "igpt.side": 8, "igpt.colors": 16},
        {"pretext.kind": "igpt_bert", "igpt.side": 8, "igpt.colors": 16},
        {"pretext.kind": "colorize"},
    ],
)
def test_onnx_has_a_place_for_an_encoder_that_sees_no_plain_pixels(settings: dict[str, Any], tmp_path: Path) -> None:
    made = model(**settings | {"probe.layer": 1})
    session = onnxruntime.InferenceSession(export(made, "onnx", tmp_path), providers=["CPUExecutionProvider"])
    images, pretext = torch.rand(3, 3, 16, 16), made.pretext()
    with torch.no_grad():
        tokens = pretext.encoder.after(pretext.look(images), 1)  # type: ignore[operator]
    class_token, patch_mean = map(torch.from_numpy, session.run(None, {"images": images.numpy()}))
    assert differs(class_token, tokens[:, 0]) < 1e-5
    assert differs(patch_mean, tokens[:, 1:].mean(dim=1)) < 1e-5


@pytest.mark.parametrize(
    ("kind", "more", "to", "said"),
    [
        ("timm", {}, "out.pth", "expected a name ending in .safetensors"),
        ("official", {}, "nowhere/out.pth", "there is no folder"),
        ("official", {"model.encoder_mask_tokens": True}, "out.pth", "an encoder with mask tokens has no place there"),
        ("timm", PATCHES, "out.safetensors", "an encoder with mask tokens has no place there"),
        (
            "safetensors",
            {"pretext.kind": "igpt_ar"},
            "out.safetensors",
            "pixels in a palette's colours has no place there",
        ),
        (
            "safetensors",
            {"pretext.kind": "colorize"},
            "out.safetensors",
            "sees lightness in place of colours has no place",
        ),
        ("hf", {"target.kind": "pca"}, "out", "a decoder that predicts target.kind=pca has no place there"),
        ("official", {"model.decoder.mixing": "convolutions"}, "out.pth", r"a decoder with model\.decoder\.mixing has"),
        (
            "hf",
            {"model.decoder.global_token": True},
            "out",
            r"a decoder with model\.decoder\.global_token has no place",
        ),
        ("hf", {"model.decoder.fusion": [1]}, "out", r"model\.decoder\.fusion .* give --format safetensors, or timm"),
        ("hf", {"data.image_size": [8, 16]}, "out", r"ViTMAE needs square images and patches, not \(8, 16\)"),
    ],
)
def test_what_a_format_has_no_place_for_is_refused(
    kind: str, more: dict[str, Any], to: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        export_model(model(**more), kind, tmp_path / to)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="it is there already"):
        export(model(), "hf", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_too_large_for_onnx_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mae.exchange.outgoing.ONNX_LIMIT", 1000)
    with pytest.raises(UserError, match="an ONNX file holds 2 GB"):
        export(model(), "onnx", tmp_path)


def test_a_run_is_exported_by_a_command(runs_dir: Path, tmp_path: Path) -> None:
    run = imported(saved({"model": official(build(SIZES))}, tmp_path / "mae.pth"), runs_dir)
    to = tmp_path / "out.safetensors"
    result = invoke("export", run[:6], "--format", "timm", "--to", str(to), "--runs-dir", str(runs_dir), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["file"] == str(to)
    assert read_model(to).config.model.encoder.heads == 4


@pytest.mark.parametrize("options", [["--format", "timm"], ["--to", "x"], ["--format", "hf", "--to", "x", "--mlflow"]])
def test_half_an_order_is_refused(options: list[str], runs_dir: Path) -> None:
    result = invoke("export", "abc123", *options, "--runs-dir", str(runs_dir))
    assert result.exit_code == 2
    assert "`mae-cli export RUN --format F --to PATH`" in result.stderr


def test_the_command_takes_every_format() -> None:
    annotation = export_results.__annotations__["kind"]
    choices = next(each for each in get_args(get_args(annotation)[0]) if each is not type(None))
    assert set(get_args(choices)) == set(FORMATS)
