"""Any setting can be an axis: from planning to table, figure, report and export, with workers that train nothing."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from ablations.execution.worker_pool import Slot
from ablations.studies.own import OWN
from ablations.studies.plan import Plan, all_jobs, make_plan
from ablations.studies.run_studies import make_plans
from ablations.studies.study import Study, product
from ablations.studies.study_file import read_study
from analysis.report.report import Models, make_report, write_report
from analysis.results.curves import read_curves
from analysis.results.frame import study_frame
from analysis.results.loading import export, from_files, from_runs
from analysis.studies.figures import study_figure
from analysis.studies.write_study import write_study
from mae.config.resolve import config_fields, resolve
from mae.config.tree import Config
from mae.errors import UserError
from mae.runtime.progress import Silent
from tests.helpers import fake_worker

SCHEMA = Config.model_json_schema()


@pytest.fixture
def drawn_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not drawn into a file: that takes a second each."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, to, **options: Path(to).touch())


def values_of(node: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return the values that a node of the config's JSON schema allows, apart from rules between settings."""
    if "$ref" in node:
        return values_of(SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]])
    if "anyOf" in node:
        return st.one_of(*(values_of(option) for option in node["anyOf"] if option != {"type": "null"}))
    if "enum" in node:
        return st.sampled_from(node["enum"])
    if node["type"] == "array":
        if "prefixItems" in node:
            return st.tuples(*map(values_of, node["prefixItems"])).map(list)
        return st.lists(values_of(node["items"]), min_size=1, max_size=3)
    if node["type"] == "integer":
        step = node.get("multipleOf", 1)
        return st.integers(-(-node.get("minimum", 0) // step), 100).map(lambda value: value * step)
    if node["type"] == "number":
        low, high = (node.get(name, node.get(f"exclusive{name.title()}")) for name in ("minimum", "maximum"))
        return st.floats(low or 0.0, 10.0 if high is None else high, exclude_min=True, exclude_max=True, width=32)
    return {"boolean": st.booleans(), "string": st.sampled_from(["digits", "folder:images"])}[node["type"]]


def node_of(key: str) -> dict[str, Any]:
    node: dict[str, Any] = SCHEMA
    for name in key.split("."):
        node = SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
        node = node["properties"][name]
    return node


def axis_of(key: str) -> st.SearchStrategy[str]:
    values = st.lists(values_of(node_of(key)), min_size=1, max_size=3, unique_by=json.dumps)
    return values.map(lambda found: f"{key}={','.join(map(json.dumps, found))}")


KEYS = [key for key, _ in config_fields()]
AXES = st.lists(st.sampled_from(KEYS), min_size=1, max_size=2, unique=True).flatmap(
    lambda keys: st.tuples(*map(axis_of, keys))
)


def study_to_its_end(study: Study, runs_dir: Path) -> pd.DataFrame:
    """Plan a study, pretend to train it, and make all that is made of results; return its frame as it was exported."""
    plan = make_plan(study, Config(), 1, lambda data: data.source, runs_dir)
    plan.directory.write_text("study.json", plan.record.model_dump_json())
    for job in all_jobs([plan]):
        fake_worker.work(Mock(), job, Slot(runs_dir, "cpu", 1))
    frame = study_frame(plan.record, runs_dir, plan.directory.path.name)
    write_study(plan.directory, frame, runs_dir)
    assert_frame_equal(from_runs(runs_dir, pytest.fail), frame)
    report = make_report(frame, read_curves(frame, runs_dir), Models())
    write_report(report, runs_dir / "report.md", "md")
    for name in ("all.csv", "all.parquet"):
        export(frame, runs_dir / name)
        assert_frame_equal(from_files([runs_dir / name]), frame)
    assert set(frame["cell"]) == {cell.name for cell in plan.record.cells}
    return frame


@pytest.mark.usefixtures("drawn_nowhere")
def test_any_setting_or_pair_of_settings_makes_a_study() -> None:
    finished = 0

    @given(AXES)
    @settings(max_examples=30, deadline=None, derandomize=True, database=None)
    def makes_a_study(axes: tuple[str, ...]) -> None:
        nonlocal finished
        study = product(axes)
        with TemporaryDirectory() as folder:
            try:
                make_plan(study, Config(), 1, lambda data: data.source, Path(folder))
            except UserError:  # values that are impossible, or change nothing
                return
            frame = study_to_its_end(study, Path(folder))
            assert set(frame["status"]) == {"finished"}
            assert frame["top1"].notna().all()
            finished += 1

    makes_a_study()
    assert finished >= 5


@pytest.mark.usefixtures("drawn_nowhere")
@pytest.mark.parametrize(
    ("axis", "cells", "on_x"),
    [
        ("mask.sampling=random,block", ["random", "block"], False),
        ("data.flip=false,true", ["false", "true"], False),
        ("data.image_size=[32,32],[16,16]", ["[32, 32]", "[16, 16]"], False),
        ("data.image_size=32,[16,16]", ["32", "[16, 16]"], False),
        ("mask.ratio=0.5,0.75", ["0.5", "0.75"], True),
    ],
)
def test_cells_of_words_booleans_and_lists_are_rows_and_those_of_numbers_a_curve(
    axis: str, cells: list[str], on_x: bool, tmp_path: Path
) -> None:
    frame = study_to_its_end(product([axis]), tmp_path)
    assert frame["cell"].unique().tolist() == cells
    figure = study_figure(frame)
    figure.draw_without_rendering()
    assert ([label.get_text() for label in figure.axes[0].get_yticklabels()] == cells) is not on_x


@pytest.mark.usefixtures("drawn_nowhere")
def test_a_study_file_may_have_one_axis_of_words(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("name = 'sampling'\n[axes]\n'mask.sampling' = ['random', 'block', 'grid']")
    frame = study_to_its_end(read_study(file), tmp_path / "runs")
    assert frame["cell"].unique().tolist() == ["random", "block", "grid"]


@pytest.mark.parametrize(
    ("axis", "logarithmic"),
    [
        ("probe.labels=0.01,0.1,1.0", True),
        ("train.epochs=50,100,200,400", True),
        ("mask.ratio=0.5,0.75,0.95", False),
        ("mask.ratio=0.1,0.2,0.3,0.4", False),
        ("loss.visible_weight=0,0.1,1", False),
        ("train.epochs=5,500", False),
        ("target.kind=pixels,pca,normalized_pixels", False),
    ],
)
def test_an_axis_is_logarithmic_where_that_spaces_its_values_more_evenly(axis: str, logarithmic: bool) -> None:
    assert product([axis]).log_axis == logarithmic


def of_tasks(settings: list[str], *kinds: str) -> list[Plan]:
    base = resolve("digits", settings=settings, refuse_inert=False)
    study = product([f"pretext.kind={','.join(kinds)}"])
    return make_plans([study], base, 1, Path("runs"), [], Silent())


def test_a_setting_acts_in_the_cells_where_it_has_an_effect() -> None:
    ((plan,), (other,)) = (of_tasks([f"igpt.side={side}"], "mae", "igpt_ar") for side in (4, 6))
    assert [job.config.igpt.side for job in plan.jobs] == [32, 4]
    assert plan.record.cells[1].overrides == {"pretext.kind": "igpt_ar", "igpt.side": 4}
    assert plan.directory.path != other.directory.path
    assert plan.jobs[0].fingerprint == other.jobs[0].fingerprint


def test_a_setting_of_a_studys_own_probe_acts() -> None:
    base = resolve("digits", settings=["probe.finetune.epochs=3"], refuse_inert=False)
    (plan,) = make_plans([OWN["partial-finetune"]], base, 1, Path("runs"), [], Silent())
    assert {cell.overrides.get("probe.finetune.epochs") for cell in plan.record.cells} == {None}  # as in the base
    assert {each.config.probe.finetune.epochs for job in plan.jobs for each in (job, *job.also)} == {3}


def test_a_setting_that_acts_in_no_cell_is_refused() -> None:
    with pytest.raises(UserError, match=r"igpt\.side=4 has no effect: it acts with pretext\.kind=igpt_ar or igpt_bert"):
        of_tasks(["igpt.side=4"], "mae", "rotation")
