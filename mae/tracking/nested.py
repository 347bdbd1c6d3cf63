"""Many trials in MLflow: a parent run with artifacts, and nested in it a run per trial that has ended.

Such a run holds everything about its trial, so that two are compared with two clicks: the curves and costs of the
pretraining, and the results of all its probes. Like the delivery of a stage, this can be cut off or repeated at any
time; the same work continued goes on with the same parent. A run that was made while the answer got lost is found again
by its tags.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mae.runs.directory import RunDirectory, one_at_a_time, status_of
from mae.tracking.stages import STATUSES, describe, send_curves, send_result, stage_id
from mae.tracking.store import connect, content_of, printable, receipt, run_exists, write_receipt
from mae.tracking.summary import SUMMARY, send_summary

ENDED = ("finished", "failed", "killed", "pruned")
ARTIFACTS = (".json", ".csv", ".md", ".tex", ".toml", ".png", ".pdf")


@dataclass(frozen=True)
class Child:
    """One trial: its stages' directories (pretraining first), how it stands, and what only the parent knows of it."""

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


@dataclass(frozen=True)
class Parent:
    """A directory with artifacts and its trials; the directory is locked while somebody works on it."""

    directory: RunDirectory
    experiment: str
    name: str
    tags: dict[str, str]
    children: list[Child]


def deliver_parent(parent: Parent, uri: str, runs_dir: Path) -> bool:
    """Bring the store up to date with a parent and its children; say whether anything was undelivered.

    Raises as MLflow does. A trial goes out once it has ended; until then its stages can be watched in the experiment
    `mae`.
    """
    directory = parent.directory
    client, experiment = connect(uri, runs_dir, parent.experiment)
    with one_at_a_time(directory.path):
        state = receipt(directory, uri, experiment)
        seen = _content(parent)
        if state.pop("seen", None) == seen:
            return False
        if not run_exists(client, state["run_id"]):
            state |= {"run_id": _parent_run(client, experiment, parent), "children": {}, "sent": {}}
        write_receipt(directory, uri, state)
        for name, digest in seen["files"].items():  # before the trials: readers need the record of what they are
            if state["sent"].get(name) != digest:
                client.log_artifact(state["run_id"], str(directory.path / name))
                if name == SUMMARY:
                    send_summary(client, state["run_id"], directory.path / name)
                state["sent"][name] = digest
        for child in parent.children:
            if child.status in ENDED and state["children"].get(child.name, {}).get("content") != child.content():
                _deliver_child(client, experiment, child, state, partial(write_receipt, directory, uri, state))
        if seen["status"] == "RUNNING":
            client.update_run(state["run_id"], status="RUNNING")
        else:
            client.set_terminated(state["run_id"], seen["status"])
        write_receipt(directory, uri, state | {"seen": seen})
    return True


def status_of_stages(stages: list[RunDirectory]) -> str:
    """Return `failed` if a stage failed, `finished` if all are, else what the first unfinished one is."""
    statuses = [status_of(run)[0] for run in stages]
    if "failed" in statuses:
        return "failed"
    return next((status for status in statuses if status != "finished"), "finished")


def _parent_run(client: Any, experiment: Any, parent: Parent) -> str:
    """Make the parent's run, or find the one that a delivery cut off at this very place has made."""
    identity = stage_id(parent.directory)
    found = client.search_runs([experiment.experiment_id], f"tags.`mae.stage_id` = '{identity}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags = parent.tags | {"mae.stage_id": identity, "mae.directory": printable(str(parent.directory.path.resolve()))}
    made = client.create_run(experiment.experiment_id, tags=tags, run_name=printable(parent.name))
    return str(made.info.run_id)


def _deliver_child(
    client: Any, experiment: Any, child: Child, state: dict[str, Any], keep_receipt: Callable[[], None]
) -> None:
    """Send a trial that has ended since the last time: complete the run that was cut off or make one, remove others."""
    content = child.content()
    tags, began = _tags(child, state["run_id"], content)
    known = state["children"].get(child.name, {}).get("run_id")
    same_trial = f"tags.`mae.trial_id` = '{tags['mae.trial_id']}'"
    found = {str(run.info.run_id): run.data.tags for run in client.search_runs([experiment.experiment_id], same_trial)}
    run_id = next((run for run in found if found[run]["mae.content"] == tags["mae.content"]), None)
    if run_id is None:
        made = client.create_run(experiment.experiment_id, began, tags, run_name=printable(child.name))
        run_id = str(made.info.run_id)
    state["children"][child.name] = {"run_id": run_id}
    keep_receipt()
    _fill(client, run_id, child)
    client.set_terminated(run_id, STATUSES[child.status], began and began + int(1000 * child.seconds()))
    for other in {*found, known} - {run_id}:
        if run_exists(client, other):
            client.delete_run(other)
    state["children"][child.name]["content"] = content
    keep_receipt()


def _tags(child: Child, parent_id: str, content: dict[str, Any]) -> tuple[dict[str, str], int | None]:
    """Return the tags of a trial's run, and when it began, in milliseconds since the epoch."""
    stage = child.stages[0].read_record() if child.stages else None
    tags = (stage.tags if stage else {}) | {"mlflow.parentRunId": parent_id, "mae.stage": "trial"} | child.tags
    tags |= {"mae.trial_id": _digest([parent_id, child.name]), "mae.content": _digest(content)}
    if "mae.reason" not in tags and (reasons := [reason for run in child.stages if (reason := status_of(run)[1])]):
        tags["mae.reason"] = reasons[0]
    return {name: printable(value) for name, value in tags.items()}, int(stage.started * 1000) if stage else None


def _fill(client: Any, run_id: str, child: Child) -> None:
    """Send all that a trial has measured; what has arrived already stays once, as equal points and parameters do."""
    from mlflow.entities import Metric, Param

    stage = child.stages[0].read_record() if child.stages else None
    if stage is not None:
        describe(client, run_id, stage, child.stages[0])
    else:
        client.log_batch(run_id, params=[Param(key, printable(str(value))) for key, value in child.params.items()])
    client.log_batch(run_id, metrics=[Metric(name, value, 0, 0) for name, value in child.metrics.items()])
    pretraining, probes = child.stages[:1], child.stages[1:]
    for run in [*probes, *pretraining]:  # accuracy first: MLflow's compare page opens with what came first
        if run.result() is not None:
            send_result(client, run, run_id)
    for run in pretraining:
        for _ in send_curves(client, run, run_id):
            pass


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def _content(parent: Parent) -> dict[str, Any]:
    """Return all that a delivery depends on: trials, files, and how the whole stands."""
    statuses = {child.status for child in parent.children}
    if parent.directory.is_locked():
        status = "RUNNING"
    elif "failed" in statuses:
        status = "FAILED"
    else:
        status = "FINISHED" if statuses <= {"finished", "pruned"} else "KILLED"
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(parent.directory.path.iterdir())
        if path.suffix in ARTIFACTS and not path.name.startswith("tracking-")
    }
    return {"status": status, "files": files, "trials": [child.content() for child in parent.children]}
