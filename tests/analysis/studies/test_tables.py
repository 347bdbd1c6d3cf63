import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from analysis.results.loading import from_runs
from analysis.statistics.comparisons import TESTS, Test
from analysis.studies.remarks import caveats, remarks
from analysis.studies.table_formats import to_html, to_latex, to_markdown
from analysis.studies.tables import display, heading, speedups, summarise
from analysis.studies.write_study import TRACKED, write_study
from mae.config.resolve import build, flatten
from mae.runs.directory import RunDirectory
from mae.tracking.cell_means import SUMMARY
from mae.tracking.mlflow_store import default_uri
from mae.tracking.study_delivery import deliver_study
from tests.helpers.study_factory import Accuracies, study_frame_of
from tests.helpers.study_factory import write_study as write_runs

ACCURACIES = {
    "0.5": [60.0, 61.0, 62.0],
    "0.75": [70.0, 71.0, 72.0],
    "0.8": [70.5, 72.5, 71.0],
    "0.9": [66.0, 65.0, 64.0],
}
PAPER = {"0.5": 69.9, "0.75": 73.5, "0.8": 71.8, "0.9": 66.1}


def make_study(accuracies: Accuracies) -> pd.DataFrame:
    paper = {cell: {"linear": PAPER[cell]} for cell in accuracies}
    return study_frame_of(accuracies, probes=("knn",), paper=paper)


def cell_of(summary: pd.DataFrame, name: str) -> dict[str, Any]:
    return dict(summary[summary["cell"] == name].iloc[0])


def test_a_clear_difference_is_marked_and_noise_is_not() -> None:
    summary = summarise(make_study(ACCURACIES))
    verdicts = {row["cell"]: row["verdict"] for row in summary.to_dict("records")}
    assert verdicts == {"0.5": "lower", "0.75": "default", "0.8": "within noise", "0.9": "lower"}


def test_one_seed_gets_the_interval_over_test_images_and_no_verdict() -> None:
    summary = summarise(make_study({cell: values[:1] for cell, values in ACCURACIES.items()}))
    row = cell_of(summary, "0.9")
    assert (row["mean"], row["low"], row["high"], row["verdict"]) == (66.0, 65.0, 67.0, "n/a")
    assert row["difference"] == -4.0


def test_equal_seeds_are_said_instead_of_an_interval_of_no_width() -> None:
    shown = display(summarise(make_study({"0.75": [70.0, 72.0], "0.9": [60.0, 60.0]})))
    assert shown["k-NN"][1] == "60.0 (2 equal seeds)"


def test_two_cells_equal_to_the_base_are_one_reference() -> None:
    frame = make_study(ACCURACIES)
    twin = frame[frame["is_default"]].assign(cell="twin", order=9)
    alone, doubled = (cell_of(summarise(each), "0.9") for each in (frame, pd.concat([frame, twin])))
    assert (doubled["difference"], doubled["p"]) == (alone["difference"], alone["p"])


def of_patches(seeds: int = 2) -> pd.DataFrame:
    """Two architectures, whose untrained encoders differ; raw pixels are the same."""
    frame = study_frame_of({"0.75": [70.0] * seeds, "0.9": [60.0] * seeds})
    frame.loc[frame["cell"] == "0.75", "untrained"] = 56.9
    frame.loc[frame["cell"] == "0.9", "untrained"] = 88.0 + frame["seed"]
    return frame


def test_a_gain_is_over_the_untrained_encoders_of_the_same_seeds() -> None:
    frame = study_frame_of({"0.1": [50.0, 61.0, 70.0], "1.0": [80.0, 81.0, 82.0]}, probes=("finetune",))
    frame.loc[frame["cell"] == "0.1", "untrained"] = [39.0, 51.0, 61.0]  # 11, 10, 9: the seeds differ far more
    gain = cell_of(summarise(frame), "0.1")
    assert gain["gain"] == 10.0
    assert (gain["gain_low"], gain["gain_high"]) == pytest.approx((10 - 2.484, 10 + 2.484), abs=1e-3)


def test_a_baseline_that_differs_between_cells_is_a_column() -> None:
    frame = of_patches()
    shown = display(summarise(frame))
    assert shown["linear untrained"].tolist() == shown["k-NN untrained"].tolist() == ["56.9", "88.5"]
    assert shown["linear gain"].tolist() == ["+13.1", "-28.5 ± 6.4"]  # t of one degree of freedom, times 0.707 / sqrt 2
    assert "linear pixels" not in shown
    assert remarks(frame)[-2:] == ["linear: raw pixels 30.0", "k-NN: raw pixels 30.0"]


