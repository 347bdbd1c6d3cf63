"""Partial fine-tuning: the recipe of fine-tuning for the last blocks only (section 4.3, Fig. 9)."""

from torch import Tensor

from mae.probing.finetune import tuned
from mae.probing.subject import Setup, Subject
from mae.probing.tuning import fit_and_predict


def partial_predict(subject: Subject, setup: Setup) -> tuple[Tensor, dict[str, float]]:
    """Return the classes (m,) of the test images after fine-tuning the encoder's last blocks."""
    learner = tuned(subject, setup, setup.config.probe.partial.blocks)
    return fit_and_predict("partial", subject.name, learner, setup.config.probe.finetune, setup)
