import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from mae import doctor
from mae.doctor import Finding, examine


def found(subject: str, runs_dir: Path, uri: str = "none", device: str = "cpu") -> Finding:
    return next(each for each in examine(runs_dir, uri, device) if each.subject == subject)


def test_every_subject_is_told_and_nothing_is_left_behind(tmp_path: Path) -> None:
    findings = examine(tmp_path / "runs", "none", "cpu")
    subjects = ["program", "libraries", "device", "cache folder", "runs folder", "locks", "MLflow store"]
    assert [each.subject for each in findings] == subjects
    assert all(each.found for each in findings)
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_cannot_be_written_to_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(**where: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    told = found("runs folder", tmp_path)
    assert "cannot be written to: Permission denied" in told.found
    assert told.advice == "choose with --runs-dir"


def test_locks_that_nobody_sees_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not found("locks", tmp_path).advice
    monkeypatch.setattr("mae.runs.locks_and_writes.is_held", lambda lock: False)
    assert "another --runs-dir" in found("locks", tmp_path).advice


def test_a_store_that_does_not_answer_or_is_damaged_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    assert "made by the first run" in found("MLflow store", tmp_path, f"sqlite:///{file}").found
    file.write_text("no database" * 100)
    assert "move the file away" in found("MLflow store", tmp_path, f"sqlite:///{file}").advice
    assert "start the server" in found("MLflow store", tmp_path, "http://127.0.0.1:9").advice


def test_a_look_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Finding:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctor, "_libraries", broken)
    findings = examine(tmp_path, "none", "cpu")
    assert len(findings) == 7
    assert "RuntimeError: no such thing" in findings[1].found


def test_the_command_says_what_to_do_and_ends_with_1(runs_dir: Path) -> None:
    given = ["doctor", "--runs-dir", str(runs_dir), "--tracking-uri", "none", "--device", "cuda:99", "--json"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 1
    findings = json.loads(result.stdout.splitlines()[-1])["findings"]
    assert {each["subject"]: each["advice"] for each in findings}["device"] == "choose another --device"
