"""A study or sweep into an MLflow store: an experiment of its name, in it a run, nested in that a run per trial.

The run of the whole has the files of its directory as artifacts. A trial's run goes out once the trial has ended; until
then its stages can be watched in the experiment `mae`. It holds everything about the trial, so that two are compared
with two clicks: the curves and costs of the pretraining, and the results of all its probes. Like the delivery of a
stage, this can be cut off or repeated at any time; a run that was made while the answer got lost is found by its tags.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae.runs.directory import Record, RunDirectory, status_of
from mae.runs.locks_and_writes import one_at_a_time
from mae.runs.study_record import StudyRecord, TrialRecord, read_study
from mae.runs.sweep_record import SweepRecord, SweepTrial, read_sweep
from mae.tracking.cell_means import SUMMARY, send_cell_means
from mae.tracking.mlflow_store import connect, printable, read_experiment, study_experiment
from mae.tracking.stage_delivery import (
    STATUSES,
    Delivery,
    content_of,
    read_receipt,
    send_config,
    send_curves,
    send_result,
)

ARTIFACTS = (".json", ".csv", ".md", ".tex", ".toml", ".png", ".pdf")
ENDED = ("finished", "failed", "killed", "pruned")
SWEEP_STATES = {"complete": "finished", "pruned": "pruned", "failed": "failed", "running": "running"}


@dataclass(frozen=True)
class Trial:
    """Its stages' directories (pretraining first), how it stands, and what only the study or sweep knows of it."""

    name: str
    status: str
    tags: dict[str, str]
    stages: list[RunDirectory]
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """Return all that its delivery depends on."""
        stages = {str(run.path): content_of(run) for run in self.stages}
        return {"status": self.status, "stages": stages, "metrics": self.metrics}

    def seconds(self) -> float:
        """Return how long its stages were worked on, which MLflow is to show as its duration."""
        return sum(record.seconds for run in self.stages if (record := run.read_record()) is not None)


def deliver_study(directory: RunDirectory, uri: str, runs_dir: Path) -> bool:
    """Bring the store up to date with a study or sweep; say whether anything was undelivered. Raises as MLflow does."""
    if (read := _read(directory, runs_dir)) is None:
        return False
    record, tags, trials = read
    client, experiment = connect(uri, runs_dir, study_experiment(record.name))
    with one_at_a_time(directory.path):
        delivery, seen = Delivery(directory, uri, client, experiment), _content(directory, trials)
        if delivery.receipt.pop("seen", None) == seen:
            return False
        if not delivery.run_exists():
            delivery.make_run(f"{record.name}: {record.base}", tags)
        delivery.keep_receipt()
        for name, digest in seen["files"].items():  # before the trials: readers need the record of what they are
            if delivery.send_file(name, digest) and name == SUMMARY:
                send_cell_means(client, delivery.run_id, directory.path / name)
        for trial in trials:
            if trial.status in ENDED:
                _deliver_trial(delivery, trial)
        delivery.set_status(seen["status"])
        delivery.keep_receipt(seen=seen)
    return True


def is_delivered(directory: RunDirectory, uri: str, runs_dir: Path) -> bool:
    """Say whether `deliver_study` would find nothing to do, where that can be told without MLflow: not of a server."""
    if (read := _read(directory, runs_dir)) is None:
        return True
    record, _, trials = read
    store = read_experiment(uri, study_experiment(record.name))
    return store is not None and read_receipt(directory, uri, store).get("seen") == _content(directory, trials)


def _read(
    directory: RunDirectory, runs_dir: Path
) -> tuple[StudyRecord | SweepRecord, dict[str, str], list[Trial]] | None:
    """Return record, tags and trials of a study or sweep; None of one that has just begun."""
    if (directory.path / "study.json").exists():
        study = read_study(directory)
        tags = {"study": study.name, "mae.stage": "study", "mae.study_id": directory.path.name}
        return study, tags, [_study_trial(study, trial, runs_dir) for trial in study.trials]
    if (directory.path / "sweep.json").exists():
        sweep = read_sweep(directory)
        tags = {"sweep": sweep.name, "mae.stage": "sweep", "sampler": sweep.sampler, "pruner": sweep.pruner}
        return sweep, tags, [_sweep_trial(sweep, trial, runs_dir) for trial in sweep.trials]
    return None


def _content(directory: RunDirectory, trials: list[Trial]) -> dict[str, Any]:
    """Return all that a delivery depends on: trials, files, and how the whole stands."""
    statuses = {trial.status for trial in trials}
    if directory.is_locked():
        status = "RUNNING"
    elif "failed" in statuses:
        status = "FAILED"
    else:
        status = "FINISHED" if statuses <= {"finished", "pruned"} else "KILLED"
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.path.iterdir())
        if path.suffix in ARTIFACTS and not path.name.startswith("tracking-")
    }
    return {"status": status, "files": files, "trials": [trial.content() for trial in trials]}


