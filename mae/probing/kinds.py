"""How people meet each kind of probe: its name, its mark in figures, what of the paper stands beside it."""

from typing import NamedTuple


class Probe(NamedTuple):
    """One kind: `label` in tables, `marker` in figures, column `paper` of a study's frame ("" where there is none).

    `pixels` says whether raw pixels are a baseline, or only the untrained encoder, as the probe needs one.
    """

    label: str
    marker: str
    paper: str = ""
    pixels: bool = True


PROBES: dict[str, Probe] = {
    "linear": Probe("linear", "o", "paper_linear"),
    "knn": Probe("k-NN", "s"),
    "attentive": Probe("attentive", "^", pixels=False),
    "partial": Probe("partial fine-tuning", "v", "paper_finetune", pixels=False),
    "finetune": Probe("fine-tuning", "P", "paper_finetune", pixels=False),
}
"""By kind, in the order of tables; `mae.probing.probe.PREDICT` has what each does."""


def probe_label(kind: str) -> str:
    """Return what people call a kind of probe, or of a study that is not probed what stands in its place."""
    return PROBES[kind].label if kind in PROBES else kind


def probe_title(kind: str) -> str:
    """Return a kind of probe as a title: `linear probe`, `fine-tuning`."""
    label = probe_label(kind)
    return label if label.endswith("tuning") else f"{label} probe"
