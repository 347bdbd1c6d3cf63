"""What a study consisted of, as it is kept in `runs/studies/<name>-<hash>/study.json`.

`ablations` writes it, and `analysis` needs nothing else: each trial names the run directory of its
pretraining and of its probes.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from mae.runs.directory import RunDirectory


class CellRecord(BaseModel):
    """One row of the table; `paper` holds the paper's figures for it, `is_default` marks the base config."""

    name: str
    overrides: dict[str, Any]
    paper: dict[str, float] = Field(default_factory=dict)
    is_default: bool = False


class TrialRecord(BaseModel):
    """One cell with one seed: the fingerprint of its pretraining, and per kind the name of its probe's directory."""

    cell: str
    seed: int
    fingerprint: str
    probes: dict[str, str]


class StudyRecord(BaseModel):
    """A whole study on one base config; `base` is the name of that config, `config` its settings by dotted key."""

    name: str
    question: str
    source: str
    axis: str
    log_axis: bool
    base: str
    config: dict[str, Any]
    data: dict[str, Any]
    cells: list[CellRecord]
    trials: list[TrialRecord]


def read_study(directory: RunDirectory) -> StudyRecord:
    """Return the record of a study's directory."""
    return StudyRecord.model_validate_json((directory.path / "study.json").read_bytes())


def find_studies(runs_dir: Path) -> list[tuple[RunDirectory, StudyRecord]]:
    """Return every study under `runs_dir` with its directory, newest first; unreadable ones are left out."""
    found = []
    for file in sorted(runs_dir.glob("studies/*/study.json"), key=lambda file: -file.stat().st_mtime):
        directory = RunDirectory(file.parent)
        with suppress(OSError, ValidationError):
            found.append((directory, read_study(directory)))
    return found
