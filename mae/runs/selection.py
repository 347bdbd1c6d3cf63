"""Which of many runs are meant: filters by `key=value`, an order, a limit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae.config.resolve import UNSET, config_fields, flatten, nearest, parse_value, read_toml
from mae.errors import UserError

OWN = ("run", "name", "status", "seconds")


def select_runs(
    rows: list[dict[str, Any]], runs_dir: Path, where: Sequence[str], sort: str, limit: int | None
) -> list[dict[str, Any]]:
    """Return those rows of `list_runs` that every `key=value` fits, the largest of `sort` first, at most `limit`.

    A key is a setting, a metric, or one of `OWN`. Runs without it fit `unset` only and come last. `UserError` for a key
    that no run has.
    """
    if not where and not sort:
        return rows[:limit]
    values = [_values(row, runs_dir) for row in rows]
    known = [*OWN, *dict(config_fields()), *{key: None for row in rows for key in row["metrics"]}]
    chosen = list(range(len(rows)))
    for condition in where:
        key, separator, text = condition.partition("=")
        if not separator:
            raise UserError(f"{condition!r}: expected key=value, such as mask.ratio=0.75 or status=finished")
        _check(key, known)
        wanted = text if key in OWN else parse_value(text)
        chosen = [index for index in chosen if values[index].get(key, UNSET) == wanted]
    if sort:
        _check(sort, known)
        having = [index for index in chosen if values[index].get(sort) is not None]
        ordered = sorted(having, key=lambda index: _rank(values[index][sort]), reverse=True)
        chosen = ordered + [index for index in chosen if index not in having]
    return [rows[index] for index in chosen][:limit]


def _values(row: dict[str, Any], runs_dir: Path) -> dict[str, Any]:
    settings = flatten(read_toml(runs_dir / row["run"] / "config.toml"))
    return settings | row["metrics"] | {key: row[key] for key in OWN}


def _rank(value: Any) -> tuple[bool, Any]:
    """Numbers among themselves, everything else by its text."""
    return (True, value) if isinstance(value, int | float) else (False, str(value))


def _check(key: str, known: list[str]) -> None:
    if key not in known:
        raise UserError(f"unknown key {key!r}{nearest(key, known)}; expected a setting, a metric, or {', '.join(OWN)}")