def test_a_baseline_that_cells_share_is_told_once_also_where_a_seed_has_failed() -> None:
    frame = make_study({"0.75": [70.0, 71.0], "0.9": [66.0, None]})
    frame["untrained"] += frame["seed"]
    assert "k-NN untrained" not in display(summarise(frame))
    assert remarks(frame)[-1] == "k-NN: untrained encoder 40.5, raw pixels 30.0"


def test_cells_without_a_seed_in_common_do_not_share_a_baseline() -> None:
    frame = of_patches()
    frame = frame[(frame["cell"] == "0.75") == (frame["seed"] == 0)]
    assert display(summarise(frame))["linear untrained"].tolist() == ["56.9", "89.0"]


def test_a_failed_run_is_told_and_not_averaged() -> None:
    summary = summarise(make_study(ACCURACIES | {"0.9": [66.0, None, 64.0]}))
    row = cell_of(summary, "0.9")
    assert (row["mean"], row["runs"], row["failed"]) == (65.0, 2, 1)
    assert display(summary).iloc[-1]["failed"] == "1: NaN"


def test_a_cell_without_any_result_has_a_row() -> None:
    shown = display(summarise(make_study(ACCURACIES | {"0.9": [None]})))
    assert shown.iloc[-1]["k-NN"] == "-"


def test_a_study_without_any_result_has_a_table() -> None:
    assert len(display(summarise(make_study({"0.75": [None], "0.9": [None]})))) == 2


def test_rank_agreement_compares_with_the_paper() -> None:
    told = " ".join(remarks(make_study(ACCURACIES)))
    assert "Spearman 0.60" in told  # measured order 0.5, 0.9, 0.75, 0.8; paper 0.9, 0.5, 0.8, 0.75


def test_the_best_cells_of_two_probes_are_told_and_how_far_their_rankings_agree() -> None:
    frame = study_frame_of(ACCURACIES)
    first = [line for line in remarks(frame) if line.startswith("by their means alone")]
    best = summarise(frame).query("probe == 'linear'").set_index("cell")["mean"].idxmax()
    assert first == [f"by their means alone, probes have the same best cell: {best} by linear, k-NN"]
    frame.loc[(frame["probe"] == "knn") & (frame["cell"] == "0.5"), "top1"] = 99.0
    assert f"by their means alone, probes have different best cells: {best} by linear; 0.5 by k-NN" in remarks(frame)


def test_rankings_of_two_probes_are_compared_over_five_cells_and_more() -> None:
    told = " ".join(remarks(study_frame_of(ACCURACIES | {"0.6": [60.0, 61.0]})))
    assert "Rank agreement: linear and k-NN over 5 cells: Spearman 1.00" in told
    assert "linear and k-NN over" not in " ".join(remarks(study_frame_of(ACCURACIES)))


def test_fine_tuning_is_ranked_beside_the_papers_fine_tuning() -> None:
    frame = study_frame_of(ACCURACIES, probes=("finetune",))
    frame = frame.assign(paper_finetune=frame["top1"], paper_linear=-frame["top1"])
    told = " ".join(remarks(frame))
    assert "fine-tuning: rank agreement with the paper's fine-tuning over 4 cells: Spearman 1.00" in told


def test_the_default_is_marked() -> None:
    shown = display(summarise(make_study(ACCURACIES)))
    assert shown["cell"].tolist() == ["0.5", "0.75 *", "0.8", "0.9"]


def test_files_of_every_format_are_written(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "study")
    write_study(directory, make_study(ACCURACIES), tmp_path)
    names = {file.name for file in directory.path.iterdir()}
    tables = {f"table.{suffix}" for suffix in ("csv", "md", "tex", "html")}
    assert names == {"results.csv", "curves.csv", "summary.json", "figure.png", "figure.pdf"} | tables


