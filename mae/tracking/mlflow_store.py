"""The MLflow store: connecting to it, and links to its pages."""

import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from mae.errors import UserError, first_line, without_secrets
from mae.probing.kinds import PROBES
from mae.runs.locks_and_writes import one_at_a_time
from mae.runs.metrics import FINAL_LOSS, ONLINE, top1

NONE = "none"
"""The tracking URI that switches tracking off."""

EXPERIMENT = "mae"
"""The experiment of all stages; also the name of the view that links open."""

STAGE_COLUMNS = (
    f"metrics.`{ONLINE}`",
    f"metrics.`{FINAL_LOSS}`",
    "params.`data.source`",
    "params.`train.epochs`",
    "params.`mask.ratio`",
)

TOLD = {"study": ("cell", "seed"), "sweep": ("trial", "state")}
"""Tags that the list of trials of a study or sweep shows beside accuracies and loss; the best of its first probe comes
first."""

COMPARED = 100
"""Most trials in a link: a browser's address has an end, and so has what fits on a page."""


def default_uri(runs_dir: Path) -> str:
    """Return the SQLite store in the folder of all runs."""
    return f"sqlite:///{runs_dir.resolve()}/mlflow.db"


def study_experiment(name: str) -> str:
    """Return the name of the experiment that the runs of a study or sweep are in."""
    return f"{EXPERIMENT}/{name}"


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


def read_experiment(uri: str, name: str) -> list[Any] | None:
    """Return id and creation time of an experiment in SQLite, or None where there is none or the store is another.

    It takes a millisecond: to import MLflow and open its store takes seconds.
    """
    scheme, _, path = uri.partition(":///")
    if scheme != "sqlite":
        return None
    query = "SELECT experiment_id, creation_time FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
    try:
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as store:
            found = store.execute(query, [name]).fetchone()
    except sqlite3.Error:  # it is not there, not MLflow's, or in use
        return None
    return found and [str(found[0]), found[1]]


def connect(uri: str, runs_dir: Path, name: str = EXPERIMENT) -> tuple[Any, Any]:
    """Return a client and the experiment `name`, made if needed: by one process at a time, or a fresh store breaks."""
    with one_at_a_time(runs_dir):
        client = open_store(uri)
        if (experiment := client.get_experiment_by_name(name)) is not None:
            return client, experiment
        # Left alone, artifacts of a database store would land in whatever folder the command ran in.
        artifacts = None if uri.startswith("http") else f"{runs_dir.resolve()}/mlflow-artifacts"
        return client, client.get_experiment(client.create_experiment(name, artifact_location=artifacts))


def is_damaged(error: Exception) -> bool:
    """Say whether an error tells that the file of a SQLite store is damaged, or half made on a full disk, and not just
    in use or out of reach."""
    return bool(re.search(r"not a database|malformed|table \w+ already exists", str(error)))


@contextmanager
def telling_what_is_wrong(uri: str) -> Iterator[None]:
    """Turn whatever a store's server, database or disk does within the block into a `UserError` for people."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        heal = "; move the file away, and the next command makes it anew from the runs" if is_damaged(error) else ""
        raise UserError(f"cannot read MLflow at {without_secrets(uri)}: {first_line(error)}{heal}") from None


def experiment_page(uri: str, runs_dir: Path) -> str:
    """Return the fragment of the MLflow page that lists all pretrainings and probes."""
    client, experiment = connect(uri, runs_dir)
    return _table_page(client, experiment.experiment_id, STAGE_COLUMNS)


def study_pages(uri: str, study: str) -> tuple[str, str]:
    """Return the fragments of two MLflow pages: the trials of the newest run of a study or sweep compared, and listed.

    `study` is its name or its folder's; `UserError` if the store has no such one, or fewer than two trials of it.
    """
    client = open_store(uri)
    found = client.search_experiments()
    identifiers = [each.experiment_id for each in found if each.name.startswith(study_experiment(""))]
    parents = client.search_runs(identifiers, "tags.`mae.stage` != 'trial'") if identifiers else []
    names = [(tags[tags["mae.stage"]], tags.get("mae.study_id")) for tags in (run.data.tags for run in parents)]
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
    probed = [kind for kind in PROBES if any(top1(kind) in run.data.metrics for run in children)]
    shown = [f"metrics.`{name}`" for name in (*map(top1, probed), FINAL_LOSS)]
    columns = [*shown, *(f"tags.`{name}`" for name in TOLD[parent.data.tags["mae.stage"]])]
    return f"#/compare-runs?{query}", _table_page(client, experiment, columns, child_of, shown[0])


def _table_page(client: Any, experiment_id: str, columns: Sequence[str], search: str = "", best: str = "") -> str:
    """Return the fragment of the MLflow page that lists runs of an experiment with these columns, the `best` first.

    The view is kept as a tag of the experiment, as the page's own button for sharing one does.
    """
    view: dict[str, Any] = {"selectedColumns": list(columns), "searchFilter": search}
    view |= {"orderByKey": best, "orderByAsc": False} if best else {}
    client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{EXPERIMENT}", json.dumps(view))
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={EXPERIMENT}&workflowType=machine_learning"
