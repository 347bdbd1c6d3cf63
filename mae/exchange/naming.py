"""What others call the parts of a model, and which settings their files tell.

Our names are those of the official release, whose encoder has timm's: `patch_embed.proj.weight`,
`blocks.0.attn.qkv.bias`, `decoder_blocks.0.norm1.weight`. Hugging Face's are in the tables below.
"""

import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mae.config.presets import Overrides
from mae.config.tree import Config
from mae.exchange.kept_patches import official_ratio
from mae.pretext.base import under

State = dict[str, Tensor]

IMAGENET: Overrides = {"data.mean": [0.485, 0.456, 0.406], "data.std": [0.229, 0.224, 0.225]}
"""What the official release, Hugging Face's models and most of timm's normalise with."""

ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""By width: ViT-Ti, S, B, L and H. Heads are in no shape."""

DECODER_HEADS = {512: 16}
"""By width: the official release's decoder, the same for all encoders."""

SIZES = {(192, 12): "Ti", (384, 12): "S", (768, 12): "B", (1024, 24): "L", (1280, 32): "H"}
"""What the field calls encoders of a width and depth."""

HUGGING_FACE = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "blocks": "vit.encoder.layer",
    "norm": "vit.layernorm",
    "decoder_embed": "decoder.decoder_embed",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_blocks": "decoder.decoder_layers",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
"""Ours to those of Hugging Face's files; the files of an encoder alone leave out `vit.`."""

HUGGING_FACE_BLOCK = {
    "norm1": "layernorm_before",
    "attn.query": "attention.attention.query",
    "attn.key": "attention.attention.key",
    "attn.value": "attention.attention.value",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""The same within a block; ours has query, key and value in one matrix, one below the other."""

OTHER_SPELLINGS = [
    (r"^(embeddings|encoder|layernorm|layers)\.", r"vit.\1."),  # an encoder alone
    (r"^vit\.layers\.", "vit.encoder.layer."),  # this and the next: within transformers 5
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"^((?:vit\.encoder\.layer|decoder\.decoder_layers)\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^((?:vit\.encoder\.layer|decoder\.decoder_layers)\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),  # as transformers 5.24 saves
]
"""Names that Hugging Face's models have had elsewhere, as patterns, with those of the files."""

CLASSIFIERS = ("head.", "classifier.", "vit.pooler.", "pooler.")
"""How names of a supervised model's classifier begin."""

QKV = ("query", "key", "value")


def is_hugging_face(state: Mapping[str, Any]) -> bool:
    """Say whether names are Hugging Face's."""
    return any(name.removeprefix("vit.") == "embeddings.patch_embeddings.projection.weight" for name in state)


def is_ours(state: Mapping[str, Any]) -> bool:
    """Say whether names are ours: the official release's or timm's."""
    return "patch_embed.proj.weight" in state


def from_hugging_face(state: Mapping[str, Tensor]) -> State:
    """Return tensors under our names; those that Hugging Face's ViTMAE has no name for keep theirs."""
    parts, block_parts = ({other: own for own, other in table.items()} for table in (HUGGING_FACE, HUGGING_FACE_BLOCK))
    found: State = {}
    for name, value in state.items():
        for pattern, spelling in OTHER_SPELLINGS:
            name = re.sub(pattern, spelling, name)
        found[_renamed(name, parts, block_parts)] = value
    for query in [name for name in found if ".attn.query." in name]:
        names = [query.replace("query", part) for part in QKV]
        if all(name in found for name in names):
            found[query.replace("query", "qkv")] = torch.cat([found.pop(name) for name in names])
    return found


def to_hugging_face(state: Mapping[str, Tensor]) -> State:
    """Return tensors of our names as ViTMAEForPreTraining has them, or ViTMAEModel where there is no decoder."""
    found: State = {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            found |= {name.replace("qkv", part): piece for part, piece in zip(QKV, value.chunk(3), strict=True)}
        else:
            found[name] = value
    renamed = {_renamed(name, HUGGING_FACE, HUGGING_FACE_BLOCK): value for name, value in found.items()}
    return renamed if "decoder_embed.weight" in state else under(renamed, "vit.")


def _renamed(name: str, parts: Mapping[str, str], block_parts: Mapping[str, str]) -> str:
    stem, _, leaf = name.rpartition(".")
    block = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", stem)
    if block and block[1] in parts and block[3] in block_parts:
        return f"{parts[block[1]]}.{block[2]}.{block_parts[block[3]]}.{leaf}"
    if leaf in ("weight", "bias"):
        return f"{parts.get(stem, stem)}.{leaf}"
    return parts.get(name, name)


def official_state(state: Mapping[str, Tensor]) -> State:
    """Return a task's weights under the official names: those of the encoder, and of the decoder where there is one."""
    return under(state, "encoder.") | under(state, "decoder.")


def split(state: Mapping[str, Tensor]) -> tuple[State, State]:
    """Return the encoder's weights, and the rest as a pretext task has them, of weights under the official names."""
    own = {name for name in state if name.startswith("decoder_") or name == "mask_token"}
    encoder = {name: value for name, value in state.items() if name not in own}
    return encoder, {f"decoder.{name}": state[name] for name in own}


def official_settings(args: Namespace) -> Overrides:
    """Return what the options of an official training, kept in its file, say of the task."""
    told = vars(args)
    given = {"mask.ratio": told.get("mask_ratio"), "target.kind": _target(told.get("norm_pix_loss"))}
    return {key: value for key, value in given.items() if value is not None}


def settings_of_hugging_face(config: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> Overrides:
    """Return what Hugging Face's `config.json` and `preprocessor_config.json`, or empty ones, say."""
    given = {
        "data.image_size": config.get("image_size"),
        "data.mean": preprocessing.get("image_mean"),
        "data.std": preprocessing.get("image_std"),
        "model.encoder.heads": config.get("num_attention_heads"),
        "model.decoder.heads": config.get("decoder_num_attention_heads"),
        "model.norm_eps": config.get("layer_norm_eps"),
        "mask.ratio": config.get("mask_ratio"),
        "target.kind": _target(config.get("norm_pix_loss")),
    }
    return {key: value for key, value in given.items() if value is not None}


def hugging_face_config(config: Config, with_decoder: bool) -> dict[str, Any]:
    """Return the `config.json` of a model; its sides are whole numbers, as ViTMAE's loss needs squares."""
    model, (encoder, decoder) = config.model, (config.model.encoder, config.model.decoder)
    return {
        "architectures": ["ViTMAEForPreTraining" if with_decoder else "ViTMAEModel"],
        "model_type": "vit_mae",
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": 4 * encoder.dim,
        "hidden_act": "gelu",
        "layer_norm_eps": model.norm_eps,
        "image_size": config.data.image_size[0],
        "patch_size": model.patch_size[0],
        "num_channels": config.data.channels,
        "qkv_bias": True,
        "decoder_hidden_size": decoder.dim,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": 4 * decoder.dim,
        "mask_ratio": official_ratio(config),
        "norm_pix_loss": config.target.kind == "normalized_pixels",
        "dtype": "float32",
    }


def hugging_face_preprocessing(config: Config, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Return the `preprocessor_config.json` of a model."""
    height, width = config.data.image_size
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def _target(normalised: bool | None) -> str | None:
    return None if normalised is None else "normalized_pixels" if normalised else "pixels"