def test_mlflow_has_the_numbers_of_the_table(tmp_path: Path) -> None:
    directory = write_runs(tmp_path, ACCURACIES)
    summary = write_study(directory, from_runs(tmp_path, print), tmp_path)
    uri = default_uri(tmp_path)
    deliver_study(directory, uri, tmp_path)
    client = MlflowClient(uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    parent = next(run for run in client.search_runs(experiments) if "mlflow.loggedArtifacts" in run.data.tags)
    file = client.download_artifacts(parent.info.run_id, SUMMARY, str(tmp_path))
    table = pd.read_json(file, orient="split", dtype={"cell": str})
    for row, expected in zip(table.to_dict("records"), summary.to_dict("records"), strict=True):
        for column in TRACKED:
            assert row["n" if column == "runs" else column] == pytest.approx(expected[column], nan_ok=True)
        assert parent.data.metrics[f"{row['probe']}/{row['cell']}/mean"] == pytest.approx(expected["mean"])


def test_latex_has_rules_and_no_sign_that_it_cannot_set() -> None:
    shown = display(summarise(make_study(ACCURACIES))).assign(cell="normalized_pixels & 50 %")
    latex = to_latex(shown, "a_b")
    assert r"\toprule" in latex
    assert r"normalized\_pixels \& 50 \%" in latex
    assert r"\caption{a\_b}" in latex
    assert latex.isascii()


def test_markdown_and_html_escape_what_would_break_them() -> None:
    table = pd.DataFrame({"cell": ["a|b <c>"]})
    assert r"a\|b" in to_markdown(table)
    assert "a|b &lt;c&gt;" in to_html(table)


def test_unfinished_trainings_are_counted_with_their_reasons() -> None:
    assert caveats(make_study({"0.75": [61.0, 62.0], "0.9": [None, 61.0]})) == [
        "1 of 4 trainings failed (NaN): not in any mean"
    ]


def test_one_seed_is_said() -> None:
    assert caveats(make_study({"0.75": [61.0], "0.9": [61.0]})) == ["one seed: no test, no difference counts"]


def test_versions_of_the_code_are_named() -> None:
    frame = make_study(ACCURACIES)
    frame.loc[(frame["seed"] == 1) | (frame["cell"] == "0.9"), "commit"] = "def456"
    assert caveats(frame) == [
        "trained by 2 versions of the code: abc123 (0.5 to 0.8 of seed 0, 2), "
        "def456 (0.9 of seed 0, 2; all cells of seed 1)"
    ]


def test_a_table_in_which_every_cell_is_below_the_raw_pixels_begins_with_that() -> None:
    frame = make_study({"0.75": [25.0, 26.0], "0.9": [24.0, 25.0]})
    assert [line.split(":")[1] for line in caveats(frame)] == [" every cell is below the raw pixels (30.0 %)"]
    frame.loc[frame["cell"] == "0.9", "pixels"] = 20.0
    assert caveats(frame) == []


def elsewhere(frame: pd.DataFrame, cell: str, seed: int | None = None) -> pd.DataFrame:
    """Return a frame of which a cell, or one seed of it, was trained in a third of the time on another device."""
    moved = (frame["cell"] == cell) & (frame["seed"] == seed if seed is not None else True)
    frame.loc[moved, ["device", "threads"]] = ["a GPU", "8"]
    frame.loc[moved, "seconds"] /= 3
    return frame


def test_times_of_different_devices_are_not_compared_and_the_cells_are_named() -> None:
    frame = elsewhere(make_study(ACCURACIES), "0.9")
    assert display(summarise(frame))["time"].tolist() == ["1.00", "1.00", "1.00", ""]
    assert caveats(frame)[-1].startswith(
        "time and memory were measured under different conditions: a processor, 2 threads (0.5; 0.75; 0.8), "
        "a GPU, 8 threads (0.9)."
    )


def test_times_of_one_device_are_compared_where_others_were_used_too() -> None:
    frame = make_study(ACCURACIES)
    for cell in ("0.75", "0.9"):
        frame = elsewhere(frame, cell, seed=2)
    assert cell_of(summarise(frame), "0.9")["time"] == pytest.approx(1.0, abs=0.05)


def test_a_speed_up_needs_a_reference_of_the_same_device() -> None:
    frame = study_frame_of({"slow": [1.0], "fast": [1.0]}, axis="", default="slow", probes=())
    assert speedups(elsewhere(frame, "fast")).isna().tolist() == [False, True]


def test_the_heading_names_probe_settings_that_are_not_the_defaults() -> None:
    config = flatten(build({"probe.features": "class_token"}).model_dump(mode="json"))
    assert "digits probe.features=class_token on digits)" in heading(study_frame_of(ACCURACIES, config=config))


def test_speed_is_relative_to_the_cell_the_paper_calls_1() -> None:
    frame = study_frame_of(
        {"slow": [1.0], "fast": [1.0]}, axis="", default="fast", probes=(), seconds={"slow": 30.0, "fast": 10.0},
        paper={"slow": {"speedup": 1.0}, "fast": {"speedup": 2.8}},
    )  # fmt: skip
    assert speedups(frame).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("test", TESTS)
def test_the_test_that_was_asked_for_is_the_one_that_judges_and_is_told(test: Test) -> None:
    frame = make_study(ACCURACIES)
    assert set(summarise(frame, test)["test"]) == {test}
    told = " ".join(remarks(frame, test))
    assert ("within seeds" in told, "Welch" in told) == (test == "paired", test == "welch")


def test_what_mlflow_is_told_are_the_tables_numbers_with_none_for_what_is_not_known(tmp_path: Path) -> None:
    frame = study_frame_of(ACCURACIES, probes=("knn",))
    directory = RunDirectory(tmp_path / "studies" / "s")
    summary = write_study(directory, frame, tmp_path)
    told = json.loads((directory.path / "summary.json").read_text())
    rows = [dict(zip(told["columns"], row, strict=True)) for row in told["data"]]
    assert [row["mean"] for row in rows] == pytest.approx(summary["mean"].tolist())
    assert [row["n"] for row in rows] == [3, 3, 3, 3]
    assert rows[1]["difference"] is None  # of the default
    assert rows[0]["difference_low"] == pytest.approx(summary["difference_low"].iloc[0])
    assert rows[0]["p"] == pytest.approx(summary["p"].iloc[0], rel=1e-9)  # small, with all its digits


def test_what_mlflow_was_told_is_taken_back_where_no_result_is_left(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "studies" / "s")
    for accuracies in ({"0.75": [70.0], "0.9": [60.0]}, {"0.75": [None], "0.9": [None]}):
        write_study(directory, study_frame_of(accuracies, probes=("knn",)), tmp_path)
    assert directory.read_json("summary.json")["data"] == []


def test_a_study_without_probes_tells_mlflow_nothing(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "studies" / "s")
    write_study(directory, study_frame_of(ACCURACIES, probes=()), tmp_path)
    assert not (directory.path / "summary.json").exists()


def test_no_time_is_relative_to_an_encoder_that_took_no_step() -> None:
    frame = study_frame_of({"random": [50.0, 51.0], "mae": [60.0, 61.0]}, axis="", default="random", probes=("knn",))
    frame.loc[frame["cell"] == "random", ["gflops", "seconds"]] = [0.0, 0.001]
    assert summarise(frame)["time"].isna().all()


def test_times_that_differ_between_seeds_of_one_device_are_told_of_the_worst_cell() -> None:
    frame = make_study(ACCURACIES)  # of 10 to 12 seconds
    frame.loc[(frame["cell"] == "0.5") & (frame["seed"] == 0), "seconds"] = 20.0
    frame.loc[(frame["cell"] == "0.9") & (frame["seed"] == 1), "seconds"] = 49.0
    told = "times of 0.9 differ between seeds by 4.9 x: other work ran beside; go by GFLOPs"
    assert caveats(frame) == [told]
    frame.loc[(frame["cell"] == "0.9") & (frame["seed"] == 1), "device"] = "a slow one"
    assert [line for line in caveats(frame) if "seeds" in line] == [told.replace("0.9", "0.5").replace("4.9", "1.8")]
    frame["gflops"] = frame["tflop"] = 0.0  # untrained encoders, in which the start is all the time
    assert not [line for line in caveats(frame) if "seeds" in line]


def test_cells_whose_task_is_hardly_learned_are_named() -> None:
    frame = make_study({"0.75": [61.0, 62.0], "0.9": [60.0, 61.0]})
    frame["loss"], frame["chance_loss"] = frame["cell"].map({"0.75": 1.0, "0.9": 1.38}), 1.3863
    assert caveats(frame) == ["the task is hardly learned in 2 trainings, whose loss ends at that of a guess: 0.9"]


def test_cells_whose_outputs_have_collapsed_are_named() -> None:
    frame = make_study({"0.75": [61.0, 62.0], "0.9": [60.0, 61.0]})
    frame["output_std"] = frame["cell"].map({"0.75": 0.98, "0.9": 0.04})
    assert caveats(frame) == [
        "outputs have collapsed in 2 trainings, to a standard deviation of 0.04 to 0.04 where 1 is healthy: 0.9"
    ]
