"""What a study is: a question, and cells that differ from one base config in what is asked about."""

import itertools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mae.config import Config
from mae.config_sources import change, flatten, parse_value
from mae.errors import UserError
from mae.study_record import CellRecord


@dataclass(frozen=True)
class Times:
    """The base config's own value times `factor`; whole numbers stay whole and at least 1, unset stays unset."""

    factor: float

    def of(self, value: float | None) -> float | None:
        if value is None:
            return None
        return max(1, round(value * self.factor)) if isinstance(value, int) else value * self.factor


@dataclass(frozen=True)
class Cell:
    """One row of a study's table.

    `overrides` are dotted keys with a value or `Times`; `paper` holds the paper's figures for this row, such as
    {"linear": 73.5, "finetune": 84.9} in % top-1. Without a name, the values make it.
    """

    overrides: Mapping[str, Any]
    paper: Mapping[str, float] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class Study:
    """A question and its cells; `source` is where the paper asks it, `axis` the key that a figure may put on x."""

    name: str
    question: str
    cells: tuple[Cell, ...]
    source: str = ""
    axis: str = ""
    log_axis: bool = False
    probed: bool = True


@dataclass(frozen=True)
class PlannedCell:
    """A cell worked out for one base config."""

    name: str
    config: Config
    record: CellRecord


def plan_cells(study: Study, base: Config) -> list[PlannedCell]:
    """Return the study's cells for `base`, those that come out equal once; `UserError` if one is impossible."""
    values = flatten(base.model_dump(mode="json"))
    planned: dict[str, PlannedCell] = {}
    for cell in study.cells:
        try:
            overrides = {
                key: value.of(values[key]) if isinstance(value, Times) else value
                for key, value in cell.overrides.items()
            }
            config = change(base, overrides)
        except UserError as error:
            raise UserError(f"study {study.name}, cell {cell.name or dict(cell.overrides)}: {error}") from None
        given = [value for value in overrides.values() if value is not None]
        name = cell.name or ", ".join(f"{value:g}" if _is_number(value) else str(value) for value in given)
        record = CellRecord(name=name, overrides=overrides, paper=dict(cell.paper), is_default=config == base)
        planned.setdefault(name, PlannedCell(name, config, record))
    return list(planned.values())


def product(axes: Iterable[str]) -> Study:
    """Return the study of all combinations of `key=value,value` axes, as `--axis` gives them."""
    values: dict[str, list[Any]] = {}
    for axis in axes:
        key, separator, text = axis.partition("=")
        if not separator or not key or not text:
            raise UserError(f"--axis {axis!r}: expected dotted.key=value,value")
        values[key] = [parse_value(part.strip()) for part in text.split(",")]
    return _of_axes("-".join(key.split(".")[-1] for key in values), "", values)


def read_study(file: Path) -> Study:
    """Return the study a TOML file describes; `UserError` saying what is wrong with it."""
    try:
        given = _StudyFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"study file {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"study file {file} is not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"study file {file}: {key + ': ' if key else ''}{first['msg']}") from None
    if given.axes:
        return _of_axes(given.name, given.question, given.axes)
    cells = tuple(Cell(flatten(cell.set), cell.paper, cell.name) for cell in given.cells)
    return Study(given.name, given.question, cells)


def _of_axes(name: str, question: str, axes: Mapping[str, list[Any]]) -> Study:
    cells = []
    for values in itertools.product(*axes.values()):
        overrides = dict(zip(axes, values, strict=True))
        shown = ", ".join(f"{key.split('.')[-1]}={value}" for key, value in overrides.items())
        cells.append(Cell(overrides, name="" if len(axes) == 1 else shown))
    return Study(name, question, tuple(cells), axis=next(iter(axes)) if len(axes) == 1 else "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _CellFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    set: dict[str, Any]
    paper: dict[str, float] = {}


class _StudyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    question: str = ""
    cells: list[_CellFile] = []
    axes: dict[str, list[Any]] = {}

    @model_validator(mode="after")
    def _possible(self) -> "_StudyFile":
        if bool(self.cells) == bool(self.axes):
            raise ValueError("give either [[cells]] or [axes]")
        return self
