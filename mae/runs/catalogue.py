"""All runs in a folder: finding one, listing them. `mae.runs.selection` chooses among them."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from mae.config.resolve import flatten, read_toml
from mae.errors import UserError
from mae.runs.directory import Damaged, Record, RunDirectory, probes_of, status_of
from mae.runs.notes import named, read_notes
from mae.runs.probe_settings import own_settings
from mae.runs.study_record import find_studies


def find_runs(runs_dir: Path) -> list[RunDirectory]:
    """Return every pretraining under `runs_dir`, newest first."""
    ours = [(record.started, run) for run, record in _records(runs_dir) if record is not None]
    return [run for _, run in sorted(ours, key=lambda each: -each[0])]


def unreadable_runs(runs_dir: Path, settings: bool = False) -> dict[RunDirectory, str]:
    """Return the pretrainings under `runs_dir` that cannot be shown, with their `settings` or without, and why."""
    found = {}
    for run, _ in _records(runs_dir):
        status, reason = status_of(run)
        if status == "unreadable":
            found[run] = reason
        elif settings:
            try:
                settings_of(run)
            except UserError as error:
                found[run] = str(error)
    return found


def settings_of(run: RunDirectory) -> dict[str, Any]:
    """Return the settings of a run by dotted key; `UserError` if its file is damaged."""
    return flatten(read_toml(run.path / "config.toml"))


def _records(runs_dir: Path) -> Iterator[tuple[RunDirectory, Record | None]]:
    for path in sorted(runs_dir.glob("*/record.json")):
        run = RunDirectory(path.parent)
        yield run, run.read_record()


def find_run(runs_dir: Path, prefix: str) -> RunDirectory:
    """Return the one pretraining whose fingerprint starts with `prefix`, or else whose own name it is, or raise
    `UserError`."""
    runs = find_runs(runs_dir)
    matches = [run for run in runs if prefix and run.path.name.startswith(prefix)] or named(runs, prefix)
    if not prefix or (not matches and not all(character in "0123456789abcdef" for character in prefix)):
        raise UserError(
            f"run {prefix!r}: expected (the start of) a fingerprint such as 3fa9c1, or a name that --name gave; see "
            "`mae-cli runs`"
        )
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise UserError(f"no run in {runs_dir} starts with {prefix!r}; see `mae-cli runs`")
    raise UserError(f"{prefix!r} fits {len(matches)} runs: {', '.join(run.path.name for run in matches)}; say more")


def shown_name(run: RunDirectory) -> str:
    """Return a run's own name, or what its settings are where it has none."""
    record = run.read_record()
    return read_notes(run).name or (record.name if record else "")


def list_runs(runs_dir: Path) -> list[dict[str, Any]]:
    """Return one row per readable pretraining, newest first: see `run_row`, and the names of the studies it is in."""
    studies: dict[str, list[str]] = {}
    for _, record in find_studies(runs_dir):
        for fingerprint in dict.fromkeys(trial.fingerprint for trial in record.trials):
            studies.setdefault(fingerprint, []).append(record.name)
    rows = [row for row in map(run_row, find_runs(runs_dir)) if row["status"] != "unreadable"]
    return [row | {"study": ", ".join(sorted({*studies.get(row["run"], [])}))} for row in rows]


def settings_of_probe(probe: RunDirectory) -> str:
    """Return what sets a probe apart from others of its kind: `labels_per_class=5`; nothing if its file is damaged."""
    with suppress(UserError):
        return own_settings(settings_of(probe), probe.path.name.partition("-")[0])
    return ""


def _named_metrics(probe: RunDirectory) -> dict[str, float]:
    """Return the metrics of a probe; their names tell its settings where it has its own, as the numbers are others."""
    kind = probe.path.name.partition("-")[0]
    found: dict[str, float] = (probe.result() or {}).get("metrics", {})
    if found and (own := settings_of_probe(probe)):
        name = f"{kind} {own.replace('=', ':')}"  # conditions on runs have = for themselves
        return {f"{name}/{key.removeprefix(f'{kind}/')}": value for key, value in found.items()}
    return found


def run_row(run: RunDirectory) -> dict[str, Any]:
    """Return what there is to say about a pretraining: run, name, tags, note, status, date of its start, data, seconds,
    metrics of it and its probes: `knn/top1`, of one with settings of its own `knn labels_per_class:5/top1`."""
    record, notes = run.read_record(), read_notes(run)
    assert record is not None  # find_runs leaves out what has none
    metrics: dict[str, float] = {}
    with suppress(Damaged):
        metrics |= (run.result() or {}).get("metrics", {})
    for probe in probes_of(run):
        with suppress(Damaged):
            metrics |= _named_metrics(probe)
    return {
        "run": run.path.name,
        "name": notes.name or record.name,
        "tags": ", ".join(notes.tags),
        "note": notes.note,
        "status": status_of(run)[0],
        "date": datetime.fromtimestamp(record.started).isoformat(" ", "minutes"),
        "data": str(record.data.get("source", "")),
        "seconds": record.seconds,
        "metrics": metrics,
    }
