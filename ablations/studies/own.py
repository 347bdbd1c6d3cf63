"""Studies that the paper does not have, or that fine-tune: `all` leaves them out."""

from typing import Any, get_args

from ablations.studies.study import Cell, Study, Times
from mae.config.pretext_sections import PretextConfig

_BLOCKS = {0: 73.5, 0.5: 79.1, 1: 81.0, 2: 83.1, 4: 84.2, 6: 84.4, 12: 84.6, 18: 84.7, 24: 84.9}
"""Of ViT-L's 24 blocks: the paper's top-1, %; its 0 is linear probing."""

_PATCHES = {"pretext.kind": "denoise", "denoise.noise": "masked_patches"}


def _denoising(noise: str, name: str, key: str, strength: float) -> Cell:
    """Return a denoising autoencoder of a kind of noise and a strength; its loss is on all pixels, as in the papers."""
    loss = {} if noise == "gaussian" else {"loss.region": "all"}
    overrides = {"pretext.kind": "denoise", "denoise.noise": noise, key: strength} | loss
    return Cell(overrides, name=f"{name} {strength:g}")


_TASKS = tuple(
    Cell({"pretext.kind": kind}, where_possible=True)
    for kind in get_args(PretextConfig.model_fields["kind"].annotation)
)


def _context(name: str, **more: Any) -> Cell:
    """Return a decoder with the context that is asked for, and no other."""
    settings = {"mixing": "none", "global_token": False, "fusion": []} | more
    return Cell({f"model.decoder.{key}": value for key, value in settings.items()}, name=name, where_possible=True)


_CONVOLUTIONS, _GLOBAL, _FIRST = {"mixing": "convolutions"}, {"global_token": True}, {"fusion": [1]}

OWN: dict[str, Study] = {
    "pretext": Study("pretext", "What should an encoder be pretrained on?", _TASKS),
    "pretext-compute": Study(
        "pretext-compute", "What should an encoder be pretrained on, at equal compute?", _TASKS, equal_compute=True
    ),
    "noise": Study(
        "noise",
        "What corruption should be undone, and how strong?",
        (
            *(_denoising("gaussian", "gaussian", "denoise.deviation", each) for each in (0.25, 0.5, 1.0, 2.0)),
            *(_denoising("salt_and_pepper", "salt and pepper", "denoise.share", each) for each in (0.1, 0.25, 0.5)),
            *(_denoising("masked_pixels", "masked pixels", "denoise.share", each) for each in (0.25, 0.5, 0.75)),
            *(_denoising("masked_patches", "masked patches", "mask.ratio", each) for each in (0.25, 0.5)),
            # From here on with the mask of the base, one setting at a time, to masked autoencoding.
            Cell(_PATCHES | {"loss.region": "all"}, name="masked patches"),
            Cell(_PATCHES | {"loss.region": "masked"}, name="masked patches, loss on them"),
            Cell({"pretext.kind": "mae"}, name="masked autoencoder"),
        ),
    ),
    "context": Study(
        "context",
        "Does the decoder need more context?",
        (
            _context("plain"),
            _context("convolutions", **_CONVOLUTIONS),
            _context("global token", **_GLOBAL),
            _context("first block fused with the last", **_FIRST),
            _context("all three", **_CONVOLUTIONS, **_GLOBAL, **_FIRST),
        ),
    ),
    "partial-finetune": Study(
        "partial-finetune",
        "How many blocks must be fine-tuned?",
        tuple(Cell({"probe.partial.blocks": float(blocks)}, {"finetune": top1}) for blocks, top1 in _BLOCKS.items()),
        "Fig. 9",
        "probe.partial.blocks",
        probe="partial",
    ),
    "encoder-width": Study(
        "encoder-width",
        "Does a larger encoder gain more from pretraining?",
        tuple(Cell({"model.encoder.dim": Times(factor)}) for factor in (1 / 2, 1, 2)),
        "Table 3",
        "model.encoder.dim",
        log_axis=True,
        probe="finetune",
    ),
}
