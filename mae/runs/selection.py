"""Choosing among runs: by conditions on their settings and metrics, in an order, a number of them."""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mae.config.reference import stored_value
from mae.config.resolve import UNSET, config_fields, nearest, parse_value, spelled
from mae.errors import UserError
from mae.runs.catalogue import list_runs, settings_of
from mae.runs.directory import RunDirectory

OWN = ("run", "name", "tags", "note", "status", "seconds", "date", "data", "study")
"""Keys of a row that are neither settings nor metrics."""

_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"([^=<>!]+)(!=|>=|<=|=|>|<)(.*)", re.DOTALL)


def select_runs(
    runs_dir: Path, conditions: Sequence[str] = (), sort: str = "", limit: int | None = None
) -> list[dict[str, Any]]:
    """Return at most `limit` rows of `list_runs` that fit every condition, newest or the largest of `sort` first.

    A condition is a key, one of = != > < >= <=, and a value; in texts * and ? stand for any characters. A key is a
    setting, a metric, or one of `OWN`. Runs without it fit `unset` only, and come last. `UserError` for a condition of
    another form, a key that no run has, a value that its setting cannot have, and a folder that is not there.
    """
    if not runs_dir.is_dir():
        raise UserError(f"there is no folder {runs_dir}; --runs-dir names the one that runs are in")
    rows = list_runs(runs_dir)
    known = [*OWN, *dict(config_fields()), *dict.fromkeys(key for row in rows for key in row["metrics"])]
    fits = [_condition(text, known) for text in conditions]
    if sort:
        _check_key(sort, known)
    if not fits and not sort:
        return rows[:limit]
    described = [(row, settings | row["metrics"] | own(row)) for row, settings in with_settings(rows, runs_dir)]
    chosen = [(row, values) for row, values in described if all(fit(values) for fit in fits)]
    if sort:
        chosen.sort(key=lambda each: _rank(each[1].get(sort)), reverse=True)
    return [row for row, _ in chosen][:limit]


def with_settings(rows: Sequence[dict[str, Any]], runs_dir: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield rows of `list_runs` with the settings of their runs; those whose settings are damaged are left out."""
    for row in rows:
        try:
            settings = settings_of(RunDirectory(runs_dir / row["run"]))
        except UserError:
            continue
        yield row, settings


def own(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row says under the keys of `OWN`."""
    return {key: row[key] for key in OWN}


def _condition(text: str, known: list[str]) -> Callable[[Mapping[str, Any]], bool]:
    """Return what says whether a run's values fit `text`."""
    if not (parts := _FORM.fullmatch(text)):
        raise UserError(f"{text!r}: expected key=value, or !=, >, <, >=, <=, such as 'mask.ratio>=0.75'")
    key, sign, given = (part.strip() for part in parts.groups())
    _check_key(key, known)
    if sign in _ORDERS:
        return _ordered(text, key, sign, given)
    if "*" in given or "?" in given:
        return lambda values: fnmatchcase(spelled(values.get(key)), given) == (sign == "=")
    wanted = _wanted(key, given)
    return lambda values: (values.get(key, UNSET) == wanted) == (sign == "=")


def _wanted(key: str, given: str) -> Any:
    if key in OWN and key != "seconds":
        return given
    value = parse_value(given)
    if value == UNSET:
        return value
    if key in dict(config_fields()):
        return stored_value(key, value)
    if type(value) not in (int, float):
        raise UserError(f"{key}={given}: expected a number")
    return value


def _ordered(text: str, key: str, sign: str, given: str) -> Callable[[Mapping[str, Any]], bool]:
    wanted, fits = given if key == "date" else parse_value(given), _ORDERS[sign]
    if key != "date" and type(wanted) not in (int, float):
        raise UserError(f"{text!r}: expected a number behind {sign}")

    def fit(values: Mapping[str, Any]) -> bool:
        value = values.get(key)
        return isinstance(value, str if key == "date" else int | float) and fits(value, wanted)

    return fit


def _check_key(key: str, known: list[str]) -> None:
    if key not in known:
        raise UserError(f"unknown key {key!r}{nearest(key, known)}; expected a setting, a metric, or {', '.join(OWN)}")


def _rank(value: Any) -> tuple[int, Any]:
    """Numbers among themselves, above everything else by its text, above what has no value."""
    return (2, value) if isinstance(value, int | float) else (value is not None, str(value))
