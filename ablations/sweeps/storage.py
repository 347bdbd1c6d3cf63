"""Where Optuna keeps a sweep's study: SQLite or PostgreSQL, one driver at a time, one space per name."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from mae.config.resolve import flatten
from mae.errors import RunError, UserError, first_line, without_secrets
from mae.runs.locks_and_writes import one_at_a_time

IDENTITY = "identity"
"""The study attribute that holds what the study searches."""


@contextmanager
def opened(url: str, name: str, runs_dir: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Give the storage at an SQLAlchemy URL, its tables made if needed, with the study `name` held.

    `UserError` if it does not answer, or if another process drives the study: a PostgreSQL server can be driven from
    many machines. Elsewhere the lock on the sweep's directory has to do.
    """
    with one_at_a_time(runs_dir):  # two that make the tables of a fresh database get in each other's way
        storage = _storage(url)
    with ExitStack() as stack:
        stack.callback(storage.engine.dispose)
        if storage.engine.dialect.name == "postgresql":
            connection = stack.enter_context(storage.engine.connect())  # the server lets go of the lock when it ends
            if not _lock(connection, name):
                raise UserError(f"sweep {name} is being driven from another machine or folder; wait for it")
        try:
            yield storage
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise RunError(
                f"--storage {without_secrets(url)}: {first_line(error)}; the same command continues"
            ) from None


def _storage(url: str) -> optuna.storages.RDBStorage:
    try:
        arguments = {"timeout": 60} if make_url(url).get_backend_name() == "sqlite" else {}
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": arguments})
    except (SQLAlchemyError, ImportError, ValueError, optuna.exceptions.OptunaError) as error:
        raise UserError(f"--storage {without_secrets(url)}: {first_line(error)}") from None
    if storage.engine.dialect.name == "sqlite":
        event.listen(storage.engine, "connect", _write_ahead)
        storage.engine.dispose()  # the connections made so far have not heard of it
    return storage


def _write_ahead(connection: Any, _: Any) -> None:
    """A few milliseconds less per write; what was told survives a killed driver, not always a power cut."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _lock(connection: Connection, name: str) -> bool:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    held = bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar())
    connection.commit()
    return held


def open_study(
    storage: optuna.storages.RDBStorage,
    name: str,
    directions: Sequence[Literal["minimize", "maximize"]],
    identity: dict[str, Any],
) -> optuna.Study:
    """Return the study `name`, made if needed; `UserError` with the differences if it searches something else."""
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    known = study.user_attrs.get(IDENTITY)
    if known is None:
        study.set_user_attr(IDENTITY, identity)
    elif known != (wanted := json.loads(json.dumps(identity))):
        listed = "\n".join(differences(known, wanted))
        raise UserError(
            f"sweep {name} exists and differs; give another --study, or ask for what it searches:\n{listed}"
        )
    return study


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return a line per key that differs: what the study has, and what is asked for."""
    before, after = flatten(dict(known)), flatten(dict(wanted))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"  {key}: {before.get(key, 'nothing')} there, {after.get(key, 'nothing')} asked for" for key in keys]
