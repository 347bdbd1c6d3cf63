"""Finished runs that settings name: the tokenizer whose codes are predicted, the run whose weights are begun from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mae.config.resolve import flatten, resolve, spelled, with_values
from mae.config.tree import Config
from mae.errors import UserError
from mae.runs.catalogue import find_run
from mae.runs.directory import RunDirectory

NAMING = ("target.tokenizer", "train.init_from")
"""Settings whose value is a run in the folder of this one's results."""


def with_whole_fingerprints(config: Config, runs_dir: Path) -> Config:
    """Return a config that names other runs, if it names any, by their whole fingerprints: these say all, anywhere.

    `UserError` if what it gives is neither the start of one nor a run's folder in `runs_dir`.
    """
    values = flatten(config.model_dump())
    whole = {key: _fingerprint(key, values[key], runs_dir) for key in NAMING if values[key] is not None}
    return with_values(config, whole) if whole else config


def _fingerprint(key: str, given: str, runs_dir: Path) -> str:
    path = Path(given)
    if path.is_dir() and len(path.parts) > 1:
        if path.resolve().parent != runs_dir.resolve():
            raise UserError(f"{key}={given}: expected a run in {runs_dir}, the folder of this one's results")
        given = path.resolve().name
    return find_run(runs_dir, given).path.name


def finished_run(key: str, name: str, runs_dir: Path, advice: str) -> tuple[RunDirectory, Config]:
    """Return the run that `key` names by its fingerprint, and its config; `UserError` with `advice` if it is not there
    or not finished."""
    run = RunDirectory(runs_dir / name)
    if run.result() is None:
        raise UserError(f"{key}={name}: expected a finished run in {runs_dir}; {advice}")
    return run, resolve(file=run.path / "config.toml")


def check_same(key: str, name: str, config: Config, its: Config, needed: Iterable[str]) -> None:
    """Raise `UserError` if a config and that of the run which `key` names differ in one of the settings `needed`."""
    own, other = (flatten(each.model_dump()) for each in (config, its))
    for setting in needed:
        if own[setting] != other[setting]:
            raise UserError(
                f"{key}={name}: its {setting} is {in_words(other[setting])}, expected {in_words(own[setting])} as here"
            )


def in_words(value: Any) -> str:
    """Return a setting's value as people write it: a size as `8 x 8`."""
    return f"{value[0]} x {value[1]}" if isinstance(value, tuple) else spelled(value)
