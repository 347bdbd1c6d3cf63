"""The search space of a sweep as data: ranges and choices of config keys, checked against the config tree."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mae.config.presets import Overrides
from mae.config.resolve import ACTS_WHEN, UNSET, change, flatten, nearest, read_toml
from mae.config.tree import Config
from mae.errors import UserError

CHECKED = 200
"""Most values of a parameter that are tried out before the first trial; of more, the two ends."""


Values = FloatDistribution | IntDistribution | CategoricalDistribution


@dataclass(frozen=True)
class Parameter:
    """A config key to search over: its values, and the values of other parameters `when` it exists."""

    key: str
    values: Values
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def exists(self, chosen: Overrides) -> bool:
        """Say whether the parameter has a value beside those `chosen` before it."""
        return all(chosen.get(key) in allowed for key, allowed in self.when.items())

    def points(self) -> list[Any] | None:
        """Return every value, or None where there are infinitely many."""
        values = self.values
        if isinstance(values, CategoricalDistribution):
            return list(values.choices)
        if values.step is None:
            return None
        count = round((values.high - values.low) / values.step) + 1
        return [_clean(values.low + index * values.step) for index in range(count)]

    def contains(self, value: Any) -> bool:
        """Say whether `value` is one of the parameter's values."""
        points = self.points()
        if points is not None:
            return value in points
        assert not isinstance(self.values, CategoricalDistribution)
        return isinstance(value, int | float) and self.values.low <= value <= self.values.high

    def suggest(self, trial: Trial) -> Any:
        """Return the parameter's value in a trial, chosen by the sampler unless it has one already."""
        match self.values:
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.key, choices)
            case IntDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_int(self.key, low, high, step=step, log=log)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                value = trial.suggest_float(self.key, low, high, step=step, log=log)
                return value if step is None else _clean(value)

    def describe(self) -> dict[str, Any]:
        """Return the parameter as a space file has it, without its key."""
        kind = type(self.values).__name__.removesuffix("Distribution").lower()
        limits = {name: value for name, value in vars(self.values).items() if not name.startswith("_")}
        when = {key: list(allowed) for key, allowed in self.when.items()}
        return {"type": kind, **limits, **({"when": when} if when else {})}


Space = tuple[Parameter, ...]
"""Parameters in an order in which each comes after those that its `when` names."""


def suggest(space: Space, trial: Trial) -> Overrides:
    """Return a trial's values by dotted key; those that it has already stay as they are."""
    chosen: Overrides = {}
    for parameter in space:
        if parameter.exists(chosen):
            chosen[parameter.key] = parameter.suggest(trial)
    return chosen


def grid(space: Space) -> list[Overrides]:
    """Return every point of the space; `UserError` naming a parameter that has infinitely many values."""
    points: list[Overrides] = [{}]
    for parameter in space:
        if (values := parameter.points()) is None:
            raise UserError(f"--sampler grid: {parameter.key} has infinitely many values; give it a step")
        points = [
            point | more
            for point in points
            for more in ([{parameter.key: value} for value in values] if parameter.exists(point) else [{}])
        ]
    return points


def point_of(space: Space, config: Config) -> Overrides | None:
    """Return the point of the space at which a config lies, or None if it lies outside."""
    values = {key: UNSET if value is None else value for key, value in flatten(config.model_dump(mode="json")).items()}
    point: Overrides = {}
    for parameter in space:
        if parameter.exists(point):
            if not parameter.contains(values[parameter.key]):
                return None
            point[parameter.key] = values[parameter.key]
    return point


