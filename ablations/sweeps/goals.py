"""What a sweep may search for. No test image decides: an accuracy is that on images held out of training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ablations.execution.job import Job
from mae.config.kinds import ProbeKind
from mae.config.resolve import nearest
from mae.config.tree import Config
from mae.errors import UserError
from mae.runs.metrics import COST_MEMORY, GFLOPS, PARAMETERS, SECONDS, holdout_top1


@dataclass(frozen=True)
class Objective:
    """A figure of a finished job; `label` names it in figures, with its unit.

    `probe` is what an accuracy needs, and what reports it on the test images.
    """

    name: str
    direction: Literal["maximize", "minimize"]
    metric: str
    label: str
    probe: ProbeKind | None = None


_ALL = (
    # Both on the part of train that the probe holds out; see `mae.probing.probe.probe`.
    Objective("linear_top1", "maximize", holdout_top1("linear"), "linear top-1, held-out, %", probe="linear"),
    Objective("knn_top1", "maximize", holdout_top1("knn"), "k-NN top-1, held-out, %", probe="knn"),
    Objective(
        "attentive_top1", "maximize", holdout_top1("attentive"), "attentive top-1, held-out, %", probe="attentive"
    ),
    Objective("finetune_top1", "maximize", holdout_top1("finetune"), "fine-tuned top-1, held-out, %", probe="finetune"),
    Objective("gflops", "minimize", GFLOPS, "GFLOPs per image and step"),
    Objective("seconds", "minimize", SECONDS, "pretraining, s"),
    Objective("memory_mb", "minimize", COST_MEMORY, "peak memory, MB"),
    Objective("parameters", "minimize", PARAMETERS, "parameters"),
)
OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in _ALL}


def choose_objectives(text: str, base: Config) -> tuple[Objective, ...]:
    """Return the objectives that a comma-separated list names; `UserError` for one unknown or impossible here."""
    chosen = []
    for name in text.split(","):
        if name not in OBJECTIVES:
            raise UserError(
                f"--objective {name}: unknown{nearest(name, [*OBJECTIVES])}; known: {', '.join(OBJECTIVES)}"
            )
        chosen.append(OBJECTIVES[name])
    if len(set(chosen)) < len(chosen):
        raise UserError(f"--objective {text}: one is named twice")
    if OBJECTIVES["linear_top1"] in chosen and base.probe.linear.solver != "lbfgs":
        raise UserError(
            "--objective linear_top1: a search must not choose on test images, and probe.linear.solver=lars holds no "
            "training images out; --set probe.linear.solver=lbfgs, or --objective knn_top1"
        )
    return tuple(chosen)


def measure(objectives: tuple[Objective, ...], job: Job, runs_dir: Path) -> list[float]:
    """Return the objectives' values of a finished job; `UserError` naming one that it has not measured."""
    known: dict[str, Any] = {}
    for stage in job.stages(runs_dir):
        known |= (stage.result() or {}).get("metrics", {})
    for objective in objectives:
        if objective.metric not in known:
            raise UserError(f"{objective.name}: {job.fingerprint} has no {objective.metric}")
    return [known[objective.metric] for objective in objectives]
