"""All runs in a folder: finding one, listing them, choosing by `key=value`, an order and a limit."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mae.config.resolve import UNSET, config_fields, flatten, nearest, parse_value, read_toml
from mae.errors import UserError
from mae.runs.directory import Record, RunDirectory, probes_of, status_of

OWN = ("run", "name", "status", "seconds")


def find_runs(runs_dir: Path) -> list[RunDirectory]:
    """Return every pretraining under `runs_dir`, newest first."""
    ours = [(record.started, run) for run, record in _records(runs_dir) if record is not None]
    return [run for _, run in sorted(ours, key=lambda each: -each[0])]


def unreadable_runs(runs_dir: Path) -> list[RunDirectory]:
    """Return the pretrainings under `runs_dir` whose record another version of the program wrote."""
    return [run for run, record in _records(runs_dir) if record is None]


def _records(runs_dir: Path) -> Iterator[tuple[RunDirectory, Record | None]]:
    for path in sorted(runs_dir.glob("*/record.json")):
        run = RunDirectory(path.parent)
        yield run, run.read_record()


def find_run(runs_dir: Path, prefix: str) -> RunDirectory:
    """Return the one pretraining whose fingerprint starts with `prefix`, or raise `UserError`."""
    if not prefix or not all(character in "0123456789abcdef" for character in prefix):
        raise UserError(f"run {prefix!r}: expected (the start of) a fingerprint such as 3fa9c1; see `mae-cli runs`")
    matches = [run for run in find_runs(runs_dir) if run.path.name.startswith(prefix)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise UserError(f"no run in {runs_dir} starts with {prefix!r}; see `mae-cli runs`")
    raise UserError(f"{prefix!r} fits {len(matches)} runs: {', '.join(run.path.name for run in matches)}; say more")


def list_runs(runs_dir: Path) -> list[dict[str, Any]]:
    """Return one row per pretraining, newest first: see `run_row`."""
    return [run_row(run) for run in find_runs(runs_dir)]


def run_row(run: RunDirectory) -> dict[str, Any]:
    """Return what there is to say about a pretraining: run, name, status, seconds, metrics of it and its probes."""
    record = run.read_record()
    assert record is not None  # find_runs leaves out what has none
    metrics: dict[str, float] = {}
    for stage in [run, *probes_of(run)]:
        metrics |= (stage.result() or {}).get("metrics", {})
    status = status_of(run)[0]
    return {"run": run.path.name, "name": record.name, "status": status, "seconds": record.seconds, "metrics": metrics}


def select_runs(
    rows: list[dict[str, Any]], runs_dir: Path, where: Sequence[str], sort: str, limit: int | None
) -> list[dict[str, Any]]:
    """Return those rows of `list_runs` that every `key=value` fits, the largest of `sort` first, at most `limit`.

    A key is a setting, a metric, or one of `OWN`. Runs without it fit `unset` only and come last. `UserError` for a key
    that no run has.
    """
    if not where and not sort:
        return rows[:limit]
    chosen = [(row, _values(row, runs_dir)) for row in rows]
    known = [*OWN, *dict(config_fields()), *{key: None for row in rows for key in row["metrics"]}]
    for condition in where:
        key, separator, text = condition.partition("=")
        if not separator:
            raise UserError(f"{condition!r}: expected key=value, such as mask.ratio=0.75 or status=finished")
        _check(key, known)
        wanted = text if key in OWN else parse_value(text)
        chosen = [(row, values) for row, values in chosen if values.get(key, UNSET) == wanted]
    if sort:
        _check(sort, known)
        chosen.sort(key=lambda each: _rank(each[1].get(sort)), reverse=True)
    return [row for row, _ in chosen][:limit]


def _values(row: dict[str, Any], runs_dir: Path) -> dict[str, Any]:
    settings = flatten(read_toml(runs_dir / row["run"] / "config.toml"))
    return settings | row["metrics"] | {key: row[key] for key in OWN}


def _rank(value: Any) -> tuple[int, Any]:
    """Numbers among themselves, above everything else by its text, above what has no value."""
    return (2, value) if isinstance(value, int | float) else (value is not None, str(value))


def _check(key: str, known: list[str]) -> None:
    if key not in known:
        raise UserError(f"unknown key {key!r}{nearest(key, known)}; expected a setting, a metric, or {', '.join(OWN)}")
