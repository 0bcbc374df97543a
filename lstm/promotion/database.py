"""The ledger's tables, and transactions on them: SQLite or PostgreSQL, by URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from data.database import parse
from data.errors import NightcastError

SCHEMA_VERSION = 1
_BUSY_SECONDS = 30
# Any number will do that other programs in the same PostgreSQL database are unlikely to lock.
_ADVISORY_LOCK = 0x6E696768

metadata = sa.MetaData()

schema = sa.Table("nightcast_schema", metadata, sa.Column("version", sa.Integer, primary_key=True))

nights = sa.Table(
    "nights",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("data_set", sa.Text, nullable=False, index=True),
    sa.Column("as_of", sa.Text, nullable=False),
    sa.Column("config_hash", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("began_at", sa.Text, nullable=False),
    sa.Column("ended_at", sa.Text),
    sa.Column("ending", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("seen", sa.Text),
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("data_set", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("version", sa.Text),
    sa.Column("previous", sa.Text),
    sa.Column("night", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("decided_at", sa.Text, nullable=False),
    # A night promotes at most once, whatever races.
    sa.Index(
        "one_promotion_a_night",
        "night",
        unique=True,
        sqlite_where=sa.text("kind = 'promoted'"),
        postgresql_where=sa.text("kind = 'promoted'"),
    ),
)

champions = sa.Table(
    "champions",
    metadata,
    sa.Column("data_set", sa.Text, primary_key=True),
    sa.Column("version", sa.Text),
    sa.Column("previous", sa.Text),
    sa.Column("decided_at", sa.Text),
    # The version that the registry's alias was last set to; tells a stale alias from one that a person moved.
    sa.Column("alias", sa.Text),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("data_set", sa.Text, primary_key=True),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("taken_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)


class LedgerError(NightcastError):
    """The ledger cannot do what was asked."""


class LedgerUnreachable(LedgerError):
    """The ledger's database cannot be used now, which says nothing about what it holds."""


class Database:
    """Short transactions on the ledger's tables, which are created where they do not exist.

    Args:
        url: an SQLAlchemy URL of SQLite or PostgreSQL; an SQLite file's folder is created.

    Raises:
        LedgerUnreachable: it does not answer.
        LedgerError: not such a URL, or the tables were written by a newer version.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = parse(url)
        except (sa.exc.ArgumentError, ValueError):
            # Not chained: the parser quotes the part that it trips over, which may be one of the password.
            raise LedgerError("The ledger's URL is not one. Remedy: check NIGHTCAST_DATABASE_URL.") from None
        self.dialect = self._url.get_backend_name()
        if self.dialect not in ("sqlite", "postgresql"):
            raise LedgerError(f"{self}: the ledger needs SQLite or PostgreSQL, not {self.dialect}.")
        wait = {"timeout": _BUSY_SECONDS} if self.dialect == "sqlite" else {"connect_timeout": _BUSY_SECONDS}
        # No pool: transactions are few and short, and a connection must not outlive a fork or a server.
        self._engine = sa.create_engine(self._url, poolclass=sa.NullPool, connect_args=wait)
        if self.dialect == "sqlite":
            self._make_folder()
            sa.event.listen(self._engine, "connect", _leave_transactions_to_us)
            sa.event.listen(self._engine, "begin", _begin_immediate)
        self._create()

    def __str__(self) -> str:
        return self._url.render_as_string(hide_password=True)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """One transaction: all of it or, on an exception, nothing.

        Raises:
            LedgerUnreachable: the database does not answer, stays locked, or is not one.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.IntegrityError:
            raise
        except sa.exc.DBAPIError as error:
            raise LedgerUnreachable(
                f"{self}: {str(error.orig).strip()}. Remedy: check that the database runs and can be reached."
            ) from error

    def insert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT with ON CONFLICT, which both dialects have and SQLAlchemy's generic one lacks."""
        return sqlite.insert(table) if self.dialect == "sqlite" else postgresql.insert(table)

    @property
    def clock(self) -> sa.ColumnElement[Any]:
        """Seconds since the epoch by the database's clock: the one clock that all hosts share."""
        if self.dialect == "sqlite":
            return (sa.func.julianday("now") - 2440587.5) * 86400.0
        return sa.extract("epoch", sa.func.clock_timestamp())

    def _make_folder(self) -> None:
        if self._url.database in (None, "", ":memory:"):
            raise LedgerError("The ledger needs a file: an SQLite database in memory forgets every decision.")
        folder = Path(str(self._url.database)).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerUnreachable(f"{self}: its folder cannot be made: {error}.") from error

    def _create(self) -> None:
        """Create the tables, once, however many processes start at the same time."""
        with self.begin() as connection:
            if self.dialect == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            metadata.create_all(connection)
            version = connection.scalar(sa.select(schema.c.version))
            if version is None:
                connection.execute(sa.insert(schema).values(version=SCHEMA_VERSION))
            elif version > SCHEMA_VERSION:
                raise LedgerError(
                    f"{self}: written by a newer Nightcast (schema {version}; this one knows "
                    f"{SCHEMA_VERSION}). Remedy: upgrade this installation."
                )


def _leave_transactions_to_us(connection: Any, _: object) -> None:
    # Python's sqlite3 begins a transaction late, after the reads: two writers could both read the old state.
    connection.isolation_level = None


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