def _study_trial(study: StudyRecord, trial: TrialRecord, runs_dir: Path) -> Trial:
    run = RunDirectory(runs_dir / trial.fingerprint)
    stages = run.stages(trial.probes.values())
    # How each stage stands, and why: {"pretrain": ["finished", ""], "knn": ["failed", "out of memory"]}
    statuses = dict(zip(("pretrain", *trial.probes), map(status_of, stages), strict=True))
    tags = {"study": study.name, "cell": trial.cell, "seed": str(trial.seed)} | _origin(run)
    tags["mae.stages"] = json.dumps(statuses, ensure_ascii=False)
    return Trial(f"{trial.cell}, seed {trial.seed}", _whole([status for status, _ in statuses.values()]), tags, stages)


def _whole(statuses: list[str]) -> str:
    """Return `failed` if a stage failed, `finished` if all are, else what the first unfinished one is."""
    if "failed" in statuses:
        return "failed"
    return next((status for status in statuses if status != "finished"), "finished")


def _sweep_trial(sweep: SweepRecord, trial: SweepTrial, runs_dir: Path) -> Trial:
    tags = {"sweep": sweep.name, "trial": str(trial.number), "state": trial.state, "reused": str(trial.reused).lower()}
    if trial.reason:
        tags["mae.reason"] = trial.reason
    stages = []
    if trial.run:
        run = RunDirectory(runs_dir / trial.run)
        stages = run.stages(trial.probes.values())
        tags |= _origin(run)
    names = [f"objective/{objective.name}" for objective in sweep.objectives]
    values = dict(zip(names, trial.values or (), strict=False))
    return Trial(f"trial {trial.number}", SWEEP_STATES[trial.state], tags, stages, trial.params, values)


def _origin(run: RunDirectory) -> dict[str, str]:
    return {"mae.fingerprint": run.path.name, "mae.directory": str(run.path.resolve())}


def _deliver_trial(delivery: Delivery, trial: Trial) -> None:
    """Send what has ended since the last time: complete the run that was cut off or make one, remove earlier ones."""
    client, content, arrived = delivery.client, trial.content(), delivery.receipt.setdefault("children", {})
    if arrived.get(trial.name) == content:
        return
    record = trial.stages[0].read_record() if trial.stages else None
    began = int(record.started * 1000) if record else None
    tags = _tags(trial, record, delivery.run_id, content)
    experiment, same_trial = delivery.experiment.experiment_id, f"tags.`mae.trial_id` = '{tags['mae.trial_id']}'"
    found = {run.info.run_id: run.data.tags["mae.content"] for run in client.search_runs([experiment], same_trial)}
    run_id = next((run for run, known in found.items() if known == tags["mae.content"]), None)
    if run_id is None:
        run_id = client.create_run(experiment, began, tags, run_name=printable(trial.name)).info.run_id
    _send_trial(client, run_id, trial, record)
    client.set_terminated(run_id, STATUSES[trial.status], began and began + int(1000 * trial.seconds()))
    for other in found.keys() - {run_id}:
        client.delete_run(other)
    arrived[trial.name] = content
    delivery.keep_receipt()


def _tags(trial: Trial, record: Record | None, parent: str, content: dict[str, Any]) -> dict[str, str]:
    tags = (record.tags if record else {}) | {"mlflow.parentRunId": parent, "mae.stage": "trial"} | trial.tags
    tags |= {"mae.trial_id": _digest([parent, trial.name]), "mae.content": _digest(content)}
    if "mae.reason" not in tags and (reasons := [reason for run in trial.stages if (reason := status_of(run)[1])]):
        tags["mae.reason"] = reasons[0]
    return {name: printable(value) for name, value in tags.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def _send_trial(client: Any, run_id: str, trial: Trial, record: Record | None) -> None:
    """Send all that it has measured; what has arrived already stays once, as equal points and parameters do."""
    from mlflow.entities import Metric, Param

    pretraining, probes = trial.stages[:1], trial.stages[1:]
    if record is not None:
        send_config(client, run_id, trial.stages[0], record)
    else:
        client.log_batch(run_id, params=[Param(key, printable(str(value))) for key, value in trial.params.items()])
    client.log_batch(run_id, metrics=[Metric(name, value, 0, 0) for name, value in trial.metrics.items()])
    for run in [*probes, *pretraining]:  # accuracy first: MLflow's compare page opens with what came first
        if run.result() is not None:
            send_result(client, run_id, run)
    for run in pretraining:
        for _ in send_curves(client, run_id, run):
            pass
