"""Which pretext tasks and probes there are, by the names that settings use."""

from typing import Literal

PretextKind = Literal[
    "mae",
    "denoise",
    "inpaint",
    "igpt_ar",
    "igpt_bert",
    "vqvae",
    "dvae",
    "beit",
    "rotation",
    "context",
    "jigsaw",
    "colorize",
    "instance",
    "moco",
    "simsiam",
    "cvrl",
    "video_mae",
    "supervised",
    "random",
]
PIXEL_KINDS: tuple[PretextKind, ...] = ("igpt_ar", "igpt_bert")
"""Tasks whose encoder reads pixels of a palette in place of patches."""

CLIP_KINDS: tuple[PretextKind, ...] = ("cvrl", "video_mae")
"""Tasks on clips of video."""

EITHER_KINDS: tuple[PretextKind, ...] = ("supervised", "random")
"""Tasks on images or on clips; all that are not named here are on images."""

VIEWED: tuple[PretextKind, ...] = ("instance", "moco", "simsiam", "cvrl")
"""Tasks whose views are distorted as `views` says."""

TOKENIZERS: tuple[PretextKind, ...] = ("vqvae", "dvae")
"""Tasks whose codes other runs may predict."""

ProbeKind = Literal["linear", "knn", "attentive", "partial", "finetune"]
FROZEN: tuple[ProbeKind, ...] = ("linear", "knn", "attentive")
"""Probes that read a frozen encoder, at any of its blocks."""
