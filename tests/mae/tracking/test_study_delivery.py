import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from analysis.results.loading import from_mlflow
from mae.runs.directory import Record, RunDirectory
from mae.runs.study_record import CellRecord, StudyRecord, TrialRecord
from mae.tracking import background_delivery
from mae.tracking.background_delivery import tracked_studies
from mae.tracking.cell_means import SUMMARY
from mae.tracking.mlflow_store import default_uri, open_store, study_experiment
from mae.tracking.study_delivery import deliver_study, is_delivered
from tests.mae.tracking.test_tracking import make_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: a fresh one costs seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def study(tmp_path: Path, request: pytest.FixtureRequest) -> RunDirectory:
    return make_study(tmp_path, f"study-{request.node.name}"[:60])


def make_study(runs_dir: Path, name: str) -> RunDirectory:
    """Two cells of one seed: the first has ended, the second has not begun."""
    finish(runs_dir, "a0", 70.0)
    cells = [CellRecord(name=cell, overrides={}) for cell in ("a", "b")]
    trials = [TrialRecord(cell=cell, seed=0, fingerprint=f"{cell}0", probes={"knn": "knn-1"}) for cell in ("a", "b")]
    record = StudyRecord(
        name=name, question="", source="", axis="", log_axis=False, base="digits",
        config={}, data={}, cells=cells, trials=trials,
    )  # fmt: skip
    directory = RunDirectory(runs_dir / "studies" / name)
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


class Cut:
    """A client that gets no answer to a call, though it has arrived, once the names of its calls so far say so."""

    def __init__(self, client: Any, ends: Callable[[list[str]], bool]) -> None:
        self.client, self.ends = client, ends
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            answer = getattr(self.client, name)(*arguments, **more)
            self.calls.append(name)
            if self.ends(self.calls):
                raise TimeoutError
            return answer

        return call


