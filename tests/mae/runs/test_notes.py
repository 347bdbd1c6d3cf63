"""Names, notes and tags of runs: they change no number, may come at any time, and MLflow hears of them."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from cli import app
from mae.errors import UserError
from mae.runs.catalogue import find_run, list_runs
from mae.runs.directory import Record, RunDirectory
from mae.runs.notes import GivenNotes, Notes, read_notes, take_notes
from mae.tracking.mlflow_store import default_uri
from mae.tracking.stage_delivery import deliver_stage


def recorded(runs_dir: Path, fingerprint: str = "0123456789ab") -> RunDirectory:
    run = RunDirectory(runs_dir / fingerprint)
    run.write_record(Record(stage="pretrain", name="digits seed=0", fingerprint=fingerprint, status="finished"))
    run.write_text("config.toml", "")
    run.write_json("result.json", {"metrics": {}})
    return run


def test_what_is_given_replaces_and_an_empty_text_takes_away(runs_dir: Path) -> None:
    run = recorded(runs_dir)
    assert take_notes(run, GivenNotes()) == Notes()
    assert not (run.path / "notes.json").exists()
    take_notes(run, GivenNotes("mine", "look here", ("a", "b", "a")))
    assert take_notes(run, GivenNotes(tags=("c",))) == Notes(name="mine", note="look here", tags=("c",))
    assert take_notes(run, GivenNotes("", "", ("",))) == read_notes(run) == Notes()


@pytest.mark.parametrize("bad", [{"name": "two\nlines"}, {"name": " x"}, {"name": "n" * 101}, {"tags": ("a,b",)}])
def test_what_does_not_fit_into_a_line_is_refused(bad: dict[str, str | tuple[str, ...]]) -> None:
    with pytest.raises(UserError, match="expected"):
        GivenNotes(**bad)  # type: ignore[arg-type]


def test_a_run_is_found_and_listed_by_its_name(runs_dir: Path) -> None:
    run, other = recorded(runs_dir), recorded(runs_dir, "1123456789ab")
    take_notes(run, GivenNotes("1", tags=("paper",)))
    assert find_run(runs_dir, "1").path == other.path  # a fingerprint's start goes first
    take_notes(run, GivenNotes("base line"))
    assert find_run(runs_dir, "base line").path == run.path
    take_notes(other, GivenNotes("base line"))
    with pytest.raises(UserError, match="fits 2 runs"):
        find_run(runs_dir, "base line")
    shown = {row["run"]: (row["name"], row["tags"]) for row in list_runs(runs_dir)}
    assert shown == {run.path.name: ("base line", "paper"), other.path.name: ("base line", "")}


def test_damaged_notes_hide_no_run(runs_dir: Path) -> None:
    run = recorded(runs_dir)
    (run.path / "notes.json").write_text("{")
    assert list_runs(runs_dir)[0]["name"] == "digits seed=0"


def test_the_command_says_what_is_said_of_a_run(runs_dir: Path) -> None:
    recorded(runs_dir)
    where = ["--runs-dir", str(runs_dir), "--tracking-uri", "none", "--json"]
    result = CliRunner().invoke(app, ["note", "0123", "for figure 5", "--name", "mine", "--tag", "paper", *where])
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert told == {"run": "0123456789ab", "name": "mine", "note": "for figure 5", "tags": ["paper"]}
    listed = CliRunner().invoke(app, ["runs", "tags=pap*", "--runs-dir", str(runs_dir)])
    assert "for figure 5" in listed.stdout


def test_mlflow_hears_of_notes_that_come_after_the_end(runs_dir: Path) -> None:
    run, uri = recorded(runs_dir), default_uri(runs_dir)
    identifier = deliver_stage(run, uri, runs_dir)
    take_notes(run, GivenNotes("mine", "look here", ("a", "b")))
    assert deliver_stage(run, uri, runs_dir) == identifier
    tags = MlflowClient(uri).get_run(identifier).data.tags
    assert (tags["mlflow.runName"], tags["mlflow.note.content"], tags["mae.tags"]) == ("mine", "look here", "a, b")
    take_notes(run, GivenNotes(""))
    deliver_stage(run, uri, runs_dir)
    assert MlflowClient(uri).get_run(identifier).data.tags["mlflow.runName"] == "digits seed=0"
