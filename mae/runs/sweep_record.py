"""What a sweep has tried so far, as it is kept in `runs/sweeps/<name>/sweep.json`.

`ablations` writes it, and `analysis` needs nothing else: each trial names the run directory of its
pretraining and of its probes. The sampler's own storage is not needed to read results.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, computed_field

from mae.runs.directory import RunDirectory


class ObjectiveRecord(BaseModel):
    """What is searched for: its name, its label in figures, and which way is better."""

    name: str
    direction: Literal["maximize", "minimize"]
    label: str


class SweepTrial(BaseModel):
    """One point of the space and what became of it; `running` is one that has been asked for and has not ended.

    `values` are those of the objectives, `curve` the online k-NN top-1 in percent by epoch. `reused` says that an equal
    trial or an earlier run answered it, `is_default` that it is the base config.
    """

    number: int
    state: Literal["running", "complete", "pruned", "failed"]
    params: dict[str, Any]
    values: list[float] | None = None
    curve: dict[int, float] = Field(default_factory=dict)
    run: str = ""
    probes: dict[str, str] = Field(default_factory=dict)
    reused: bool = False
    is_default: bool = False
    reason: str = ""


class SweepRecord(BaseModel):
    """A whole sweep on one base config, known by its name; `space` holds the parameters as a space file has them."""

    name: str
    sampler: str
    pruner: str
    objectives: list[ObjectiveRecord]
    space: dict[str, dict[str, Any]]
    base: str
    config: dict[str, Any]
    data: dict[str, Any]
    trials: list[SweepTrial] = Field(default_factory=list)
    comparison: str = Field("", description="directory of the study that compares the best with the default")
    compared: dict[str, list[float]] = Field(
        default_factory=dict, description="the objective over seeds, by cell of the comparison"
    )
    winner: str = Field("", description="the cell of the comparison with the best mean; none under several objectives")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def open(self) -> int:
        """How many trials have been asked for and have not ended: the same command continues."""
        return sum(trial.state == "running" for trial in self.trials)


def sweep_directory(runs_dir: Path, name: str) -> RunDirectory:
    """Return where a sweep is kept."""
    return RunDirectory(runs_dir / "sweeps" / name)


def read_sweep(directory: RunDirectory) -> SweepRecord:
    """Return the record of a sweep's directory."""
    return SweepRecord.model_validate_json((directory.path / "sweep.json").read_bytes())


def find_sweeps(runs_dir: Path) -> list[RunDirectory]:
    """Return the directory of every sweep under `runs_dir`, newest first; unreadable ones are left out."""
    found = []
    for file in sorted(runs_dir.glob("sweeps/*/sweep.json"), key=lambda file: -file.stat().st_mtime):
        directory = RunDirectory(file.parent)
        with suppress(ValidationError):
            read_sweep(directory)
            found.append(directory)
    return found