def cut_off(study: RunDirectory, store: Path, ends: Callable[[list[str]], bool]) -> bool:
    """Deliver through a `Cut`; say whether it was cut off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mae.tracking.mlflow_store.open_store", lambda uri: Cut(open_store(uri), ends))
        try:
            deliver_study(study, default_uri(store), study.path.parent.parent)
        except TimeoutError:
            return True
    return False


def status_in_mlflow(study: RunDirectory, store: Path) -> list[str]:
    """Return what a report from MLflow says of cell a."""
    frame = from_mlflow(default_uri(store))
    return [*frame[(frame["study_id"] == study.path.name) & (frame["cell"] == "a")]["status"]]


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


def test_nothing_is_owed_once_the_work_on_a_study_has_ended(study: RunDirectory, store: Path) -> None:
    uri, runs_dir, said = default_uri(store), study.path.parent.parent, list[str]()
    with tracked_studies([study], uri, runs_dir, said.append):
        finish(runs_dir, "b0", 60.0)
    assert said == []
    assert not deliver_study(study, uri, runs_dir)


def test_a_study_that_has_arrived_is_seen_to_have_without_mlflow(
    study: RunDirectory, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, runs_dir, asked, said = default_uri(store), study.path.parent.parent, list[object](), list[str]()
    delivered(study, store)
    monkeypatch.setattr(background_delivery, "in_child_process", lambda *arguments: asked.append(arguments))
    with tracked_studies([study], uri, runs_dir, said.append):
        pass
    assert (asked, said) == ([], [])


def test_a_study_with_a_result_that_came_later_has_not_arrived(study: RunDirectory, store: Path) -> None:
    uri, runs_dir = default_uri(store), study.path.parent.parent
    delivered(study, store)
    finish(runs_dir, "b0", 60.0)
    assert not is_delivered(study, uri, runs_dir)


def test_a_study_has_not_arrived_in_a_store_that_is_another_one_now(study: RunDirectory, store: Path) -> None:
    uri, runs_dir = default_uri(store), study.path.parent.parent
    delivered(study, store)
    client = MlflowClient(uri)
    name = study_experiment(study.path.name)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, f"{name}, before")
    client.create_experiment(name)
    assert not is_delivered(study, uri, runs_dir)


@pytest.mark.parametrize("uri", ["sqlite:///{}/none.db", "sqlite:///{}", "http://127.0.0.1:1"])
def test_nothing_has_arrived_where_there_is_no_store(uri: str, study: RunDirectory, tmp_path: Path) -> None:
    assert not is_delivered(study, uri.format(tmp_path), tmp_path)


def test_a_delivery_cut_off_at_any_call_is_made_good_by_the_next(tmp_path: Path, store: Path) -> None:
    client = MlflowClient(default_uri(store))
    for last in itertools.count(1):
        study = make_study(tmp_path / str(last), f"cut-{last}")
        if not cut_off(study, store, lambda calls, last=last: len(calls) == last):  # type: ignore[misc]
            break
        parent, (child,) = delivered(study, store)
        assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"study.json"}
        assert (parent.info.status, child.info.status) == ("KILLED", "FINISHED")
        assert (child.data.metrics["knn/top1"], child.data.params["mask.ratio"]) == (70.0, "0.75")
        for name, steps in {"train/loss": [1, 2, 3], "knn/top1": [0], "cost/steps": [0]}.items():
            assert [point.step for point in client.get_metric_history(child.info.run_id, name)] == steps
        assert not deliver_study(study, default_uri(store), study.path.parent.parent)
    assert last > 10


def test_a_trial_that_was_probed_again_after_a_delivery_was_cut_off_is_there_once(
    study: RunDirectory, store: Path
) -> None:
    assert cut_off(study, store, lambda calls: calls.count("create_run") == 2)
    probe = RunDirectory(study.path.parent.parent / "a0" / "probes" / "knn-1")
    probe.write_json("result.json", {"metrics": {"knn/top1": 75.0}})
    assert [run.data.metrics["knn/top1"] for run in delivered(study, store)[1]] == [75.0]


def test_a_report_never_takes_a_trial_that_has_not_arrived_whole_for_a_failed_one(
    study: RunDirectory, store: Path
) -> None:
    cut_off(study, store, lambda calls: calls.count("create_run") == 1)
    delivered(make_study(study.path.parent.parent / "another", f"{study.path.name}-another"), store)
    assert status_in_mlflow(study, store) == []
    cut_off(study, store, lambda calls: calls.count("create_run") == 1)
    assert status_in_mlflow(study, store) == ["missing"]
    delivered(study, store)
    probe = RunDirectory(study.path.parent.parent / "a0" / "probes" / "knn-1")
    probe.write_json("result.json", {"metrics": {"knn/top1": 75.0}})
    assert cut_off(study, store, lambda calls: calls.count("create_run") == 1)  # the run before is still there
    assert status_in_mlflow(study, store) == ["finished"]


def test_a_study_that_looks_as_before_is_delivered_if_a_delivery_in_between_was_cut_off(
    study: RunDirectory, store: Path
) -> None:
    delivered(study, store)
    with study.joined():
        assert cut_off(study, store, lambda calls: calls[-1] == "update_run")
    assert delivered(study, store)[0].info.status == "KILLED"


def test_tables_and_figures_are_artifacts_of_the_parent(study: RunDirectory, store: Path) -> None:
    study.write_text("table.md", "| a |")
    parent, _ = delivered(study, store)
    names = {file.path for file in MlflowClient(default_uri(store)).list_artifacts(parent.info.run_id)}
    assert names == {"study.json", "table.md"}


def summary_of(*rows: tuple[str, float | None, int]) -> dict[str, Any]:
    return {"columns": ["probe", "cell", "mean", "n"], "data": [["knn", *row] for row in rows]}


def test_the_parent_has_means_over_seeds_as_metrics_and_as_a_table(study: RunDirectory, store: Path) -> None:
    study.write_json(
        SUMMARY, summary_of(("a", 70.0, 2), ("[8, 8]", 60.5, 3), ("8 8", 50.0, 3), ("crop, fixed", None, 1))
    )
    parent, _ = delivered(study, store)
    assert parent.data.metrics == {
        **{"knn/a/mean": 70.0, "knn/a/n": 2.0, "knn/8 8/mean": 60.5, "knn/8 8/n": 3.0},
        **{"knn/8 8 2/mean": 50.0, "knn/8 8 2/n": 3.0, "knn/crop fixed/n": 1.0},
    }
    assert json.loads(parent.data.tags["mlflow.loggedArtifacts"]) == [{"path": SUMMARY, "type": "table"}]
    file = MlflowClient(default_uri(store)).download_artifacts(parent.info.run_id, SUMMARY, str(study.path))
    assert json.loads(Path(file).read_text())["data"][1] == ["knn", "[8, 8]", 60.5, 3]


def test_means_over_more_seeds_take_the_place_of_those_before(study: RunDirectory, store: Path) -> None:
    for mean, seeds in ((70.0, 2), (71.5, 3)):
        study.write_json(SUMMARY, summary_of(("a", mean, seeds)))
        parent, _ = delivered(study, store)
    assert parent.data.metrics == {"knn/a/mean": 71.5, "knn/a/n": 3.0}


def test_new_means_count_whatever_the_time_of_their_file(study: RunDirectory, store: Path) -> None:
    for mean, written in ((70.0, 2e9), (71.5, 1e9)):  # a clock set back, or a backup
        study.write_json(SUMMARY, summary_of(("a", mean, 2)))
        os.utime(study.path / SUMMARY, (written, written))
        parent, _ = delivered(study, store)
    assert parent.data.metrics["knn/a/mean"] == 71.5


def test_means_that_are_known_no_more_are_no_number(study: RunDirectory, store: Path) -> None:
    for low in (65.0, None):  # of one seed fewer
        table = {"columns": ["probe", "cell", "mean", "low"], "data": [["knn", "a", 70.0, low]]}
        study.write_json(SUMMARY, table)
        parent, _ = delivered(study, store)
    assert parent.data.metrics["knn/a/mean"] == 70.0
    assert math.isnan(parent.data.metrics["knn/a/low"])


def test_cells_keep_metrics_of_their_own_whatever_their_names(study: RunDirectory, store: Path) -> None:
    names = ["8 8 2", "8 8 3", "[8, 8]", "8 8", "..", "%", "x" * 300, "a/../b"]
    study.write_json(SUMMARY, summary_of(*((name, float(place), 1) for place, name in enumerate(names))))
    metrics = delivered(study, store)[0].data.metrics
    assert sorted(value for name, value in metrics.items() if name.endswith("/mean")) == [*range(len(names))]


def test_means_arrive_once_wherever_their_delivery_is_cut_off(tmp_path: Path, store: Path) -> None:
    for calls in itertools.count(1):
        study = make_study(tmp_path / str(calls), f"means-cut-off-{calls}")
        study.write_json(SUMMARY, summary_of(("a", 70.0, 2)))
        cut = cut_off(study, store, lambda names, calls=calls: len(names) == calls)
        parent, _ = delivered(study, store)
        history = MlflowClient(default_uri(store)).get_metric_history(parent.info.run_id, "knn/a/mean")
        assert [point.value for point in history] == [70.0]
        assert json.loads(parent.data.tags["mlflow.loggedArtifacts"]) == [{"path": SUMMARY, "type": "table"}]
        if not cut:
            return
