"""One stage, a pretraining or a probe, into an MLflow store.

`deliver_stage` is idempotent: what a server has received is remembered in the directory, what it has not goes out with
the next call, nothing goes out twice. After a delivery that was cut off it asks the server what arrived; a store that
was emptied is filled again.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mae.runs.directory import Damaged, Record, RunDirectory
from mae.runs.locks_and_writes import one_at_a_time
from mae.runs.metrics import LOSS
from mae.runs.notes import FILE as NOTES
from mae.runs.notes import read_notes
from mae.tracking.mlflow_store import connect, printable

POINTS_PER_CALL = 100
PARAM_LENGTH = 6000

STATUSES = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED", "pruned": "KILLED"}
"""What MLflow calls how a stage or trial stands."""


def read_receipt(directory: RunDirectory, uri: str, store: list[Any]) -> dict[str, Any]:
    """Return the receipt of the store at `uri` whose experiment has this id and creation time, or a new one."""
    known: dict[str, Any] = {}
    with suppress(Damaged):  # all of it is sent once more
        known = directory.read_json(_receipt_name(uri)) or {}
    return known if known.get("store") == store else {"store": store, "run_id": None}


def _receipt_name(uri: str) -> str:
    return f"tracking-{hashlib.sha256(uri.encode()).hexdigest()[:12]}.json"


class Delivery:
    """A directory's MLflow run, and the receipt of what the store has of it, which is kept in the directory.

    A receipt has `run_id`, `sent` (the files that have arrived, with their versions), `status` as it was told, `seen`
    (the content of the directory, if all of it has arrived), and what a stage or a study remembers besides. One of the
    store that was at `uri` before says nothing.
    """

    def __init__(self, directory: RunDirectory, uri: str, client: Any, experiment: Any) -> None:
        self.directory, self.client, self.experiment = directory, client, experiment
        self.name = _receipt_name(uri)
        self.receipt = read_receipt(directory, uri, [experiment.experiment_id, experiment.creation_time])

    @property
    def run_id(self) -> str:
        """The MLflow run's, once it is made."""
        return str(self.receipt["run_id"])

    def keep_receipt(self, **more: Any) -> None:
        """Write the receipt, with `more` in it, to the directory."""
        self.directory.write_json(self.name, self.receipt | more)

    def run_exists(self) -> bool:
        """Say whether the store has this run still: somebody may have deleted it."""
        from mlflow.exceptions import MlflowException

        try:
            run_id = self.receipt["run_id"]
            return run_id is not None and self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def make_run(self, name: str, tags: dict[str, str], started: int | None = None) -> None:
        """Make the MLflow run, or find the one that a delivery cut off at this very place has made.

        `started` is in milliseconds since the epoch.
        """
        path = self.directory.path.resolve()
        identity = hashlib.sha256(os.fsencode(path)).hexdigest()[:24]  # safe in a query, whatever the path is
        experiment = self.experiment.experiment_id
        found = self.client.search_runs([experiment], f"tags.`mae.stage_id` = '{identity}'", max_results=1)
        if not found:
            tags = {"mae.stage_id": identity, "mae.directory": str(path), **tags}
            tags = {key: printable(value) for key, value in tags.items()}
            found = [self.client.create_run(experiment, started, tags, run_name=printable(name))]
        self.receipt = {"store": self.receipt["store"], "run_id": str(found[0].info.run_id), "sent": {}}

    def send_file(self, name: str, version: int | str, folder: str | None = None) -> bool:
        """Send a file of the directory as an artifact; say False if this version of it has arrived before."""
        if self.receipt["sent"].get(name) == version:
            return False
        self.client.log_artifact(self.run_id, str(self.directory.path / name), folder)
        self.receipt["sent"][name] = version
        return True

    def set_status(self, status: str, ended: int | None = None) -> None:
        """Say how the run stands, as MLflow calls it, and when it ended, in milliseconds since the epoch."""
        if status == "RUNNING":
            self.client.update_run(self.run_id, status=status)
        else:
            self.client.set_terminated(self.run_id, status, ended)
        self.receipt["status"] = status


