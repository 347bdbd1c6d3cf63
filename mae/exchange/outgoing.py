"""From a run to files that others load; each format carries, where it has a place, the settings that `import` needs."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mae.config.model_sections import DecoderConfig
from mae.config.resolve import flatten, inert_keys
from mae.config.tree import Config
from mae.errors import UserError
from mae.exchange.feature_encoder import FeatureEncoder
from mae.exchange.files import SETTINGS
from mae.exchange.incoming import Model
from mae.exchange.naming import (
    State,
    hugging_face_config,
    hugging_face_preprocessing,
    official_state,
    to_hugging_face,
)
from mae.runs.locks_and_writes import replacing

CARRIED = ("data.image_size", "data.channels", "data.mean", "data.std", "model.", "mask.", "target.")
"""Settings that go with the weights, as beginnings of keys."""

ONNX_LIMIT = 2 << 30
"""Bytes that one ONNX file holds."""


class Format(NamedTuple):
    """A kind of file: how its name ends ("" for a folder), whether a decoder goes with it, and what writes it."""

    ending: str
    with_decoder: bool
    write: Callable[[Model, State, Path], None]


def export_model(model: Model, kind: str, to: Path) -> list[str]:
    """Write a model in the format `kind` of `FORMATS`; return sentences that a user should read.

    `UserError` if the format has no place for what the model has, or `to` does not suit it.
    """
    form = FORMATS[kind]
    if form.ending and to.suffix not in form.ending.split(" or "):
        raise UserError(f"--to {to}: expected a name ending in {form.ending}")
    if not to.absolute().parent.is_dir():
        raise UserError(f"--to {to}: there is no folder {to.parent}")
    reconstructs = model.config.pretext.kind == "mae"  # a denoising autoencoder's decoder knows no mask tokens
    decoder = form.with_decoder and reconstructs and "decoder.decoder_embed.weight" in model.rest
    _check_place(model.config, kind, decoder)
    state = official_state(model.state) if decoder else model.encoder
    form.write(model, state, to)
    notes = [f"{'encoder and decoder' if decoder else 'encoder only'}: {len(state)} tensors"]
    if kind in ("official", "timm") and model.config.model.norm_eps != 1e-6:
        notes.append(
            f"its norms have an epsilon of {model.config.model.norm_eps:g}; there it is 1e-6 unless you set it"
        )
    return notes


def _check_place(config: Config, kind: str, decoder: bool) -> None:
    model = config.model
    if config.data.has_clips and kind != "onnx":
        raise UserError(
            f"--format {kind}: an encoder of clips has no place there; --format onnx has one, and mae.load_encoder "
            "reads the run's folder"
        )
    if config.pixel_tokens and kind != "onnx":
        raise UserError(
            f"--format {kind}: an encoder of pixels in a palette's colours has no place there; --format onnx has one"
        )
    if config.sees_lightness and kind != "onnx":
        raise UserError(
            f"--format {kind}: an encoder that sees lightness in place of colours has no place there; --format onnx "
            "has one, with the conversion"
        )
    if config.encoder_mask_tokens and kind in ("official", "timm", "hf"):
        raise UserError(
            f"--format {kind}: an encoder with mask tokens has no place there; --format safetensors has one"
        )
    if decoder and config.target.kind in ("pca", "tokens"):
        raise UserError(
            f"--format {kind}: a decoder that predicts target.kind={config.target.kind} has no place there; "
            "give --format timm"
        )
    if decoder and kind in ("official", "hf") and (more := _more_than_theirs(model.decoder)):
        raise UserError(
            f"--format {kind}: a decoder with {more} has no place there; give --format safetensors, or timm for "
            "the encoder alone"
        )
    sides = config.data.image_size, model.patch_size
    if kind == "hf" and any(height != width for height, width in sides):
        raise UserError(f"--format hf: ViTMAE needs square images and patches, not {sides[0]} and {sides[1]}")


def _more_than_theirs(decoder: DecoderConfig) -> str:
    """Return the key of what a decoder has that the official release's lacks, or nothing."""
    own = {"mixing": decoder.mixing != "none", "global_token": decoder.global_token, "fusion": decoder.fusion != ()}
    return next((f"model.decoder.{name}" for name, there in own.items() if there), "")


def carried_settings(config: Config) -> str:
    """Return as JSON the settings that go with the weights, by dotted key."""
    inert, values = inert_keys(config), flatten(config.model_dump(mode="json"))
    return json.dumps({key: value for key, value in values.items() if key.startswith(CARRIED) and key not in inert})


def _official(model: Model, state: State, to: Path) -> None:
    with replacing(to) as temporary:
        torch.save({"model": state, SETTINGS: carried_settings(model.config)}, temporary)


def _safetensors(model: Model, state: State, to: Path) -> None:
    with replacing(to) as temporary:
        _save(state, temporary, model.config)


def _save(state: State, to: Path, config: Config) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, to, {"format": "pt", SETTINGS: carried_settings(config)})


def _hugging_face(model: Model, state: State, to: Path) -> None:
    """Write a folder for `from_pretrained`, whole or not at all."""
    if to.exists():
        raise UserError(f"--to {to}: it is there already; name a new folder")
    building = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    building.mkdir()
    try:
        config = hugging_face_config(model.config, "decoder_embed.weight" in state)
        (building / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        pixels = hugging_face_preprocessing(model.config, model.facts.mean, model.facts.std)
        (building / "preprocessor_config.json").write_text(json.dumps(pixels, indent=2) + "\n")
        _save(to_hugging_face(state), building / "model.safetensors", model.config)
        building.rename(to)
    finally:
        shutil.rmtree(building, ignore_errors=True)


class _OnnxOutputs(nn.Module):
    """Normalisation and encoder: images, or clips, in 0..1 of the model's size to class token and mean of patches."""

    def __init__(self, encoder: FeatureEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.encoder.encoded(images)
        return tokens[:, 0], tokens[:, 1:].mean(dim=1)


def _onnx(model: Model, state: State, to: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx needs {error.name}: pip install 'mae-cli[onnx]'") from None
    if (size := sum(value.nbytes for value in state.values())) > ONNX_LIMIT:
        raise UserError(f"--format onnx: weights of {size / 1e9:.1f} GB; an ONNX file holds 2 GB")
    data = model.config.data
    images = torch.zeros(2, data.channels, *data.seen)
    batch: Any = {"images": {0: torch.export.Dim("batch")}}
    names = {"input_names": ["images"], "output_names": ["class_token", "patch_mean"], "dynamic_shapes": batch}
    with replacing(to) as temporary:
        made = _OnnxOutputs(FeatureEncoder(model)).eval()
        torch.onnx.export(made, (images,), temporary, **names, dynamo=True, external_data=False, verbose=False)


FORMATS: dict[str, Format] = {
    "official": Format(".pth", True, _official),
    "timm": Format(".safetensors", False, _safetensors),
    "hf": Format("", True, _hugging_face),
    "safetensors": Format(".safetensors", True, _safetensors),
    "onnx": Format(".onnx", False, _onnx),
}
