"""The table "the one place to change" of docs/architecture.md: an entry where it says is all that it takes.

Axes are in `tests/ablations/studies/test_any_axis.py`, pretext tasks in `tests/mae/pretext/test_tasks.py`, probes in
`tests/mae/probing/test_probes.py`, findings in `tests/analysis/studies/test_paper_findings.py`.
"""

import json
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from typer.testing import CliRunner

from ablations.execution.job import Job
from ablations.studies.paper import STUDIES
from ablations.studies.study import Cell, Study
from ablations.sweeps.goals import OBJECTIVES, Objective, choose_objectives, measure
from analysis.sweeps.figures import best_so_far
from cli import app
from mae.config.presets import PRESETS, Preset
from mae.config.pretext_sections import MaskConfig, TargetConfig
from mae.config.resolve import resolve
from mae.config.tree import Config
from mae.data.dataset import load_data
from mae.data.sources import SOURCES
from mae.pretext.masking import SAMPLERS
from mae.pretext.targets import TARGETS
from mae.runs.metrics import FINAL_LOSS
from mae.runs.sweep_record import ObjectiveRecord
from mae.runtime.progress import Silent


def test_a_preset_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "mine", Preset(purpose="to see", overrides={"mask.ratio": 0.6}))
    assert "to see" in CliRunner().invoke(app, ["presets"]).stdout
    shown = CliRunner().invoke(app, ["config", "--preset", "mine", "--json"])
    assert json.loads(shown.stdout.splitlines()[-1])["config"]["mask"]["ratio"] == 0.6


def test_a_study_is_an_entry(monkeypatch: pytest.MonkeyPatch, runs_dir: Path) -> None:
    study = Study("mine", "Does it matter?", (Cell({"mask.ratio": 0.75}), Cell({"mask.ratio": 0.6})), axis="mask.ratio")
    monkeypatch.setitem(STUDIES, "mine", study)
    shown = CliRunner().invoke(app, ["ablate", "list", "--runs-dir", str(runs_dir), "--json"])
    listed = {each["study"]: each["cells"] for each in json.loads(shown.stdout.splitlines()[-1])["studies"]}
    assert listed["mine"] == ["0.75", "0.6"]


def test_a_goal_of_sweeps_is_an_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    goal = Objective("loss", "minimize", FINAL_LOSS, "last training loss")
    monkeypatch.setitem(OBJECTIVES, "loss", goal)
    assert choose_objectives("loss", Config()) == (goal,)
    (tmp_path / "result.json").write_text(json.dumps({"metrics": {FINAL_LOSS: 0.3}}))
    assert measure((goal,), Job("", Config(), tmp_path.name, ()), tmp_path.parent) == [0.3]
    trials = pd.DataFrame({"number": [0, 1], "state": "complete", "loss": [0.3, 0.2], "is_default": [True, False]})
    drawn = best_so_far(trials, ObjectiveRecord(name=goal.name, direction=goal.direction, label=goal.label))
    assert drawn.axes[0].get_ylabel() == "last training loss"


def test_every_sampler_and_target_has_its_name_among_the_settings() -> None:
    assert set(get_args(MaskConfig.model_fields["sampling"].annotation)) == set(SAMPLERS)
    assert set(get_args(TargetConfig.model_fields["kind"].annotation)) == set(TARGETS)


def test_a_data_set_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "mine", SOURCES["digits"])
    config = resolve("digits", settings=["data.source=mine"])
    assert len(load_data(config.data, config.run, Silent()).train.labels) > 1000