def deliver_stage(run: RunDirectory, uri: str, runs_dir: Path) -> str:
    """Bring the store at `uri` up to date with one directory; return its MLflow run id. Raises what MLflow raises."""
    client, experiment = connect(uri, runs_dir)
    with one_at_a_time(run.path):  # the process beside the stage and another command may come together
        delivery, seen, record = Delivery(run, uri, client, experiment), content_of(run), run.read_record()
        if record is None:
            return ""
        if delivery.receipt.pop("seen", None) is None:  # new, or cut off: only the store knows what it has
            if not delivery.run_exists():
                tags = _tags(run, record, uri, runs_dir)
                delivery.make_run(record.name, tags, int(record.started * 1000))
            send_config(client, delivery.run_id, run, record)
            delivery.receipt["step"] = _last_step(client, delivery.run_id)
        delivery.keep_receipt()
        for last in send_curves(client, delivery.run_id, run, after=delivery.receipt["step"]):
            delivery.receipt["step"] = last
            delivery.keep_receipt()
        if run.result() is not None and not delivery.receipt.get("result"):
            send_result(client, delivery.run_id, run)
            delivery.receipt["result"] = True
        _send_files(delivery, run)
        _send_notes(delivery, run, record)
        _send_status(delivery, run, record)
        delivery.keep_receipt(seen=seen)
        return delivery.run_id


def content_of(run: RunDirectory) -> dict[str, int]:
    """Return what tells whether a stage's directory has changed since it was delivered; cheap."""
    names = ("record.json", "metrics.jsonl", "result.json", NOTES)
    return {name: (run.path / name).stat().st_mtime_ns for name in names if (run.path / name).exists()}


def _tags(run: RunDirectory, record: Record, uri: str, runs_dir: Path) -> dict[str, str]:
    tags = {
        "mae.stage": record.stage,
        "mae.fingerprint": record.fingerprint,
        "mae.data_digest": str(record.data.get("digest", "")),
        **record.tags,
    }
    if record.parent is not None:
        tags["mlflow.parentRunId"] = deliver_stage(RunDirectory(run.path.parent.parent), uri, runs_dir)
    return tags


def send_config(client: Any, run_id: str, run: RunDirectory, record: Record) -> None:
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


def send_curves(client: Any, run_id: str, run: RunDirectory, after: int = -1) -> Iterator[int]:
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


def send_result(client: Any, run_id: str, run: RunDirectory) -> None:
    """Send the metrics of a finished stage's result."""
    from mlflow.entities import Metric

    # The same time at each attempt: a store keeps equal points once.
    changed = int((run.path / "result.json").stat().st_mtime * 1000)
    metrics = [Metric(name, value, changed, 0) for name, value in run.result()["metrics"].items()]
    client.log_batch(run_id, metrics=metrics)


def _send_files(delivery: Delivery, run: RunDirectory) -> None:
    names = ["config.toml", "environment.json", "result.json"]
    files = [run.path / name for name in names if (run.path / name).exists()] + sorted(run.pictures.glob("*.png"))
    for file in files:
        folder = "pictures" if file.parent == run.pictures else None
        delivery.send_file(str(file.relative_to(run.path)), file.stat().st_mtime_ns, folder)


def _send_notes(delivery: Delivery, run: RunDirectory, record: Record) -> None:
    """Send what people say of a run, where MLflow's page shows it: as its name, its description and a tag."""
    if (version := content_of(run).get(NOTES)) == delivery.receipt.get("notes"):
        return
    notes = read_notes(run)
    tags = {"mlflow.runName": notes.name or record.name, "mlflow.note.content": notes.note}
    for key, value in (tags | {"mae.tags": ", ".join(notes.tags)}).items():
        delivery.client.set_tag(delivery.run_id, key, printable(value))
    delivery.receipt["notes"] = version


def _send_status(delivery: Delivery, run: RunDirectory, record: Record) -> None:
    """A stage that says it runs while nobody holds its lock was killed."""
    orphaned = record.status == "running" and not run.is_locked()
    if reason := "its process died" if orphaned else record.reason:
        delivery.client.set_tag(delivery.run_id, "mae.reason", printable(reason))
    status = "KILLED" if orphaned else STATUSES[record.status]
    delivery.set_status(status, int(record.ended * 1000) if record.ended else None)
