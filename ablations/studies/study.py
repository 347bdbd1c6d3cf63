"""What a study is: a question, and cells that differ from one base config in what is asked about."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mae.config.data_section import DataConfig
from mae.config.fingerprint import pretrain_fingerprint, probe_name, probed_fingerprint
from mae.config.kinds import ProbeKind
from mae.config.resolve import UNSET, change, differences, flatten, inert_keys, parse_value, spelled, with_values
from mae.config.tree import Config
from mae.errors import UserError
from mae.runs.study_record import CellRecord

Digests = Callable[[DataConfig], str]
"""What identifies the content of a data set."""


@dataclass(frozen=True)
class Times:
    """The base config's own value times `factor`; whole numbers stay whole and at least 1, what is unset stays unset.

    With a key to go `along` with, the factor is the one that this key comes to after rounding.
    """

    factor: float
    along: str = ""

    def of(self, key: str, base: Mapping[str, Any]) -> float | None:
        """Return the value of `key`, given the base config's values by dotted key."""
        if (value := base[key]) is None:
            return None
        factor = (Times(self.factor).of(self.along, base) or 0) / base[self.along] if self.along else self.factor
        return max(1, round(value * factor)) if isinstance(value, int) else value * factor

    def __str__(self) -> str:
        return f"{self.factor:g} x the base's"


@dataclass(frozen=True)
class Cell:
    """One row of a study's table.

    `overrides` are dotted keys with a value or `Times`; `paper` holds the paper's figures for this row, such as
    {"linear": 73.5, "finetune": 84.9} in % top-1. Without a name, the values make it. A row that `later` work has added
    to one of the paper's tables is no part of `ablate paper`. One that is asked for `where_possible` is left out on a
    base config with which its settings do not go together.
    """

    overrides: Mapping[str, Any]
    paper: Mapping[str, float] = field(default_factory=dict)
    name: str = ""
    later: bool = False
    where_possible: bool = False

    def __str__(self) -> str:
        return self.name or ", ".join(f"{key}={_text(value)}" for key, value in self.overrides.items())


@dataclass(frozen=True)
class Study:
    """A question and its cells; `source` is where the paper asks it, `axis` the key that a figure may put on x.

    `probe` is the kind that its cells are about, which is asked for in any case. At `equal_compute` a cell is trained
    for so many epochs, one at least, that these come closest to the base config's FLOPs.
    """

    name: str
    question: str
    cells: tuple[Cell, ...]
    source: str = ""
    axis: str = ""
    log_axis: bool = False
    probed: bool = True
    probe: ProbeKind | None = None
    equal_compute: bool = False

    def of_the_paper(self) -> "Study":
        """Return the study without the cells that later work has added."""
        return replace(self, cells=tuple(cell for cell in self.cells if not cell.later))

    def base(self, config: Config) -> Config:
        """Return the config that the study changes: the one asked for, with the probe that its cells are about."""
        kinds = config.probe.kinds
        return config if self.probe in (None, *kinds) else with_values(config, {"probe.kinds": [*kinds, self.probe]})


@dataclass(frozen=True)
class PlannedCell:
    """A cell worked out for one base config; `given` are the study's cells, in words, that come out as this one."""

    name: str
    config: Config
    record: CellRecord
    given: tuple[str, ...]


def _images_asked_for(data: DataConfig) -> str:
    """Return a stand-in for a digest: what decides which images there are, as far as settings do."""
    return f"{data.source} {data.test_fraction} {data.split_seed}"


def plan_cells(study: Study, base: Config, digest_of: Digests = _images_asked_for) -> list[PlannedCell]:
    """Return the study's cells for `base`, those with equal results once: of equal settings, on images of one digest.

    Raises `UserError` if a cell is impossible, if cells differ in what changes no result, or if two that have
    different results have one name.
    """
    base = study.base(base)
    study, _ = possible(study, base)
    planned: dict[tuple[str, ...], PlannedCell] = {}
    for cell in study.cells:
        made = _work_out(study, cell, base, digest_of)
        results = _results_of(made.config, digest_of)
        first = planned.setdefault(results, made)
        if first is not made:
            planned[results] = replace(first, given=first.given + made.given)
    _refuse_keys_without_results(study)
    names = [cell.name for cell in planned.values()]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise UserError(f"study {study.name}: two cells with different settings are named {twice!r}; give each its own")
    return list(planned.values())


def possible(study: Study, base: Config) -> tuple[Study, dict[str, str]]:
    """Return the study without the cells that `base` leaves out, and of each of these, by name, why."""
    kept, left_out = [], {}
    for cell in study.cells:
        try:
            if cell.where_possible:
                change(base, _overrides(cell, base))
        except UserError as error:
            name = cell.name or ", ".join(map(_text, cell.overrides.values()))
            left_out[name] = str(error).splitlines()[0]
        else:
            kept.append(cell)
    return replace(study, cells=tuple(kept)), left_out


def _overrides(cell: Cell, base: Config) -> dict[str, Any]:
    values = flatten(base.model_dump(mode="json"))
    return {key: value.of(key, values) if isinstance(value, Times) else value for key, value in cell.overrides.items()}


