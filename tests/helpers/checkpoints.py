"""Tiny models of others, with random weights, and their files."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel
from typer.testing import CliRunner

from cli import app
from mae.config.tree import Config
from mae.exchange.naming import official_state
from mae.models.vit import sincos_positions
from mae.pretext.masked_autoencoder import MaskedAutoencoder
from tests.helpers.pretexts import autoencoder

SIZES = {
    "data.image_size": 16, "model.patch_size": 4, "model.encoder.dim": 32, "model.encoder.depth": 2,
    "model.encoder.heads": 4, "model.decoder.dim": 16, "model.decoder.depth": 2, "model.decoder.heads": 2,
}  # fmt: skip
"""Ours of the same sizes."""

HEADS = ["--set", "model.encoder.heads=4", "--set", "model.decoder.heads=2"]
"""What no shape of these models tells, as options and as settings."""
HEADS_SET = ("model.encoder.heads=4", "model.decoder.heads=2")


def hugging_face(**more: Any) -> ViTMAEForPreTraining:
    """Images of 16 x 16 in patches of 4 x 4, width 32; positions as in the released files."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    decoder = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    decoder = {f"decoder_{name}": value for name, value in decoder.items()}
    model = ViTMAEForPreTraining(ViTMAEConfig(**sizes, **decoder, image_size=16, patch_size=4, **more)).eval()
    randomise(model)
    with torch.no_grad():
        model.vit.embeddings.position_embeddings.copy_(sincos_positions(32, (4, 4)))
        model.decoder.decoder_pos_embed.copy_(sincos_positions(16, (4, 4)))
        nn.init.normal_(model.vit.embeddings.cls_token, std=1e-3)  # small: there the epsilon of norms tells
    return model


def hugging_face_encoder(model: ViTMAEForPreTraining) -> ViTMAEModel:
    """The same encoder, that sees every patch in order."""
    config = ViTMAEConfig(**{**model.config.to_dict(), "mask_ratio": 0.0})
    encoder = ViTMAEModel(config).eval()
    encoder.load_state_dict(model.vit.state_dict())
    return encoder


def timm_model(**more: Any) -> VisionTransformer:
    """The same sizes, learned positions, a classifier of 10 classes unless told otherwise."""
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 10}
    model = VisionTransformer(more.pop("img_size", 16), 4, **{**sizes, **more}).eval()
    randomise(model)
    return model


def ours(config: Any) -> MaskedAutoencoder:
    """An autoencoder of ours in which every parameter counts."""
    model = autoencoder(config)
    randomise(model)
    return model


def official(config: Config) -> dict[str, Tensor]:
    """Weights as the official release has them."""
    return official_state(ours(config).state_dict())


def randomise(model: nn.Module) -> None:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)


def saved(value: Any, path: Path) -> Path:
    """Write what torch.save writes."""
    torch.save(value, path)
    return path


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--tracking-uri", "none"])


def imported(file: Path, runs_dir: Path, *more: str) -> str:
    result = invoke("import", str(file), *HEADS, *more, "--runs-dir", str(runs_dir))
    assert result.exit_code == 0, result.output
    return max((path.parent for path in runs_dir.glob("*/result.json")), key=lambda path: path.stat().st_mtime).name


def write_image(folder: Path) -> Path:
    Image.new("RGB", (40, 30), (200, 10, 10)).save(folder / "own.jpg")
    return folder / "own.jpg"
