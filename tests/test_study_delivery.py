from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mae.mlflow_store import default_uri
from mae.run_directory import Record, RunDirectory
from mae.study_delivery import deliver_study, study_experiment
from mae.study_record import CellRecord, StudyRecord, TrialRecord
from tests.test_tracking import make_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: a fresh one costs seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def study(tmp_path: Path, request: pytest.FixtureRequest) -> RunDirectory:
    """Two cells of one seed: the first has ended, the second has not begun."""
    finish(tmp_path, "a0", 70.0)
    cells = [CellRecord(name=name, overrides={}) for name in ("a", "b")]
    trials = [TrialRecord(cell=name, seed=0, fingerprint=f"{name}0", probes={"knn": "knn-1"}) for name in ("a", "b")]
    record = StudyRecord(
        name=f"study-{request.node.name}"[:60], question="", source="", axis="", log_axis=False, base="digits",
        config={}, data={}, cells=cells, trials=trials,
    )  # fmt: skip
    directory = RunDirectory(tmp_path / "studies" / "one")
    directory.write_text("study.json", record.model_dump_json())
    return directory


def finish(runs_dir: Path, name: str, accuracy: float) -> None:
    run = make_run(runs_dir / name)
    probe = RunDirectory(run.path / "probes" / "knn-1")
    probe.path.mkdir(parents=True)
    probe.write_record(Record(stage="probe", name="p", fingerprint="1", status="finished", parent=name))
    probe.write_json("result.json", {"metrics": {"knn/top1": accuracy}})


def delivered(study: RunDirectory, store: Path) -> tuple[Any, list[Any]]:
    """Deliver; return the parent and its children."""
    uri, runs_dir = default_uri(store), study.path.parent.parent
    deliver_study(study, uri, runs_dir)
    client = MlflowClient(uri)
    name = StudyRecord.model_validate_json((study.path / "study.json").read_bytes()).name
    experiment = client.get_experiment_by_name(study_experiment(name))
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    return parents[0], sorted(children, key=lambda run: str(run.data.tags["cell"]))


def test_an_ended_trial_is_a_child_with_curves_results_and_tags(study: RunDirectory, store: Path) -> None:
    _, children = delivered(study, store)
    assert [run.data.tags["cell"] for run in children] == ["a"]
    assert children[0].data.metrics["knn/top1"] == 70.0
    assert children[0].data.params["mask.ratio"] == "0.75"
    points = MlflowClient(default_uri(store)).get_metric_history(children[0].info.run_id, "train/loss")
    assert [point.step for point in points] == [1, 2, 3]


def test_the_parent_runs_while_the_study_does_and_then_tells_how_it_ended(study: RunDirectory, store: Path) -> None:
    with study.joined():
        assert delivered(study, store)[0].info.status == "RUNNING"
    assert delivered(study, store)[0].info.status == "KILLED"  # cell b is missing, and nobody is at it
    finish(study.path.parent.parent, "b0", 60.0)
    assert delivered(study, store)[0].info.status == "FINISHED"


def test_trials_that_end_later_join_the_same_parent(study: RunDirectory, store: Path) -> None:
    first, _ = delivered(study, store)
    finish(study.path.parent.parent, "b0", 60.0)
    second, children = delivered(study, store)
    assert second.info.run_id == first.info.run_id
    assert [run.data.metrics["knn/top1"] for run in children] == [70.0, 60.0]


def test_nothing_is_owed_after_a_delivery(study: RunDirectory, store: Path) -> None:
    delivered(study, store)
    assert not deliver_study(study, default_uri(store), study.path.parent.parent)


def test_a_delivery_that_was_cut_off_doubles_nothing(study: RunDirectory, store: Path) -> None:
    delivered(study, store)
    receipt = next(study.path.glob("tracking-*.json"))
    state = study.read_json(receipt.name)
    del state["seen"], state["children"]["a, seed 0"]["content"]
    study.write_json(receipt.name, state)
    assert len(delivered(study, store)[1]) == 1


def test_tables_and_figures_are_artifacts_of_the_parent(study: RunDirectory, store: Path) -> None:
    study.write_text("table.md", "| a |")
    parent, _ = delivered(study, store)
    names = {file.path for file in MlflowClient(default_uri(store)).list_artifacts(parent.info.run_id)}
    assert names == {"study.json", "table.md"}
