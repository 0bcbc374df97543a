"""Optuna's storage, set up so that several processes can share it and be killed.

SQLite: every transaction takes the write lock when it begins. Optuna reads a trial's state before it
changes it; with SQLite's late locking two workers would both take one waiting trial. PostgreSQL locks rows.
"""

from __future__ import annotations

import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from data.database import parse
from data.errors import NightcastError

HEARTBEAT_SECONDS = 15
GRACE_SECONDS = 60

_BUSY_SECONDS = 60
_CREATE_ATTEMPTS = 8

OnStale = Callable[[optuna.Study, optuna.trial.FrozenTrial], None]


class SearchFailed(NightcastError):
    """A search that cannot go on, or that found nothing."""


@contextmanager
def opened(url: str, on_stale: OnStale | None = None) -> Iterator[optuna.storages.RDBStorage]:
    """An existing study database; its connections are closed at the end.

    Args:
        url: SQLAlchemy URL, SQLite or PostgreSQL.
        on_stale: called for each trial that is failed because its heartbeat stopped.

    Raises:
        SearchFailed: the database does not answer, or nobody has prepared it.
    """
    _check_tables(url)
    storage = _connect(url, on_stale, skip_compatibility_check=True, skip_table_creation=True)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def prepare(url: str) -> None:
    """Create the database's tables where they are missing. Processes may race for it.

    Raises:
        SearchFailed: the database cannot be reached or written.
    """
    for attempt in range(1, _CREATE_ATTEMPTS + 1):
        try:
            # An attempt that fails keeps no connection.
            storage = _connect(url, None, engine={"poolclass": NullPool})
        except (SQLAlchemyError, StorageInternalError) as error:
            # Optuna looks for its tables and creates them in two steps; another process came between.
            if attempt == _CREATE_ATTEMPTS:
                raise SearchFailed(
                    f"cannot create a study database at {shown(url)}: {cause_of(error)}. Remedy: see that it "
                    "can be reached and written"
                ) from error
            time.sleep(0.05 * attempt)
        else:
            storage.remove_session()
            return


def shown(url: str) -> str:
    """The URL without its password."""
    return parse(url).render_as_string(hide_password=True)


def _check_tables(url: str) -> None:
    """Ask before Optuna does, which would leave a connection behind where there is nothing."""
    engine = create_engine(parse(url), poolclass=NullPool)
    try:
        found = inspect(engine).has_table("studies")
    except SQLAlchemyError as error:
        raise SearchFailed(
            f"study database {shown(url)}: {cause_of(error)}. Remedy: see that it is up and can be reached"
        ) from error
    if not found:
        raise SearchFailed(
            f"study database {shown(url)} has no tables. Remedy: create the study first, by the process that "
            "starts the workers"
        )


def _connect(
    url: str, on_stale: OnStale | None, engine: Mapping[str, Any] | None = None, **options: Any
) -> optuna.storages.RDBStorage:
    # What happened to a trial is told by the worker, in our words and once.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    full = parse(url)
    is_sqlite = full.get_backend_name() == "sqlite"
    own: dict[str, Any] = (
        {"connect_args": {"timeout": _BUSY_SECONDS}} if is_sqlite else {"pool_pre_ping": True}
    )
    # Lanes and their heartbeats share the connections; who waits for one waits as for the database.
    if not engine:
        own["pool_timeout"] = _BUSY_SECONDS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        storage = optuna.storages.RDBStorage(
            full.render_as_string(hide_password=False),
            {**own, **(engine or {})},
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=on_stale,
            **options,
        )
    if is_sqlite:
        _lock_early(storage.engine)
    return storage


def _lock_early(engine: Engine) -> None:
    """Take SQLite's write lock at the start of each transaction, and keep a write-ahead log."""

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        # Python's own late BEGIN is switched off.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    # Connections that were made before the listeners.
    engine.dispose()


def cause_of(error: Exception) -> str:
    """The first line of the database's own words."""
    cause = error.__cause__ or error
    return str(getattr(cause, "orig", None) or cause).splitlines()[0]
