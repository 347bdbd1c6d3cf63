"""What identifies a pretraining and a probe: exactly the settings and data that can change their numbers."""

import hashlib
import json
from typing import Any

from mae.config.kinds import FROZEN, ProbeKind
from mae.config.probe_sections import ProbeConfig
from mae.config.resolve import config_fields, flatten, inert_keys
from mae.config.tree import Config

ARITHMETIC = 4
"""Raised when a change of the code changes results, so that old results are not taken for new ones."""

IN_DIGEST = {"data.source", "data.test_fraction", "data.split_seed"}
"""Keys that say which images: the digest of the data has what they come to. The last two act on some sources only."""

PRETRAIN_SECTIONS = (
    *("data", "model", "pretext", "denoise", "inpaint", "igpt", "tokenizer", "beit"),
    *("rotation", "context", "jigsaw", "colorize", "instance", "moco", "simsiam", "cvrl", "supervised", "views"),
    *("mask", "target", "loss", "train"),
)

BEFORE = {
    key: field.json_schema_extra["before"]
    for key, field in config_fields()
    if isinstance(field.json_schema_extra, dict) and "before" in field.json_schema_extra
}
"""Keys that came later, with the value that means "as before": at that value they are in no fingerprint."""


def pretrain_fingerprint(config: Config, data_digest: str) -> str:
    """Return 12 hex digits; where the data lie does not matter, only their content does."""
    return _digest(pretrain_settings(config, data_digest))


def pretrain_settings(config: Config, data_digest: str) -> dict[str, Any]:
    """Return by dotted key all that can change a pretraining's numbers; pretrainings with equal ones are the same."""
    settings = _settings(config, PRETRAIN_SECTIONS) | {"train.warmup_epochs": config.train.warmup}
    return settings | {"data_digest": data_digest}


def untrained_fingerprint(config: Config, data_digest: str) -> str:
    """Return the fingerprint of the encoder before training: of data, encoder and seed only."""
    own = ("pretext", "igpt") if config.pixel_tokens else ("pretext",) if config.sees_lightness else ()
    settings = _settings(config, ("data", "model", *own))
    other = ("model.decoder", "igpt.mask_ratio")
    kept = {key: value for key, value in settings.items() if not key.startswith(other)}
    kept |= {} if config.positions else {"positions": False}
    return _digest(kept | {"data_digest": data_digest, "seed": config.train.seed, "untrained": True})


def pixels_fingerprint(config: Config, data_digest: str) -> str:
    """Return the fingerprint of raw pixels: of the data only."""
    return _digest(_settings(config, ("data",)) | {"data_digest": data_digest, "pixels": True})


def probe_fingerprint(config: Config, kind: ProbeKind, subject: str) -> str:
    """Return the fingerprint of one probe of `subject`, itself a fingerprint."""
    settings = _settings(config, ("probe",))
    read = (*(f"probe.{section}." for section in probe_sections(kind)), "probe.seed", "probe.labels")
    kept = {key: value for key, value in settings.items() if key.startswith(read)}
    if kind == "linear" and config.probe.linear.solver == "lars":
        kept["probe.linear.lars_warmup_epochs"] = config.probe.linear.lars_warmup
    else:  # which hold images out
        kept["probe.holdout_fraction"] = config.probe.holdout_fraction
    kept |= {key: value for key, value in _worked_out(config.probe, config.model.encoder.depth).items() if key in kept}
    features = {} if kind == "attentive" else {"features": config.probe.features}  # it reads patches
    before_last = kind in FROZEN and config.probe.layer not in (None, config.model.encoder.depth)
    layer = {"layer": config.probe.layer} if before_last else {}
    return _digest(kept | features | layer | {"kind": kind, "subject": subject})


def probe_sections(kind: str) -> tuple[str, ...]:
    """Return the sections under `probe` that a kind of probe reads."""
    return ("partial", "finetune") if kind == "partial" else (kind,)


def _worked_out(probe: ProbeConfig, depth: int) -> dict[str, float]:
    """Return what keys come to that say it in two ways."""
    return {
        "probe.finetune.warmup_epochs": probe.finetune.warmup,
        "probe.attentive.warmup_epochs": probe.attentive.warmup,
        "probe.partial.blocks": min(probe.partial.blocks, float(depth)),
    }


def probed_fingerprint(subject: str, own_digest: str, probed_digest: str) -> str:
    """Return the fingerprint of what is probed, together with the images that it is probed on, if they are others than
    its own. An imported run has none of its own, but a digest of its weights."""
    return subject if probed_digest == own_digest else _digest({"run": subject, "data_digest": probed_digest})


def probe_name(config: Config, kind: ProbeKind, subject: str) -> str:
    """Return the name of the directory of a probe of `subject`."""
    return f"{kind}-{probe_fingerprint(config, kind, subject)}"


def _settings(config: Config, sections: tuple[str, ...]) -> dict[str, Any]:
    left_out = inert_keys(config) | IN_DIGEST
    *frames, height, width = config.data.stored
    stored = {"data.stored_size": (height, width), "data.stored_frames": frames[0] if frames else None}
    flat = flatten(config.model_dump(mode="json")) | stored
    left_out |= {key for key, value in BEFORE.items() if flat[key] == value}
    return {key: value for key, value in flat.items() if key.split(".")[0] in sections and key not in left_out}


def _digest(identity: dict[str, Any]) -> str:
    text = json.dumps(identity | {"arithmetic": ARITHMETIC}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