def default_space(base: Config, fixed: Sequence[str] = ()) -> Space:
    """Return masks, decoder, target and loss around `base`: what the paper's figures 5 and tables 1a, b, d, f vary.

    Depth and width of the decoder go up to 1.5 and 2 times the base config's. Keys that are `fixed` are left out.
    `UserError` if the base config is of no masked autoencoder.
    """
    if base.pretext.kind != "mae":
        raise UserError(
            "the default space is of settings of masked autoencoders, which have no effect with "
            f"pretext.kind={base.pretext.kind}; give --space FILE with settings that have: "
            "`mae-cli config --schema` lists every key and with what it acts"
        )
    depth, width = base.model.decoder.depth, base.model.decoder.dim
    unit = math.lcm(4, base.model.decoder.heads)
    step = next(width // parts for parts in (4, 2, 1) if width % parts == 0 and width // parts % unit == 0)
    ratios = [share / 20 for share in range(2, 19) if 1 <= round(base.patches * (1 - share / 20)) < base.patches]
    every = (
        Parameter("mask.ratio", FloatDistribution(min(ratios), max(ratios), step=0.05)),
        Parameter("mask.sampling", CategoricalDistribution(["random", "block", "grid"])),
        Parameter("model.decoder.depth", IntDistribution(1, max(2, round(1.5 * depth)))),
        Parameter("model.decoder.dim", IntDistribution(step, 2 * width, step=step)),
        Parameter("target.kind", CategoricalDistribution(["pixels", "normalized_pixels"])),
        Parameter("loss.region", CategoricalDistribution(["masked", "all"])),
    )
    return tuple(parameter for parameter in every if parameter.key not in fixed)


def read_space(file: Path) -> Space:
    """Return the space that a TOML file describes: a table per config key, with `type`, its range, and `when`."""
    tables = read_toml(file, "space")
    try:
        parameters = {key: _parameter(key, table) for key, table in _tables(tables)}
    except UserError as error:
        raise UserError(f"space file {file}: {error}") from None
    if not parameters:
        raise UserError(f"space file {file}: expected a table per key, such as [mask.ratio] with type, low and high")
    return _in_order(parameters)


def to_toml(space: Space) -> str:
    """Return a space as a file: `read_space` gives an equal one."""
    tables: dict[str, Any] = {}
    for parameter in space:
        *sections, leaf = parameter.key.split(".")
        table = tables
        for section in sections:
            table = table.setdefault(section, {})
        described = parameter.describe()
        table[leaf] = {name: value for name, value in described.items() if value is not None and value is not False}
    return tomli_w.dumps(tables)


def check_space(space: Space, base: Config, fixed: Sequence[str] = ()) -> None:
    """Refuse with a `UserError` what the config tree does not allow: keys, ranges, conditions that cannot hold.

    A value counts as possible if it goes with the base config or with some value of one other parameter.
    """
    by_key = {parameter.key: parameter for parameter in space}
    for parameter in space:
        key = parameter.key
        if key in fixed:
            raise UserError(f"space: {key} is searched over and fixed by --set; leave out one of the two")
        if key.startswith("run.") or key in ("probe.kinds", "train.seed"):
            raise UserError(f"space: {key} changes no result that a search could improve; leave it out")
        for other, allowed in parameter.when.items():
            if not any(by_key[other].contains(value) for value in allowed):
                raise UserError(f"space: {key} exists when {other} is {list(allowed)}, which {other} never is")
        _check_acts(parameter, base, by_key)
        for value in _checked_values(parameter):
            _check_value(_conditions(parameter, by_key) | {key: value}, base, space)


def _check_acts(parameter: Parameter, base: Config, by_key: Mapping[str, Parameter]) -> None:
    """Refuse a key without effect: most of its trials would be the same training."""
    for other, needed in ACTS_WHEN.get(parameter.key, {}).items():
        allowed = parameter.when.get(other)
        if other in by_key and (allowed is None or not set(allowed) <= set(needed)):
            raise UserError(
                f"space: {parameter.key} acts with {other}={' or '.join(needed)} only; "
                f'give it when = {{"{other}" = "{needed[0]}"}}'
            )


def _conditions(parameter: Parameter, by_key: Mapping[str, Parameter]) -> Overrides:
    """Return values of other parameters under which this one exists."""
    needed: Overrides = {}
    for key, allowed in parameter.when.items():
        needed |= _conditions(by_key[key], by_key) | {key: allowed[0]}
    return needed


def _check_value(own: Overrides, base: Config, space: Space) -> None:
    partners = ({other.key: value} for other in space if other.key not in own for value in _checked_values(other))
    problem = None
    for more in chain([{}], partners):
        try:
            change(base, own | more)
            return
        except UserError as error:
            problem = problem or error  # the first says what is wrong with the value itself
    raise UserError(f"space: {problem}") from None


def _checked_values(parameter: Parameter) -> list[Any]:
    values = parameter.points()
    if values is not None and len(values) <= CHECKED:
        return values
    ends = parameter.values
    assert isinstance(ends, FloatDistribution | IntDistribution)
    return [ends.low, ends.high]


def _clean(value: Any) -> Any:
    """Return 0.3 for 0.1 + 4 * 0.05: the same number in a study's cell is the same training."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _tables(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (dotted key, its table): `[mask.ratio]` and `["mask.ratio"]` are the same."""
    for name, value in tree.items():
        if not isinstance(value, dict):
            raise UserError(f"{prefix}{name}={value}: expected a table with type and low, high or choices")
        if isinstance(value.get("type"), str):
            yield prefix + name, value
        else:
            yield from _tables(value, f"{prefix}{name}.")


def _parameter(key: str, table: dict[str, Any]) -> Parameter:
    try:
        given = _TABLE.validate_python(table)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Optuna would lower a `high` that no step reaches
            values = _DISTRIBUTIONS[given.type](**given.model_dump(exclude={"type", "when"}))
        return Parameter(key, values, given.conditions())
    except ValidationError as error:
        first = error.errors()[0]
        inside = ".".join(str(part) for part in first["loc"][1:])
        raise UserError(f"{key}{'.' + inside if inside else ''}: {first['msg']}") from None
    except (ValueError, UserWarning) as error:  # Optuna's own rules: low <= high, no step with log ...
        raise UserError(f"{key}: {error}") from None


def _in_order(parameters: Mapping[str, Parameter]) -> Space:
    for parameter in parameters.values():
        for other in parameter.when:
            if other not in parameters:
                known = nearest(other, list(parameters))
                raise UserError(f"space: {parameter.key} exists when {other}, which is no key of this space{known}")
    try:
        order = list(TopologicalSorter({key: each.when for key, each in parameters.items()}).static_order())
    except CycleError as error:
        raise UserError(f"space: each exists only when the next does: {', '.join(error.args[1])}") from None
    return tuple(parameters[key] for key in order)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    when: dict[str, Any] = {}

    def conditions(self) -> dict[str, tuple[Any, ...]]:
        return {key: tuple(given) if isinstance(given, list) else (given,) for key, given in flatten(self.when).items()}


class _FloatTable(_Table):
    type: Literal["float"]
    low: float
    high: float
    step: float | None = None
    log: bool = False


class _IntTable(_Table):
    type: Literal["int"]
    low: int
    high: int
    step: int = 1
    log: bool = False


class _CategoricalTable(_Table):
    type: Literal["categorical"]
    choices: list[str | bool | int | float] = Field(min_length=1)


_DISTRIBUTIONS = {"float": FloatDistribution, "int": IntDistribution, "categorical": CategoricalDistribution}
_TABLE: TypeAdapter[_FloatTable | _IntTable | _CategoricalTable] = TypeAdapter(
    Annotated[_FloatTable | _IntTable | _CategoricalTable, Field(discriminator="type")]
)
