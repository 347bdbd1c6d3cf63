"""Attentive probing: learned queries attend to the frozen patches, a linear classifier reads what they find.

Efficient Probing (Psomas et al., 2025): patches are their own keys, and each query reads a slice of the values.
"""

from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from mae.config.probe_sections import AttentiveProbeConfig
from mae.pretext.base import Pretext
from mae.probing.features import read_at
from mae.probing.subject import Setup, Subject
from mae.probing.tuning import Learner, fit_and_predict


class Attentive(Learner):
    """Queries, values and a classifier on the patches of a frozen encoder; D is the encoder's width."""

    def __init__(
        self, pretext: Pretext, layer: int | None, width: int, classes: int, config: AttentiveProbeConfig
    ) -> None:
        super().__init__(pretext.look)
        self.layer, self.config = layer, config
        self.encoders = [pretext.encoder]  # in a list: its weights are no state of this fit
        self.queries = nn.Parameter(torch.empty(config.queries, width))
        nn.init.trunc_normal_(self.queries, std=0.02)
        self.value = nn.Linear(width, width)
        self.standardise = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def front(self, seen: Tensor) -> Tensor:
        """Return patches (B, N, D)."""
        return read_at(self.layer, self.encoders[0], seen)[:, 1:]

    def forward(self, entering: Tensor) -> Tensor:
        attention = (self.queries @ entering.transpose(1, 2) * entering.shape[2] ** -0.5).softmax(dim=2)  # (B, M, N)
        values = self.value(entering).unflatten(2, (len(self.queries), -1))  # (B, N, M, D / M)
        found = torch.einsum("bmn,bnmd->bmd", attention, values).flatten(1)
        logits: Tensor = self.head(self.standardise(found))
        return logits

    def groups(self) -> list[dict[str, Any]]:
        return param_groups_weight_decay(self, self.config.weight_decay)


def attentive_predict(subject: Subject, setup: Setup) -> tuple[Tensor, dict[str, float]]:
    """Return the classes (m,) of the test images."""
    assert subject.pretext is not None
    config, width = setup.config.probe, setup.config.model.encoder.dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        pretext, classes = subject.pretext.to(setup.device), len(setup.data.classes)
        learner = Attentive(pretext, config.layer, width, classes, config.attentive)
    return fit_and_predict("attentive", subject.name, learner, config.attentive, setup)
