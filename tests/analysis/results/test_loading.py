import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from analysis.results.frame import MISSING, TYPES, comparable, tidy
from analysis.results.loading import export, from_files, from_mlflow, from_runs, select
from mae.config.resolve import build, flatten
from mae.config.tree import Config
from mae.errors import UserError
from mae.runs.directory import RunDirectory
from mae.tracking.mlflow_store import default_uri
from mae.tracking.study_delivery import deliver_study
from tests.helpers.study_factory import MASK_RATIO, fingerprint, study_frame_of, study_record, write_study

VARIED = {
    "base_probe": {"", "probe.features=class_token"},
    "cell_probe": {"", "probe.features=both"},
    "threads": {"", "2"},
}


def silent(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies with what can go wrong in them: a failed run, one that was killed, one that never began."""
    folder = tmp_path_factory.mktemp("runs")
    write_study(folder, {**MASK_RATIO, "0.9": [66.0, None, 64.1]})
    config = flatten(build({"probe.features": "class_token"}).model_dump(mode="json"))
    overrides = {'µ, "x"': {"probe.features": "both"}}
    write_study(folder, {'µ, "x"': [None, 1 / 3], "b": [50.0]}, name="target", axis="", default="b", base="other",
                config=config, overrides=overrides)  # fmt: skip
    run = RunDirectory(folder / fingerprint("mask-ratio", "0.5", 0))
    record = run.read_record()
    assert record is not None
    run.write_record(record.model_copy(update={"status": "running"}))
    (run.path / "result.json").unlink()
    shutil.rmtree(folder / fingerprint("mask-ratio", "0.5", 1))
    return folder


def test_runs_folder_mlflow_and_files_give_the_same_frame(runs: Path, tmp_path: Path) -> None:
    frame = from_runs(runs, silent)
    assert set(frame["status"]) == {"finished", "failed", "killed", "missing"}
    for column, values in VARIED.items():
        assert set(frame[column]) == values
    for study in (runs / "studies").iterdir():
        deliver_study(RunDirectory(study), default_uri(runs), runs)
    order = ["study", "order", "seed", "probe"]
    tracked = from_mlflow(default_uri(runs))
    assert_frame_equal(
        tracked.sort_values(order, ignore_index=True), frame.sort_values(order, ignore_index=True), check_exact=True
    )
    for name in ("results.csv", "results.parquet"):
        export(frame, tmp_path / name)
        assert_frame_equal(from_files([tmp_path / name]), frame, check_exact=True)


def test_every_column_is_documented_and_typed() -> None:
    import analysis.results.frame as module

    frame = study_frame_of(MASK_RATIO)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == TYPES
    assert module.__doc__ is not None
    assert all(name in module.__doc__ for name in TYPES)


def test_compute_is_flops_of_all_images() -> None:
    assert study_frame_of(MASK_RATIO)["tflop"].unique() == pytest.approx([0.5 * 100 * Config().train.batch_size / 1000])


def test_an_accuracy_that_is_not_a_number_is_a_marked_row() -> None:
    row = study_frame_of({"0.75": [float("nan")]}).iloc[0]
    assert (row["status"], row["reason"]) == ("failed", "its accuracy is not a number")
    assert pd.isna(row["top1"])


def test_a_run_of_another_version_is_a_marked_row(runs_dir: Path) -> None:
    write_study(runs_dir, MASK_RATIO)
    (runs_dir / fingerprint("mask-ratio", "0.9", 2) / "record.json").write_text('{"version": 7}')
    row = from_runs(runs_dir, silent).iloc[-1]
    assert (row["status"], row["reason"]) == ("unreadable", "written by another version of mae-cli")
    assert pd.isna(row["top1"])


def test_a_study_of_another_version_is_said(runs_dir: Path) -> None:
    write_study(runs_dir, MASK_RATIO)
    (runs_dir / "studies" / "old").mkdir()
    (runs_dir / "studies" / "old" / "study.json").write_text("{}")
    said: list[str] = []
    from_runs(runs_dir, said.append)
    assert "another version" in said[0]


@pytest.mark.parametrize(("old", "new"), [("{", ""), ('"cell":"b"', '"cell":"c"'), ('"question"', '"q"')])
def test_a_study_that_cannot_be_read_is_named_and_hides_no_other(old: str, new: str, runs_dir: Path) -> None:
    write_study(runs_dir, MASK_RATIO)
    broken = write_study(runs_dir, {"b": [50.0]}, name="target", axis="", default="b")
    broken.write_text("study.json", (broken.path / "study.json").read_text().replace(old, new))
    said: list[str] = []
    assert set(from_runs(runs_dir, said.append)["study"]) == {"mask-ratio"}
    assert len(said) == 1
    assert "left out" in said[0]
    assert "target-0a0a0a0a" in said[0]


def test_a_folder_of_unreadable_studies_is_said(runs_dir: Path) -> None:
    write_study(runs_dir, MASK_RATIO).write_text("study.json", "{")
    with pytest.raises(UserError, match=r"no studies in .* that can be read"):
        from_runs(runs_dir, silent)


@pytest.mark.parametrize(("values", "x"), [(("a", "b"), []), ((True, False), []), ((1, "b"), []), ((1, 0.5), [1, 0.5])])
def test_cells_have_places_on_an_axis_of_numbers_only(values: tuple[Any, ...], x: list[float]) -> None:
    made = study_record({"0": [1.0], "1": [2.0]})
    cells = [
        cell.model_copy(update={"overrides": {"mask.ratio": v}}) for cell, v in zip(made.cells, values, strict=True)
    ]
    frame = tidy(made.model_copy(update={"cells": cells}), "id", lambda trial: MISSING)
    assert frame["x"].dropna().unique().tolist() == x


def test_the_same_study_on_two_bases_keeps_two_names(runs_dir: Path) -> None:
    write_study(runs_dir, MASK_RATIO, "mask-ratio-1", base="digits")
    write_study(runs_dir, MASK_RATIO, "mask-ratio-2", base="cifar10-tiny")
    frame = from_runs(runs_dir, silent)
    assert set(frame["study_id"]) == {"mask-ratio-1", "mask-ratio-2"}
    assert set(select(frame, ["mask-ratio-1"])["base"]) == {"digits"}
    assert len(select(frame, ["mask-ratio"])) == len(frame)


def test_an_unknown_study_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'mask-ratio'"):
        select(study_frame_of(MASK_RATIO), ["mask-ration"])


def test_empty_places_say_what_to_do(tmp_path: Path) -> None:
    for load in (lambda: from_runs(tmp_path, silent), lambda: from_mlflow(default_uri(tmp_path))):
        with pytest.raises(UserError, match="mae-cli ablate"):
            load()
    with pytest.raises(UserError, match="mae-cli export"):
        from_files([tmp_path])


def test_files_with_the_same_rows_count_once_and_contradictions_are_refused(tmp_path: Path) -> None:
    frame = study_frame_of(MASK_RATIO)
    (tmp_path / "a").mkdir()
    export(frame, tmp_path / "results.csv")
    export(frame, tmp_path / "a" / "results.parquet")
    assert_frame_equal(from_files([tmp_path]), frame)
    frame.loc[0, "top1"] = 1.0
    export(frame, tmp_path / "a" / "results.parquet")
    with pytest.raises(UserError, match=r"contradict each other about mask-ratio, cell 0\.5, seed 0"):
        from_files([tmp_path])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,y\n1,2\n", "no column 'study'"),
        ("a.csv", "", "results .*a.csv"),
        ("a.parquet", "no parquet", "results .*a.parquet"),
        ("a.txt", "", "expected a name ending"),
        ("missing.csv", None, "No such file"),
        ("missing", None, "No such file"),
    ],
)
def test_a_file_that_holds_no_results_is_named(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        from_files([tmp_path / name])


def test_files_of_fewer_columns_are_read(tmp_path: Path) -> None:
    frame = study_frame_of(MASK_RATIO)
    newer = ["study_id", "tflop", "commit", "log_axis", "base_probe", "cell_probe", "processes", "threads"]
    frame.drop(columns=newer).to_csv(tmp_path / "results.csv", index=False)
    read = from_files([tmp_path])
    assert set(read["study_id"]) == {"mask-ratio"}
    assert read["tflop"].isna().all()
    assert len(comparable(read)) == 1


def test_a_trial_is_told_to_mlflow_stage_by_stage(runs_dir: Path) -> None:
    directory = write_study(runs_dir, {"0.75": [70.0]})
    probe = runs_dir / fingerprint("mask-ratio", "0.75", 0) / "probes" / "knn-1"
    (probe / "result.json").unlink()
    run = RunDirectory(probe)
    record = run.read_record()
    assert record is not None
    run.write_record(record.model_copy(update={"status": "failed", "reason": "no neighbours"}))
    deliver_study(directory, default_uri(runs_dir), runs_dir)
    told = from_mlflow(default_uri(runs_dir))
    assert told["status"].tolist() == ["finished", "failed"]
    assert told["reason"].tolist() == ["", "no neighbours"]
    assert_frame_equal(told, from_runs(runs_dir, silent))
