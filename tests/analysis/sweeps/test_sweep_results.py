"""What is made of a sweep: choice of the best, costs, importances, figures, MLflow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from ablations.sweeps.run_sweep import SweepRequest, best_trials, compared_values, make_sweep, plan_comparison
from analysis.studies.write_study import write_tracked
from analysis.sweeps.frame import as_study, sweep_frame, total_costs
from analysis.sweeps.importances import importances
from analysis.sweeps.summary import best_table, comparison_frame, importance_table, remarks
from analysis.sweeps.write_sweep import write_sweep
from mae.config.resolve import resolve
from mae.config.tree import Config
from mae.runs.directory import RunDirectory
from mae.runs.sweep_record import ObjectiveRecord, SweepRecord, SweepTrial, read_sweep, sweep_directory
from mae.runtime.progress import Silent
from mae.tracking.mlflow_store import default_uri, study_experiment
from mae.tracking.study_delivery import deliver_study
from tests.ablations.sweeps.test_sweep import SPACE, drive, pretended
from tests.mae.tracking.test_tracking import make_run

__all__ = ["pretended"]

MATTERS: dict[str, dict[str, Any]] = {
    "mask.ratio": {"type": "float", "low": 0.1, "high": 0.9},
    "target.kind": {"type": "categorical", "choices": ["pixels", "normalized_pixels"]},
}


def made(count: int, second: str = "") -> SweepRecord:
    """A sweep in which the accuracy is the mask ratio and a little noise."""
    draws = np.random.default_rng(0)
    trials = []
    for number in range(count):
        ratio, kind = float(draws.uniform(0.1, 0.9)), str(draws.choice(MATTERS["target.kind"]["choices"]))
        values = [100 * ratio + float(draws.normal()), *([100 * ratio**2] if second else [])]
        params = {"mask.ratio": ratio, "target.kind": kind}
        trials.append(SweepTrial(number=number, state="complete", params=params, values=values, run=str(number)))
    objectives = [ObjectiveRecord(name="knn_top1", direction="maximize", label="k-NN")]
    objectives += [ObjectiveRecord(name=second, direction="minimize", label=second)] if second else []
    return SweepRecord(name="s", sampler="random", pruner="none", objectives=objectives, space=MATTERS, base="digits",
                       config={"train.epochs": 10}, data={}, trials=trials)  # fmt: skip


def test_the_parameter_that_matters_is_found_beyond_the_uncertainty() -> None:
    table = importances(as_study(made(40)))
    assert table["key"].tolist() == ["mask.ratio", "target.kind"]
    assert table["importance"].sum() == pytest.approx(1)
    assert table["low"][0] > table["high"][1]


def test_a_parameter_whose_bad_value_was_always_pruned_matters() -> None:
    record, draws = made(200), np.random.default_rng(1)
    for trial in record.trials:
        good = trial.params["target.kind"] == "pixels"
        trial.state, trial.values = ("complete", [float(draws.normal())]) if good else ("pruned", None)
    assert importances(as_study(record))["key"][0] == "target.kind"


def test_too_few_trials_say_nothing() -> None:
    assert importances(as_study(made(7))).empty


def test_every_figure_is_drawn(tmp_path: Path) -> None:
    for second in ("", "gflops"):
        record = made(12, second)
        write_sweep(RunDirectory(tmp_path), record, sweep_frame(record, tmp_path))
    names = {file.stem for file in tmp_path.glob("*.png")}
    assert {"best-so-far", "slices", "importances", "parallel", "contour", "front", "slices-gflops"} <= names


def test_a_sweep_without_a_complete_trial_has_a_frame_and_no_figure(tmp_path: Path) -> None:
    record = made(2)
    record.trials = [SweepTrial(number=0, state="failed", params={}, reason="impossible")]
    frame = sweep_frame(record, tmp_path)
    write_sweep(RunDirectory(tmp_path), record, frame)
    assert not list(tmp_path.glob("*.png"))
    assert "1 failed" in remarks(record, frame)[0]


def measured_on(threads: Sequence[str], objective: str) -> list[str]:
    """Return the last remark on a sweep for an objective, whose trials ran on these numbers of threads."""
    record = made(len(threads), objective)
    frame = sweep_frame(record, Path()).assign(device="a processor", processes="1", threads=threads)
    return remarks(record, frame)[2:]


def test_times_of_different_numbers_of_threads_are_said_where_they_decide() -> None:
    (line,) = measured_on(["1", "4", "4"], "seconds")
    assert line.startswith("seconds: measured under different conditions")
    assert line.endswith("a processor, 1 thread (trials 0), a processor, 4 threads (trials 1, 2)")


@pytest.mark.parametrize(("threads", "objective"), [(["4", "4"], "seconds"), (["1", "4"], "gflops")])
def test_what_decides_under_equal_conditions_or_is_counted_needs_no_caveat(threads: Any, objective: str) -> None:
    assert measured_on(threads, objective) == []


def test_a_sweep_knows_the_threads_of_its_trials(tmp_path: Path) -> None:
    run = make_run(tmp_path / "0")
    record = run.read_record()
    assert record is not None
    run.write_record(record.model_copy(update={"tags": {"mae.threads": "3"}}))
    assert sweep_frame(made(2), tmp_path)["threads"].tolist() == ["3", ""]


def test_the_best_come_first_and_equal_ones_once() -> None:
    values = [("a", 1.0), ("b", 3.0), ("b", 3.0), ("c", 2.0)]
    trials = [SweepTrial(number=n, state="complete", params={}, values=[value], run=run) for n, (run, value) in
              enumerate(values)]  # fmt: skip
    assert [trial.number for trial in best_trials(trials, ["maximize"])] == [1, 3, 0]
    assert [trial.number for trial in best_trials(trials, ["minimize"])] == [0, 3, 1]


def test_the_front_leaves_out_what_another_trial_beats_in_both() -> None:
    points = [(90.0, 5.0), (80.0, 1.0), (85.0, 6.0), (90.0, 5.5)]
    trials = [SweepTrial(number=n, state="complete", params={}, values=[*point], run=str(n)) for n, point in
              enumerate(points)]  # fmt: skip
    assert [trial.number for trial in best_trials(trials, ["maximize", "minimize"])] == [0, 1]


def test_costs_tell_what_was_spent_and_what_pruning_and_reuse_spared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a0")  # three steps, an epoch each
    points = run.read_metrics()
    run.write_text("metrics.jsonl", "")
    for step, point in enumerate(points, start=1):
        run.append_metrics(step, point["metrics"] | {"train/epoch": step - 1})
    record = made(0)
    record.trials = [
        SweepTrial(number=0, state="pruned", params={}, curve={2: 50.0}, run="a0"),
        SweepTrial(number=1, state="complete", params={}, values=[1.0], run="a0", reused=True),
    ]
    costs = total_costs(sweep_frame(record, tmp_path))
    assert (costs["steps"], costs["pruned_steps"], costs["reused_steps"]) == (2, 8, 3)


@pytest.mark.usefixtures("pretended")
def test_the_best_are_trained_with_more_seeds_and_the_best_mean_wins(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    record = drive(runs_dir, 8, sampler="random", seeds_top=2, seeds=3)
    assert next(iter(record.compared)) == "default"
    assert [len(values) for values in record.compared.values()] == [3, 3, 3]
    assert np.mean(record.compared[record.winner]) == max(np.mean(values) for values in record.compared.values())
    best = resolve(file=sweep_directory(runs_dir, "s").path / "best.toml")
    assert 100 * best.mask.ratio == pytest.approx(record.compared[record.winner][0])
    assert best_table(record)["config"].tolist() == list(record.compared)
    assert importance_table(importances(as_study(record))) is not None


def with_comparison(name: str = "knn_top1", **compared: list[float]) -> SweepRecord:
    record = made(0)
    better: Any = "minimize" if name == "seconds" else "maximize"
    record.objectives = [ObjectiveRecord(name=name, direction=better, label=name)]
    record.compared = {cell.replace("_", " "): values for cell, values in compared.items()}
    return record


def test_the_final_comparison_tells_differences_from_the_default_within_seeds() -> None:
    record = with_comparison(default=[60.0, 70.0, 80.0], trial_4=[65.1, 75.0, 84.9], trial_7=[60.1, 69.9, 80.1])
    default, better, equal = best_table(record)["Δ default"]
    assert default == ""
    assert better == "▲ +5 (+4.76 to +5.24) p <.001"  # the seeds, 10 points apart, cancel
    assert equal.startswith("≈ +0.0333 (")


def test_mlflow_is_told_the_final_comparison(tmp_path: Path) -> None:
    record = with_comparison(default=[60.0, 70.0, 80.0], trial_4=[65.1, 75.0, 84.9])
    write_sweep(RunDirectory(tmp_path), record, sweep_frame(record, tmp_path))
    told = RunDirectory(tmp_path).read_json("summary.json")
    default, trial = (dict(zip(told["columns"], row, strict=True)) for row in told["data"])
    assert (default["mean"], default["n"], default["difference"]) == (70.0, 3, None)
    assert (trial["probe"], trial["cell"], trial["mean"]) == ("knn_top1", "trial 4", 75.0)
    assert trial["difference"] == pytest.approx(5.0)
    assert trial["difference_low"] < 5 < trial["difference_high"]
    assert trial["p"] < 0.01


def test_less_of_what_is_to_be_small_is_marked_as_lower() -> None:
    table = best_table(with_comparison("seconds", default=[20.0, 30.0, 40.0], trial_4=[10.0, 20.1, 30.1]))
    assert table["Δ default"][1].startswith("▼ -9.93 (-10")


def test_one_seed_gives_a_difference_without_an_interval() -> None:
    assert best_table(with_comparison(default=[60.0], trial_4=[65.0]))["Δ default"].tolist() == ["", "+5"]


@pytest.mark.parametrize("cells", [{"default": [60.0, 61.0]}, {"trial_4": [60.0, 61.0], "trial_7": [70.0, 71.0]}])
def test_without_a_default_and_another_cell_there_is_no_difference(cells: dict[str, list[float]]) -> None:
    assert "Δ default" not in best_table(with_comparison(**cells))


def test_where_seeds_act_differently_on_the_cells_of_a_sweep_it_is_said() -> None:
    cells = {f"trial_{number}": [scale * seed for seed in (1.0, 2.0, 4.1, 7.9)] for number, scale in enumerate((2, 9))}
    record = with_comparison(default=[1.0, 2.0, 4.0, 8.0], **cells)
    told = [line for line in remarks(record, sweep_frame(record, Path())) if line.startswith("Δ default: ")]
    assert "seeds act differently" in told[0]
    assert "within seeds" in told[-1]


@pytest.mark.usefixtures("pretended")
def test_a_sweep_is_a_parent_with_a_child_per_trial_delivered_once(tmp_path: Path) -> None:
    runs_dir, uri = tmp_path / "runs", default_uri(tmp_path)
    text = SPACE.split("[loss.region]")[0]
    record = drive(runs_dir, 9, text=text, sampler="random")
    directory = sweep_directory(runs_dir, "s")
    write_tracked(directory, comparison_frame(record))
    assert deliver_study(directory, uri, runs_dir)
    assert not deliver_study(directory, uri, runs_dir)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study_experiment("s"))
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {int(run.data.tags["trial"]): run for run in runs if run is not parent}
    assert (parent.info.status, sorted(children)) == ("FINISHED", list(range(9)))
    assert parent.data.metrics["knn_top1/default/mean"] == record.compared["default"][0]
    for trial in read_sweep(directory).trials:
        assert trial.values == [children[trial.number].data.metrics["objective/knn_top1"]]
        assert children[trial.number].data.tags["mae.fingerprint"] == trial.run


def test_trials_of_one_training_are_compared_by_their_own_probes(tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text('[probe.features]\ntype = "categorical"\nchoices = ["class_token", "patch_mean"]')
    request = SweepRequest(1, space=space, pruner="none")
    sweep = make_sweep(request, Config(), tmp_path, Silent())
    other = SweepTrial(number=1, state="complete", params={"probe.features": "class_token"}, values=[90.0], run="r")
    plan = plan_comparison(sweep, [other], request)
    for job, accuracy in zip(plan.jobs, (80.0, 90.0), strict=True):
        job.stages(tmp_path)[1].write_json("result.json", {"metrics": {"linear/holdout_top1": accuracy}})
    assert compared_values(sweep, plan) == {"default": [80.0], "trial 1": [90.0]}
