"""Many trials in MLflow: a parent run with artifacts, and nested in it a run per trial that has ended.

Such a run holds everything about its trial, so that two are compared with two clicks: the curves and costs of the
pretraining, and the results of all its probes. Like the delivery of a stage, this can be cut off or repeated at any
time; the same work continued goes on with the same parent.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae.mlflow_store import connect, content_of, printable, receipt, run_exists, write_receipt
from mae.run_directory import RunDirectory, one_at_a_time, status_of
from mae.stage_delivery import STATUSES, describe, send_curves, send_result

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
    """Bring the store up to date with a parent and its children; say whether it owed something. Raises as MLflow does.

    A trial goes out once it has ended; until then its stages can be watched in the experiment `mae`.
    """
    directory = parent.directory
    client, experiment = connect(uri, runs_dir, parent.experiment)
    with one_at_a_time(directory.path):
        state = receipt(directory, uri, experiment)
        seen = _content(parent)
        if state.get("seen") == seen:
            return False
        if not run_exists(client, state["run_id"]):
            tags = parent.tags | {"mae.directory": printable(str(directory.path.resolve()))}
            made = client.create_run(experiment.experiment_id, tags=tags, run_name=printable(parent.name))
            state |= {"run_id": str(made.info.run_id), "children": {}, "sent": {}}
        for child in parent.children:
            _deliver_child(client, experiment, child, state)
            write_receipt(directory, uri, state)
        for name, digest in seen["files"].items():
            if state["sent"].get(name) != digest:
                client.log_artifact(state["run_id"], str(directory.path / name))
                state["sent"][name] = digest
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


def _deliver_child(client: Any, experiment: Any, child: Child, state: dict[str, Any]) -> None:
    """Send a trial that has ended since the last time; what an interrupted or earlier delivery left is replaced."""
    from mlflow.entities import Metric, Param

    content, known = child.content(), state["children"].get(child.name, {})
    if child.status not in ENDED or known.get("content") == content:
        return
    if run_exists(client, known.get("run_id")):
        client.delete_run(known["run_id"])
    stage = child.stages[0].read_record() if child.stages else None
    tags = (stage.tags if stage else {}) | {"mlflow.parentRunId": state["run_id"], "mae.stage": "trial"} | child.tags
    tags = {name: printable(value) for name, value in tags.items()}
    name, began = printable(child.name), int(stage.started * 1000) if stage else None
    run_id = str(client.create_run(experiment.experiment_id, began, tags, run_name=name).info.run_id)
    state["children"][child.name] = {"run_id": run_id}
    if stage is not None:
        describe(client, run_id, stage, child.stages[0])
    else:
        client.log_batch(run_id, params=[Param(key, printable(str(value))) for key, value in child.params.items()])
    client.log_batch(run_id, metrics=[Metric(name, value, 0, 0) for name, value in child.metrics.items()])
    pretraining, probes = child.stages[:1], child.stages[1:]
    for run in [*probes, *pretraining]:  # accuracy first: MLflow's compare page opens with what came first
        if run.result() is not None:
            send_result(client, run, run_id)
        if "mae.reason" not in tags and (reason := status_of(run)[1]):
            client.set_tag(run_id, "mae.reason", printable(reason))
    for run in pretraining:
        for _ in send_curves(client, run, run_id):
            pass
    client.set_terminated(run_id, STATUSES[child.status], began and began + int(1000 * child.seconds()))
    state["children"][child.name]["content"] = content


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
