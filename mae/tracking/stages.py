"""One stage, a pretraining or a probe, into an MLflow store.

`deliver` is idempotent: what a server has received is remembered in the directory, what it has not goes out with the
next call, nothing goes out twice. After a delivery that was cut off it asks the server what arrived; a store that was
emptied is filled again.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mae.runs.directory import Record, RunDirectory, one_at_a_time
from mae.runs.metrics import LOSS
from mae.tracking.store import connect, content_of, printable, receipt, run_exists, write_receipt

POINTS_PER_CALL = 100
PARAM_LENGTH = 6000
STATUSES = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED", "pruned": "KILLED"}


def deliver(run: RunDirectory, uri: str, runs_dir: Path) -> str:
    """Bring the store at `uri` up to date with one directory; return its MLflow run id. Raises what MLflow raises."""
    client, experiment = connect(uri, runs_dir)
    with one_at_a_time(run.path):  # a stage's own thread and another command may come together
        record, seen, state = run.read_record(), content_of(run), receipt(run, uri, experiment)
        if record is None:
            return ""
        if state.pop("seen", None) is None:  # new, or cut off: only the store knows what it has
            if not run_exists(client, state["run_id"]):
                state |= {
                    "run_id": _create(client, experiment, record, run, uri, runs_dir),
                    "sent": {},
                    "result": False,
                }
            describe(client, state["run_id"], record, run)
            state["step"] = _last_step(client, state["run_id"])
        write_receipt(run, uri, state)
        _send_points(client, run, uri, state)
        _send_result(client, run, state)
        _send_files(client, run, state)
        _send_status(client, run, record, state["run_id"])
        write_receipt(run, uri, state | {"seen": seen})
    return str(state["run_id"])


def _create(client: Any, experiment: Any, record: Record, run: RunDirectory, uri: str, runs_dir: Path) -> str:
    """Make the MLflow run, or find the one that a process killed at this very place has made."""
    found = client.search_runs([experiment.experiment_id], f"tags.`mae.stage_id` = '{stage_id(run)}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags = {
        "mae.stage_id": stage_id(run),
        "mae.stage": record.stage,
        "mae.fingerprint": record.fingerprint,
        "mae.data_digest": str(record.data.get("digest", "")),
        "mae.directory": printable(str(run.path.resolve())),
        **{name: printable(value) for name, value in record.tags.items()},
    }
    if record.parent is not None:
        tags |= {"mlflow.parentRunId": deliver(RunDirectory(run.path.parent.parent), uri, runs_dir)}
    started = int(record.started * 1000)
    made = client.create_run(experiment.experiment_id, started, tags, run_name=printable(record.name))
    return str(made.info.run_id)


def describe(client: Any, run_id: str, record: Record, run: RunDirectory) -> None:
    """Send a stage's config and data, but no parameter twice: MLflow refuses to change one, and `run.*` may change."""
    import tomllib

    from mlflow.entities import Dataset, DatasetInput, Param

    from mae.config.resolve import flatten

    config = flatten(tomllib.loads((run.path / "config.toml").read_text(encoding="utf-8")))
    known = client.get_run(run_id).data.params
    params = [Param(key, printable(str(value))[:PARAM_LENGTH]) for key, value in config.items() if key not in known]
    client.log_batch(run_id, params=params)
    source, digest = printable(str(record.data.get("source", ""))), str(record.data.get("digest", ""))
    if digest:
        data = Dataset(source[-500:], digest[:36], "local", json.dumps({"uri": source}), None, json.dumps(record.data))
        client.log_inputs(run_id, [DatasetInput(data)])


def _last_step(client: Any, run_id: str) -> int:
    """Return the last step the server has, -1 if none: what it got before its receipt was written here."""
    return max((point.step for point in client.get_metric_history(run_id, LOSS)), default=-1)


def _send_points(client: Any, run: RunDirectory, uri: str, state: dict[str, Any]) -> None:
    for last in send_curves(client, run, state["run_id"], after=state["step"]):
        state["step"] = last
        write_receipt(run, uri, state)


def send_curves(client: Any, run: RunDirectory, run_id: str, after: int = -1) -> Iterator[int]:
    """Send the points past step `after` in batches; yield the last step of each batch that has arrived."""
    from mlflow.entities import Metric

    points = [point for point in run.read_metrics() if point["step"] > after]
    for first in range(0, len(points), POINTS_PER_CALL):
        part = points[first : first + POINTS_PER_CALL]
        metrics = [
            Metric(name, value, int(point["time"] * 1000), point["step"])
            for point in part
            for name, value in point["metrics"].items()
        ]
        client.log_batch(run_id, metrics=metrics)
        yield part[-1]["step"]


def _send_result(client: Any, run: RunDirectory, state: dict[str, Any]) -> None:
    if run.result() is not None and not state["result"]:
        send_result(client, run, state["run_id"])
        state["result"] = True


def send_result(client: Any, run: RunDirectory, run_id: str) -> None:
    """Send the metrics of a finished stage's result."""
    from mlflow.entities import Metric

    # The same time at each attempt: a store keeps equal points once.
    changed = int((run.path / "result.json").stat().st_mtime * 1000)
    metrics = [Metric(name, value, changed, 0) for name, value in run.result()["metrics"].items()]
    client.log_batch(run_id, metrics=metrics)


def _send_files(client: Any, run: RunDirectory, state: dict[str, Any]) -> None:
    names = ["config.toml", "environment.json", "result.json"]
    files = [run.path / name for name in names if (run.path / name).exists()] + sorted(run.pictures.glob("*.png"))
    for file in files:
        name, changed = str(file.relative_to(run.path)), file.stat().st_mtime_ns
        if state["sent"].get(name) != changed:
            client.log_artifact(state["run_id"], str(file), "pictures" if file.parent == run.pictures else None)
            state["sent"][name] = changed


def _send_status(client: Any, run: RunDirectory, record: Record, run_id: str) -> None:
    """A stage that says it runs while nobody holds its lock was killed."""
    orphaned = record.status == "running" and not run.is_locked()
    status = "KILLED" if orphaned else STATUSES[record.status]
    if reason := "its process died" if orphaned else record.reason:
        client.set_tag(run_id, "mae.reason", printable(reason))
    if status == "RUNNING":
        client.update_run(run_id, status=status)
    else:
        client.set_terminated(run_id, status, int(record.ended * 1000) if record.ended else None)


def stage_id(run: RunDirectory) -> str:
    """Return what a directory's run is found by in a store: a tag that is safe in a query, whatever the path is."""
    return hashlib.sha256(os.fsencode(run.path.resolve())).hexdigest()[:24]
