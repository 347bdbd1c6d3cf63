"""Studies and sweeps in MLflow: an experiment each, in it a run per study or sweep, nested in that a run per trial."""

import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlencode

from mae.errors import UserError
from mae.runs.directory import RunDirectory, status_of
from mae.runs.study_record import find_studies, read_study
from mae.runs.sweep_record import SweepRecord, SweepTrial, find_sweeps, read_sweep
from mae.tracking.nested import Child, Parent, deliver_parent, status_of_stages
from mae.tracking.store import EXPERIMENT, open_store, table_page

COMPARED = 100
"""Most trials in a link: a browser's address has an end, and so has what fits on a page."""

ACCURACIES = ("metrics.`linear/top1`", "metrics.`knn/top1`", "metrics.`train/final_loss`")
TOLD = {"study": ("cell", "seed"), "sweep": ("trial", "state")}
"""What the list of trials shows: columns, and tags of studies and sweeps; the best linear probe comes first."""

SWEEP_STATES = {"complete": "finished", "pruned": "pruned", "failed": "failed", "running": "running"}


def study_experiment(name: str) -> str:
    """Return the name of the experiment that the runs of a study or sweep are in."""
    return f"{EXPERIMENT}/{name}"


def study_pages(uri: str, study: str) -> tuple[str, str]:
    """Return the fragments of two MLflow pages: the trials of the newest run of a study or sweep compared, and listed.

    `study` is its name or its folder's; `UserError` if the store has no such one, or fewer than two trials of it.
    """
    client = open_store(uri)
    experiments = [each for each in client.search_experiments() if each.name.startswith(study_experiment(""))]
    identifiers = [each.experiment_id for each in experiments]
    parents = client.search_runs(identifiers, "tags.`mae.stage` != 'trial'") if identifiers else []
    names = [(_name(run.data.tags), run.data.tags.get("mae.study_id")) for run in parents]
    parent = next((run for run, known in zip(parents, names, strict=True) if study in known), None)
    if parent is None:
        known = ", ".join(dict.fromkeys(name for name, _ in names)) or "none"
        raise UserError(f"--study {study}: MLflow has no such study or sweep; it has: {known}")
    experiment, child_of = parent.info.experiment_id, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = client.search_runs([experiment], child_of, order_by=["attributes.start_time ASC"])
    if len(children) < 2:
        raise UserError(
            f"--study {study}: {len(children)} of its trainings have ended; there is nothing to compare yet"
        )
    runs = json.dumps([run.info.run_id for run in children[:COMPARED]])
    query = urlencode({"runs": runs, "experiments": json.dumps([experiment]), "workflowType": "machine_learning"})
    columns = [*ACCURACIES, *(f"tags.`{name}`" for name in TOLD[parent.data.tags["mae.stage"]])]
    return f"#/compare-runs?{query}", table_page(client, experiment, columns, child_of, ACCURACIES[0])


def _name(tags: dict[str, str]) -> str:
    return tags[tags["mae.stage"]]


def deliver_studies(runs_dir: Path, uri: str) -> int:
    """Deliver every study and sweep that nobody works on; return how many were behind. Raises as MLflow does."""
    undelivered = [(deliver_study, directory) for directory, _ in find_studies(runs_dir)]
    undelivered += [(deliver_sweep, directory) for directory in find_sweeps(runs_dir)]
    return sum(deliver(directory, uri, runs_dir) for deliver, directory in undelivered if not directory.is_locked())


def deliver_study(directory: RunDirectory, uri: str, runs_dir: Path) -> bool:
    """Bring the store up to date with one study; say whether anything was undelivered. Raises as MLflow does."""
    record = read_study(directory)
    children = []
    for trial in record.trials:
        run = RunDirectory(runs_dir / trial.fingerprint)
        stages = run.stages(trial.probes.values())
        tags = {"study": record.name, "cell": trial.cell, "seed": str(trial.seed)} | _origin(run)
        tags["mae.stages"] = _stage_statuses(trial.probes, stages)
        children.append(Child(f"{trial.cell}, seed {trial.seed}", status_of_stages(stages), tags, stages))
    tags = {"study": record.name, "mae.stage": "study", "mae.study_id": directory.path.name}
    parent = Parent(directory, study_experiment(record.name), f"{record.name}: {record.base}", tags, children)
    return deliver_parent(parent, uri, runs_dir)


def deliver_sweep(directory: RunDirectory, uri: str, runs_dir: Path) -> bool:
    """Bring the store up to date with one sweep; say whether anything was undelivered. Raises as MLflow does."""
    if not (directory.path / "sweep.json").exists():  # it has just begun
        return False
    record = read_sweep(directory)
    children = [_sweep_child(record, trial, runs_dir) for trial in record.trials]
    tags = {"sweep": record.name, "mae.stage": "sweep", "sampler": record.sampler, "pruner": record.pruner}
    parent = Parent(directory, study_experiment(record.name), f"{record.name}: {record.base}", tags, children)
    return deliver_parent(parent, uri, runs_dir)


def _sweep_child(record: SweepRecord, trial: SweepTrial, runs_dir: Path) -> Child:
    tags = {"sweep": record.name, "trial": str(trial.number), "state": trial.state, "reused": str(trial.reused).lower()}
    if trial.reason:
        tags["mae.reason"] = trial.reason
    stages = []
    if trial.run:
        run = RunDirectory(runs_dir / trial.run)
        stages = run.stages(trial.probes.values())
        tags |= _origin(run)
    values = {
        f"objective/{objective.name}": value
        for objective, value in zip(record.objectives, trial.values or (), strict=False)
    }
    return Child(f"trial {trial.number}", SWEEP_STATES[trial.state], tags, stages, trial.params, values)


def _stage_statuses(probes: Iterable[str], stages: list[RunDirectory]) -> str:
    """Return how each stage stands, as JSON: {"pretrain": ["finished", ""], "knn": ["failed", "why"]}."""
    statuses = zip(("pretrain", *probes), map(status_of, stages), strict=True)
    return json.dumps(dict(statuses), ensure_ascii=False)


def _origin(run: RunDirectory) -> dict[str, str]:
    return {"mae.fingerprint": run.path.name, "mae.directory": str(run.path.resolve())}
