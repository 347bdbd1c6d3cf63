"""A study in MLflow: an experiment per study, a run per study and base config, nested in it a run per cell and seed.

Such a run holds everything about its trial, so that two cells are compared with two clicks: the curves and costs of the
pretraining, the results of all its probes, and the tags `study`, `cell` and `seed`. The same command run again goes on
with the same parent. Like `mae.tracking`, this can be cut off or repeated at any time.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from mae.errors import UserError
from mae.run_directory import RunDirectory, status_of
from mae.study_record import StudyRecord, TrialRecord, find_studies, read_study
from mae.tracking import (
    EXPERIMENT,
    NONE,
    STATUSES,
    Tracker,
    connect,
    content_of,
    describe,
    one_at_a_time,
    open_store,
    printable,
    receipt,
    run_exists,
    send_curves,
    send_result,
    write_receipt,
)

ENDED = ("finished", "failed", "killed")

STUDY_WAIT = 60.0
"""Most seconds that the last delivery may hold up the end of a study: tables and figures have just been made."""


COMPARED = 100
"""Most trials in a link: a browser's address has an end, and so has what fits on a page."""


def study_experiment(name: str) -> str:
    """Return the name of the experiment that a study's runs are in."""
    return f"{EXPERIMENT}/{name}"


def tracked_studies(
    directories: Sequence[RunDirectory], uri: str, runs_dir: Path, say: Callable[[str], None]
) -> AbstractContextManager[object]:
    """Deliver studies every few seconds while the block works on them, and once more at its end; never raises."""
    if uri == NONE:
        return nullcontext()

    def send() -> None:
        for directory in directories:
            deliver_study(directory, uri, runs_dir)

    return Tracker(send, uri, runs_dir, say, last_wait=STUDY_WAIT)


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
    """Bring every study nobody works on up to date; return how many owed something. Raises as MLflow does."""
    return sum(
        deliver_study(directory, uri, runs_dir) for directory, _ in find_studies(runs_dir) if not directory.is_locked()
    )


def deliver_study(directory: RunDirectory, uri: str, runs_dir: Path) -> bool:
    """Bring the store up to date with one study; say whether it owed something. Raises as MLflow does.

    A trial goes out once it has ended; until then its stages can be watched in the experiment `mae`.
    """
    record = read_study(directory)
    client, experiment = connect(uri, runs_dir, study_experiment(record.name))
    with one_at_a_time(directory.path):
        state = receipt(directory, uri, experiment)
        seen = _content(directory, record, runs_dir)
        if state.get("seen") == seen:
            return False
        if not run_exists(client, state["run_id"]):
            state |= {"run_id": _create(client, experiment, directory, record), "children": {}, "sent": {}}
        for trial in record.trials:
            _deliver_trial(client, experiment, record, trial, state, runs_dir)
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


def _create(client: Any, experiment: Any, directory: RunDirectory, record: StudyRecord) -> str:
    tags = {
        "study": record.name,
        "mae.stage": "study",
        "mae.study_id": directory.path.name,
        "mae.directory": printable(str(directory.path.resolve())),
    }
    name = printable(f"{record.name}: {record.base}")
    return str(client.create_run(experiment.experiment_id, tags=tags, run_name=name).info.run_id)


def _deliver_trial(
    client: Any, experiment: Any, record: StudyRecord, trial: TrialRecord, state: dict[str, Any], runs_dir: Path
) -> None:
    """Send a trial that has ended since the last time; what an interrupted or earlier delivery left is replaced."""
    stages = _stages(trial, runs_dir)
    status = _status(stages)
    if status not in ENDED:
        return
    key, content = f"{trial.cell}, seed {trial.seed}", {run.path.name: content_of(run) for run in stages}
    known = state["children"].get(key, {})
    if known.get("content") == content:
        return
    if run_exists(client, known.get("run_id")):
        client.delete_run(known["run_id"])
    pretraining = stages[0]
    stage = pretraining.read_record()
    tags = {
        **{name: printable(value) for name, value in (stage.tags if stage else {}).items()},
        "mlflow.parentRunId": state["run_id"],
        "study": record.name,
        "cell": printable(trial.cell),
        "seed": str(trial.seed),
        "mae.stage": "trial",
        "mae.fingerprint": trial.fingerprint,
        "mae.directory": printable(str(pretraining.path.resolve())),
        "mae.stages": _stage_statuses(trial, stages),
    }
    made = client.create_run(
        experiment.experiment_id, tags=tags, run_name=printable(f"{trial.cell}, seed {trial.seed}")
    )
    run_id = str(made.info.run_id)
    state["children"][key] = {"run_id": run_id}
    if stage is not None:
        describe(client, run_id, stage, pretraining)
    for run in [*stages[1:], pretraining]:  # accuracy first: MLflow's compare page opens with what came first
        if run.result() is not None:
            send_result(client, run, run_id)
        if reason := status_of(run)[1]:
            client.set_tag(run_id, "mae.reason", printable(reason))
    for _ in send_curves(client, pretraining, run_id):
        pass
    client.set_terminated(run_id, STATUSES[status])
    state["children"][key]["content"] = content


def _stages(trial: TrialRecord, runs_dir: Path) -> list[RunDirectory]:
    run = RunDirectory(runs_dir / trial.fingerprint)
    return [run, *(RunDirectory(run.path / "probes" / name) for name in trial.probes.values())]


def _stage_statuses(trial: TrialRecord, stages: list[RunDirectory]) -> str:
    """Return how each stage stands, as JSON: {"pretrain": ["finished", ""], "knn": ["failed", "why"]}."""
    statuses = zip(("pretrain", *trial.probes), map(status_of, stages), strict=True)
    return printable(json.dumps(dict(statuses), ensure_ascii=False))


def _status(stages: list[RunDirectory]) -> str:
    """Return `failed` if a stage failed, `finished` if all are, else what the first unfinished one is."""
    statuses = [status_of(run)[0] for run in stages]
    if "failed" in statuses:
        return "failed"
    return next((status for status in statuses if status != "finished"), "finished")


def _content(directory: RunDirectory, record: StudyRecord, runs_dir: Path) -> dict[str, Any]:
    """Return all that a delivery depends on: trials, files, and how the study as a whole stands."""
    stages = [_stages(trial, runs_dir) for trial in record.trials]
    statuses = {_status(each) for each in stages}
    if directory.is_locked():
        status = "RUNNING"
    else:
        status = "FAILED" if "failed" in statuses else "FINISHED" if statuses == {"finished"} else "KILLED"
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.path.iterdir())
        if path.suffix in (".json", ".csv", ".md", ".tex", ".png", ".pdf") and not path.name.startswith("tracking-")
    }
    trials = [[content_of(run) for run in each] for each in stages]
    return {"status": status, "files": files, "trials": trials}
