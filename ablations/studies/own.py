"""Studies that the paper does not have, or that fine-tune: `all` leaves them out."""

from typing import get_args

from ablations.studies.study import Cell, Study, Times
from mae.config.tree import PretextConfig

_BLOCKS = {0: 73.5, 0.5: 79.1, 1: 81.0, 2: 83.1, 4: 84.2, 6: 84.4, 12: 84.6, 18: 84.7, 24: 84.9}
"""Of ViT-L's 24 blocks: the paper's top-1, %; its 0 is linear probing."""

OWN: dict[str, Study] = {
    "pretext": Study(
        "pretext",
        "What should an encoder be pretrained on?",
        tuple(Cell({"pretext.kind": kind}) for kind in get_args(PretextConfig.model_fields["kind"].annotation)),
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
