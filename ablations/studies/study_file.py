"""A study as a TOML file: `mae-cli ablate --file` reads it, `mae-cli ablate list NAME --toml` writes one."""

from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ablations.studies.study import Cell, Study, evener_as_logarithms, of_axes, plan_cells
from mae.config.kinds import ProbeKind
from mae.config.resolve import UNSET, flatten, read_toml
from mae.config.tree import Config
from mae.errors import UserError


class _CellFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    set: dict[str, Any]
    paper: dict[str, float] = {}


class _StudyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    question: str = ""
    axis: str = ""
    probe: ProbeKind | None = None
    cells: list[_CellFile] = []
    axes: dict[str, list[Any]] = {}

    @model_validator(mode="after")
    def _possible(self) -> "_StudyFile":
        if bool(self.cells) == bool(self.axes):
            raise ValueError("give either [[cells]] or [axes]")
        if self.axis and not all(self.axis in flatten(cell.set) for cell in self.cells):
            raise ValueError(f"axis: every cell has to set {self.axis}")
        return self


def read_study(file: Path) -> Study:
    """Return the study a TOML file describes; `UserError` saying what is wrong with it."""
    tables = read_toml(file, "study")
    try:
        given = _StudyFile.model_validate(tables)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(
            f"study file {file}: {key + ': ' if key else ''}{message[0].lower()}{message[1:]}; `mae-cli ablate list "
            "mask-ratio --toml` prints one to start from"
        ) from None
    if given.axes:
        return of_axes(given.name, given.question, given.axes)
    cells = tuple(Cell(flatten(cell.set), cell.paper, cell.name) for cell in given.cells)
    along = [cell.overrides[given.axis] for cell in cells] if given.axis else []
    return Study(
        given.name,
        given.question,
        cells,
        axis=given.axis,
        log_axis=evener_as_logarithms(along),
        probe=given.probe,
    )


def to_toml(study: Study, base: Config) -> str:
    """Return a study as a file, worked out for a base config: `read_study` gives equal cells."""
    cells = [planned.record for planned in plan_cells(study, base)]
    tables = [
        {"name": cell.name, "set": {key: UNSET if value is None else value for key, value in cell.overrides.items()}}
        | ({"paper": cell.paper} if cell.paper else {})
        for cell in cells
    ]
    shared = {"name": f"my-{study.name}", "question": study.question}
    if study.axis and all(study.axis in cell.overrides for cell in cells):
        shared["axis"] = study.axis
    if study.probe:
        shared["probe"] = study.probe
    return tomli_w.dumps(shared | {"cells": tables})
