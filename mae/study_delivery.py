"""Studies and sweeps in MLflow: an experiment each, in it a run per study or sweep, nested in that a run per trial."""

import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlencode

from mae.errors import UserError
from mae.mlflow_store import EXPERIMENT, open_store
from mae.nested_delivery import Child, Parent, deliver_parent, status_of_stages
from mae.run_directory import RunDirectory, status_of
from mae.study_record import find_studies, read_study
from mae.sweep_record import SweepRecord, SweepTrial, find_sweeps, read_sweep

COMPARED = 100
"""Most trials in a link: a browser's address has an end, and so has what fits on a page."""

SWEEP_STATES = {"complete": "finished", "pruned": "pruned", "failed": "failed", "running": "running"}


def study_experiment(name: str) -> str:
    """Return the name of the experiment that the runs of a study or sweep are in."""
    return f"{EXPERIMENT}/{name}"


def study_page(uri: str, study: str) -> str:
    """Return the fragment of the MLflow page that compares the trials of a study's newest run.

    `study` is its name or its folder's; `UserError` if the store has no such study, or fewer than two trials of it.
    """
    client = open_store(uri)
    experiments = [each for each in client.search_experiments() if each.name.startswith(study_experiment(""))]
    identifiers = [each.experiment_id for each in experiments]
    parents = client.search_runs(identifiers, "tags.`mae.stage` = 'study'") if identifiers else []
    names = {run.info.run_id: (run.data.tags["study"], run.data.tags.get("mae.study_id")) for run in parents}
    parent = next((run for run in parents if study in names[run.info.run_id]), None)
    if parent is None:
        known = ", ".join(dict.fromkeys(name for name, _ in names.values())) or "none"
        raise UserError(f"--study {study}: MLflow has no such study; it has: {known}")
    child_of = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = client.search_runs([parent.info.experiment_id], child_of, order_by=["attributes.start_time ASC"])
    if len(children) < 2:
        raise UserError(
            f"--study {study}: {len(children)} of its trainings have ended; there is nothing to compare yet"
        )
    runs = json.dumps([run.info.run_id for run in children[:COMPARED]])
    experiment = json.dumps([parent.info.experiment_id])
    return f"#/compare-runs?{urlencode({'runs': runs, 'experiments': experiment, 'workflowType': 'machine_learning'})}"


def deliver_studies(runs_dir: Path, uri: str) -> int:
    """Bring every study and sweep nobody works on up to date; return how many owed something. Raises as MLflow does."""
    owed = [(deliver_study, directory) for directory, _ in find_studies(runs_dir)]
    owed += [(deliver_sweep, directory) for directory in find_sweeps(runs_dir)]
    return sum(deliver(directory, uri, runs_dir) for deliver, directory in owed if not directory.is_locked())


def deliver_study(directory: RunDirectory, uri: str, runs_dir: Path) -> bool:
    """Bring the store up to date with one study; say whether it owed something. Raises as MLflow does."""
    record = read_study(directory)
    children = []
    for trial in record.trials:
        run = RunDirectory(runs_dir / trial.fingerprint)
        stages = [run, *map(run.probe, trial.probes.values())]
        tags = {"study": record.name, "cell": trial.cell, "seed": str(trial.seed)} | _origin(run)
        tags["mae.stages"] = _stage_statuses(trial.probes, stages)
        children.append(Child(f"{trial.cell}, seed {trial.seed}", status_of_stages(stages), tags, stages))
    tags = {"study": record.name, "mae.stage": "study", "mae.study_id": directory.path.name}
    parent = Parent(directory, study_experiment(record.name), f"{record.name}: {record.base}", tags, children)
    return deliver_parent(parent, uri, runs_dir)


def deliver_sweep(directory: RunDirectory, uri: str, runs_dir: Path) -> bool:
    """Bring the store up to date with one sweep; say whether it owed something. Raises as MLflow does."""
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
        stages = [run, *map(run.probe, trial.probes.values())]
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
