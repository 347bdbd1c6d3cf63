"""MLflow: how people look at runs. The run directory is the truth; this brings a server up to date with it.

`deliver` is idempotent: what a server has received is remembered in the directory, what it has not goes out with the
next call, nothing goes out twice. After a delivery that was cut off it asks the server what arrived; a store that was
emptied is filled again. `Tracker` has it called by another process while a stage works, so training never waits.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mae import courier
from mae.run_directory import Record, RunDirectory, find_runs, probes_of

NONE = "none"
"""The tracking URI that switches tracking off."""

EXPERIMENT = "mae"
EVERY = 5.0
"""Seconds between deliveries while a stage works."""

LAST_WAIT = 10.0
"""Most seconds that the last delivery may hold up the end of a stage."""

POINTS_PER_CALL = 100
PARAM_LENGTH = 6000
STATUSES = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED", "pruned": "KILLED"}


def default_uri(runs_dir: Path) -> str:
    """Return the SQLite store in the folder of all runs."""
    return f"sqlite:///{runs_dir.resolve()}/mlflow.db"


def without_secrets(uri: str) -> str:
    """Return a URI that may be printed: user and password are left out."""
    return re.sub(r"//[^/@]*@", "//", uri)


def first_line(error: Exception) -> str:
    """Return the start of an error's message, without secrets, or its type where it has none."""
    return without_secrets(str(error).splitlines()[0] if str(error) else type(error).__name__)


class Tracker:
    """Calls `send` every few seconds, and once more at the end; never raises, never blocks for long.

    `kept_in` is the directory that `send` delivers: where everything still is if the server at `uri` fails.
    """

    def __init__(
        self,
        send: Callable[[], object],
        uri: str,
        kept_in: Path,
        say: Callable[[str], None],
        last_wait: float | None = None,
    ):
        self.send, self.uri, self.kept_in, self.say = send, uri, kept_in, say
        self.last_wait = LAST_WAIT if last_wait is None else last_wait
        self.error = ""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def __enter__(self) -> "Tracker":
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join(self.last_wait)
        if self.thread.is_alive() or self.error:
            reason = self.error or "no answer"
            self.say(
                f"tracking at {without_secrets(self.uri)}: {reason}; all is kept in {self.kept_in} "
                "and goes out with the next command"
            )

    def _work(self) -> None:
        over = False
        while not over:
            over = self.ended.wait(EVERY)
            try:
                self.send()
                self.error = ""
            except Exception as error:  # whatever a server does, the run goes on
                self.error = first_line(error)


def deliver_all(runs_dir: Path, uri: str) -> int:
    """Bring every stage and study nobody works on up to date; return how many owed something. Raises as MLflow does."""
    _, experiment = connect(uri, runs_dir)
    count = 0
    for run in find_runs(runs_dir):
        for place in [run, *probes_of(run)]:
            if not place.is_locked() and receipt(place, uri, experiment).get("seen") != content_of(place):
                deliver(place, uri, runs_dir)
                count += 1
    from mae.study_tracking import deliver_studies  # which stands on this module

    return count + deliver_studies(runs_dir, uri)


@contextmanager
def delivering_what_is_owed(runs_dir: Path, uri: str) -> Iterator[None]:
    """Send what earlier commands could not, beside the block; a server that is still away is no error here."""

    def send() -> None:
        with suppress(Exception):  # it stays owed, and the stage at hand reports the server
            courier.ask("deliver_all", str(runs_dir), uri)

    thread = threading.Thread(target=send, name="owed", daemon=True)
    if uri != NONE:
        thread.start()
    try:
        yield
    finally:
        if uri != NONE:
            thread.join(LAST_WAIT)


def tracked(run: RunDirectory, uri: str, runs_dir: Path, say: Callable[[str], None]) -> AbstractContextManager[object]:
    """Return a `Tracker`, or a block that does nothing where tracking is switched off."""
    if uri == NONE:
        return nullcontext()
    return Tracker(lambda: courier.ask("deliver", str(run.path), uri, str(runs_dir)), uri, run.path, say)


def experiment_page(uri: str, runs_dir: Path, name: str = EXPERIMENT) -> str:
    """Return the fragment of the MLflow page that lists an experiment's runs, making it if there is none yet."""
    return f"#/experiments/{connect(uri, runs_dir, name)[1].experiment_id}/runs?workflowType=machine_learning"


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


def open_store(uri: str) -> Any:
    """Return a client that answers or fails within seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the next delivery is the retry
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table it makes
    return MlflowClient(tracking_uri=uri)


def connect(uri: str, runs_dir: Path, name: str = EXPERIMENT) -> tuple[Any, Any]:
    """Return a client and the experiment `name`, made if needed: by one process at a time, or a fresh store breaks."""
    with one_at_a_time(runs_dir):
        client = open_store(uri)
        if (experiment := client.get_experiment_by_name(name)) is not None:
            return client, experiment
        # Left alone, artifacts of a database store would land in whatever folder the command ran in.
        place = None if uri.startswith("http") else f"{runs_dir.resolve()}/mlflow-artifacts"
        return client, client.get_experiment(client.create_experiment(name, artifact_location=place))


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".mlflow.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run_exists(client: Any, run_id: str | None) -> bool:
    """Say whether the store has this run still: somebody may have deleted it."""
    from mlflow.exceptions import MlflowException

    try:
        return run_id is not None and client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _create(client: Any, experiment: Any, record: Record, run: RunDirectory, uri: str, runs_dir: Path) -> str:
    """Make the MLflow run, or find the one that a process killed at this very place has made."""
    found = client.search_runs([experiment.experiment_id], f"tags.`mae.stage_id` = '{_stage_id(run)}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags = {
        "mae.stage_id": _stage_id(run),
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

    from mae.config_sources import flatten

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
    return max((point.step for point in client.get_metric_history(run_id, "train/loss")), default=-1)


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


def _stage_id(run: RunDirectory) -> str:
    return hashlib.sha256(os.fsencode(run.path.resolve())).hexdigest()[:24]


def content_of(run: RunDirectory) -> dict[str, int]:
    """Return what tells whether a directory has changed since it was delivered; cheap."""
    names = ("record.json", "metrics.jsonl", "result.json")
    return {name: (run.path / name).stat().st_mtime_ns for name in names if (run.path / name).exists()}


def _state_name(uri: str) -> str:
    return f"tracking-{hashlib.sha256(uri.encode()).hexdigest()[:12]}.json"


def receipt(run: RunDirectory, uri: str, experiment: Any) -> dict[str, Any]:
    """Return what this store has received; nothing, if the receipt is of the store that was at `uri` before."""
    store = [experiment.experiment_id, experiment.creation_time]
    state: dict[str, Any] = run.read_json(_state_name(uri)) or {}
    return state if state.get("store") == store else {"store": store, "run_id": None}


def write_receipt(run: RunDirectory, uri: str, state: dict[str, Any]) -> None:
    run.write_json(_state_name(uri), state)


def printable(text: str) -> str:
    """MLflow raises on names that are not valid Unicode."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