def _work_out(study: Study, cell: Cell, base: Config, digest_of: Digests) -> PlannedCell:
    try:
        overrides = _overrides(cell, base)
        if study.equal_compute:
            overrides |= _schedule_of_equal_compute(base, change(base, overrides))
        config = change(base, overrides)
        overrides |= _acting_here_only(base, config)
        overrides |= {key: None for key, value in overrides.items() if value == UNSET}
    except UserError as error:
        raise UserError(f"study {study.name}, cell {cell}: {error}") from None
    told = [overrides[study.axis]] if study.axis in overrides else [overrides[key] for key in cell.overrides]
    name = cell.name or ", ".join(map(_text, told))
    is_default = _results_of(config, digest_of) == _results_of(base, digest_of)
    record = CellRecord(name=name, overrides=overrides, paper=dict(cell.paper), is_default=is_default)
    return PlannedCell(name, config, record, (str(cell),))


def _acting_here_only(base: Config, config: Config) -> dict[str, Any]:
    """Return what is set in the base config, has no effect there, and has one in a cell."""
    here = inert_keys(base) - inert_keys(config)
    return {key: value for key, value in differences(base, Config()).items() if key in here}


def _schedule_of_equal_compute(base: Config, config: Config) -> dict[str, Any]:
    """Return the epochs of a cell, and its warm-up as the same share of them, under which it takes the base's FLOPs."""
    from ablations.studies.forecast_measuring import size_of  # with PyTorch, which most studies are planned without

    flops = size_of(config).training
    factor = size_of(base).training / flops if flops else 1.0
    epochs = {"train.epochs": max(1, round(base.train.epochs * factor))}
    if base.train.warmup_epochs is None:
        return epochs
    return epochs | {"train.warmup_epochs": base.train.warmup_epochs * epochs["train.epochs"] / base.train.epochs}


def _results_of(config: Config, digest_of: Digests) -> tuple[str, ...]:
    """Return what tells results of configs apart: what identifies the pretraining and its probes."""
    pretraining, subject = fingerprints(config, digest_of)
    return pretraining, *(probe_name(config, kind, subject) for kind in config.probe.kinds)


def fingerprints(config: Config, digest_of: Digests) -> tuple[str, str]:
    """Return what identifies a pretraining, and its encoder as it is probed."""
    own, probed = digest_of(config.data), digest_of(config.probed_data)
    pretraining = pretrain_fingerprint(config, own)
    return pretraining, probed_fingerprint(pretraining, own, probed)


def _refuse_keys_without_results(study: Study) -> None:
    """Refuse cells that differ in what makes no difference, or in what all of them get."""
    for key in sorted({key for cell in study.cells for key in cell.overrides}):
        if key == "train.seed":
            count = len({str(cell.overrides.get(key)) for cell in study.cells})
            raise UserError(f"study {study.name}: every cell is trained with the same seeds; give --seeds {count}")
        if key == "probe.kinds":
            raise UserError(f"study {study.name}: every cell gets the same probes, {key} cannot differ; give --probe")
        if key.startswith("run."):
            raise UserError(f"study {study.name}: {key} changes no result, so cells cannot differ in it; give --set")


def product(axes: Iterable[str]) -> Study:
    """Return the study of all combinations of `key=value,value` axes, as `--axis` gives them."""
    values: dict[str, list[Any]] = {}
    for axis in axes:
        key, _, text = axis.partition("=")
        key = key.strip()
        if key in values:
            raise UserError(f"--axis {key} is given twice; give all of its values in one")
        values[key] = _parse_values(text)
        if not key or not values[key]:
            raise UserError(f"--axis {axis!r}: expected dotted.key=value,value")
    return of_axes("-".join(key.split(".")[-1] for key in values), "", values)


def _parse_values(text: str) -> list[Any]:
    """Return the values of `value,value`, which may be lists; none if one is empty."""
    whole = parse_value(f"[{text}]")
    if isinstance(whole, list):
        return whole
    parts = [part.strip() for part in re.split(r",(?![^[]*])", text)]  # at commas outside brackets
    return [parse_value(part) for part in parts] if all(parts) else []


def of_axes(name: str, question: str, axes: Mapping[str, list[Any]]) -> Study:
    """Return the study of all combinations of values of keys; `UserError` for a key without values."""
    if empty := [key for key, values in axes.items() if not values]:
        raise UserError(f"study {name}: the axis {empty[0]} has no values")
    cells = []
    for values in itertools.product(*axes.values()):
        overrides = dict(zip(axes, values, strict=True))
        shown = ", ".join(f"{key.split('.')[-1]}={_text(value)}" for key, value in overrides.items())
        cells.append(Cell(overrides, name="" if len(axes) == 1 else shown))
    if len(axes) > 1:
        return Study(name, question, tuple(cells))
    ((axis, along),) = axes.items()
    return Study(name, question, tuple(cells), axis=axis, log_axis=evener_as_logarithms(along))


def evener_as_logarithms(values: Sequence[Any]) -> bool:
    """Say whether the steps between values differ by smaller factors on a logarithmic axis: 0.01, 0.1, 1 but not 0.5,
    0.75, 0.95."""
    numbers = sorted({float(value) for value in values if type(value) in (int, float)})
    if len(numbers) < max(3, len(values)) or numbers[0] <= 0:
        return False

    def unevenness(points: Sequence[float]) -> float:
        steps = [high - low for low, high in itertools.pairwise(points)]
        return max(steps) / min(steps)

    return unevenness([math.log(number) for number in numbers]) < unevenness(numbers)


def _text(value: Any) -> str:
    """Return a value as people write it: 0.75, true, random, [8, 8]."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return spelled(value)
