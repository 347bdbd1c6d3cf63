"""Studies that the paper does not have."""

from typing import get_args

from ablations.studies.study import Cell, Study
from mae.config.tree import PretextConfig

OWN: dict[str, Study] = {
    "pretext": Study(
        "pretext",
        "What should an encoder be pretrained on?",
        tuple(Cell({"pretext.kind": kind}) for kind in get_args(PretextConfig.model_fields["kind"].annotation)),
    )
}
