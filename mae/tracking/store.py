"""The MLflow store: connecting to it, and what a directory remembers of having been delivered there."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae.runs.directory import RunDirectory, one_at_a_time
from mae.runs.metrics import ONLINE

NONE = "none"
"""The tracking URI that switches tracking off."""

EXPERIMENT = "mae"
"""The experiment of all stages; also the name of the view that links open."""

STAGE_COLUMNS = (
    f"metrics.`{ONLINE}`",
    "metrics.`train/final_loss`",
    "params.`data.source`",
    "params.`train.epochs`",
    "params.`mask.ratio`",
)


def default_uri(runs_dir: Path) -> str:
    """Return the SQLite store in the folder of all runs."""
    return f"sqlite:///{runs_dir.resolve()}/mlflow.db"


def without_secrets(uri: str) -> str:
    """Return a URI that may be printed: user and password are left out."""
    return re.sub(r"//[^/@]*@", "//", uri)


def first_line(error: Exception) -> str:
    """Return the start of an error's message, without secrets, or its type where it has none."""
    return without_secrets(str(error).splitlines()[0] if str(error) else type(error).__name__)


def printable(text: str) -> str:
    """MLflow raises on names that are not valid Unicode."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


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


def run_exists(client: Any, run_id: str | None) -> bool:
    """Say whether the store has this run still: somebody may have deleted it."""
    from mlflow.exceptions import MlflowException

    try:
        return run_id is not None and client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def experiment_page(uri: str, runs_dir: Path) -> str:
    """Return the fragment of the MLflow page that lists all pretrainings and probes."""
    client, experiment = connect(uri, runs_dir)
    return table_page(client, experiment.experiment_id, STAGE_COLUMNS)


def table_page(client: Any, experiment_id: str, columns: Sequence[str], search: str = "", best: str = "") -> str:
    """Return the fragment of the MLflow page that lists runs of an experiment with these columns, the `best` first.

    The view is kept as a tag of the experiment, as the page's own button for sharing one does.
    """
    view: dict[str, Any] = {"selectedColumns": list(columns), "searchFilter": search}
    view |= {"orderByKey": best, "orderByAsc": False} if best else {}
    client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{EXPERIMENT}", json.dumps(view))
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={EXPERIMENT}&workflowType=machine_learning"


def content_of(run: RunDirectory) -> dict[str, int]:
    """Return what tells whether a directory has changed since it was delivered; cheap."""
    names = ("record.json", "metrics.jsonl", "result.json")
    return {name: (run.path / name).stat().st_mtime_ns for name in names if (run.path / name).exists()}


def receipt(run: RunDirectory, uri: str, experiment: Any) -> dict[str, Any]:
    """Return what this store has received; nothing, if the receipt is of the store that was at `uri` before."""
    store = [experiment.experiment_id, experiment.creation_time]
    state: dict[str, Any] = run.read_json(_state_name(uri)) or {}
    return state if state.get("store") == store else {"store": store, "run_id": None}


def write_receipt(run: RunDirectory, uri: str, state: dict[str, Any]) -> None:
    run.write_json(_state_name(uri), state)


def _state_name(uri: str) -> str:
    return f"tracking-{hashlib.sha256(uri.encode()).hexdigest()[:12]}.json"
