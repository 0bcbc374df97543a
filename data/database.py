"""SQL sources: a query's rows, in batches to disk. A password comes from the environment, and no
message, error or log shows it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import sqlalchemy
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from data.catalog import Query
from data.layout import Layout

BATCH_ROWS = 100_000

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def fetch(source: Query, layout: Layout, folder: Path) -> list[Path]:
    """Run the query; its rows become Parquet files in `folder`, in order, so that memory stays bounded.

    Raises:
        DataRefused: a variable is not set, a password stands in the catalog, the driver or a SQLite file is
            missing, the database does not answer or the query fails.
    """
    url, secrets = expand(source.url, layout)
    _refuse_absent(url, secrets, layout)
    try:
        engine = sqlalchemy.create_engine(url, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        layout.refuse(
            f"The database URL cannot be used: {redact(str(error), secrets)}.",
            remedy="write dialect+driver://user:${PASSWORD}@host/base, and install the driver.",
        )
    paths: list[Path] = []
    failure = ""
    try:
        with engine.connect().execution_options(stream_results=True) as connection:
            paths = _store(connection, source.query, folder, layout.series)
    except SQLAlchemyError as error:
        # Refused outside this block, so that the driver's own error, which may quote the URL, is not chained.
        failure = redact(str(getattr(error, "orig", None) or error), secrets)
    finally:
        engine.dispose()
    if failure:
        layout.refuse(
            f"The query failed: {failure}.",
            remedy="check that the database runs, the URL, the user's rights and the query.",
        )
    return paths


def _refuse_absent(url: sqlalchemy.URL, secrets: tuple[str, ...], layout: Layout) -> None:
    """Refuse a SQLite file that does not exist, before connecting would make an empty one."""
    path = url.database or ":memory:"
    if url.get_backend_name() != "sqlite" or path.startswith((":memory:", "file:")) or Path(path).is_file():
        return
    layout.refuse(
        f"There is no file {redact(str(Path(path).absolute()), secrets)}.",
        remedy="correct source.url; a relative path in it starts from the folder that the command runs in.",
    )


def _store(connection: sqlalchemy.Connection, query: str, folder: Path, series: str | None) -> list[Path]:
    """Each batch as one file; at least one, so that an empty result still has columns."""
    result = connection.execute(sqlalchemy.text(query))
    names = list(result.keys())
    paths: list[Path] = []
    while (rows := result.fetchmany(BATCH_ROWS)) or not paths:
        paths.append(folder / f"{len(paths):06d}.parquet")
        _frame(names, rows, series).write_parquet(paths[-1])
    return paths


def _frame(names: Sequence[str], rows: Sequence[Sequence[Any]], series: str | None = None) -> pl.DataFrame:
    """Rows as columns; values that only Python knows, such as `uuid.UUID`, as their text.

    Decimals become floats, as every number does later; those of the column `series` are ids.
    """
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]
    return pl.DataFrame(
        [
            _column(name, [_plain(value, is_id=name == series) for value in column])
            for name, column in zip(names, columns, strict=True)
        ]
    )


def _column(name: str, column: list[Any]) -> pl.Series:
    values = pl.Series(name, column, strict=False)
    if values.dtype == pl.Object:
        return pl.Series(name, [None if value is None else str(value) for value in column], pl.String)
    return values


def _plain(value: Any, *, is_id: bool) -> Any:
    """The value; a decimal, of which Polars knows 38 digits and no NaN, as a float or an id's digits."""
    if not isinstance(value, Decimal):
        return value
    return f"{value:f}" if is_id else float(value)


def expand(url: str, layout: Layout) -> tuple[sqlalchemy.URL, tuple[str, ...]]:
    """A URL with ``${NAME}`` filled from the environment, and the filled-in texts, to be redacted.

    Raises:
        DataRefused: a variable is not set, the URL cannot be parsed, or it holds a password as such.
    """
    secrets: list[str] = []
    user_part = url.rfind("@")

    def fill(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if value is None:
            layout.refuse(
                f"The database URL needs the environment variable {match[1]}, which is not set.",
                remedy=f"export {match[1]}=... where the night runs.",
            )
        secrets.extend((value, quote(value, safe="")))
        return quote(value, safe="") if match.start() < user_part else value

    full = _parsed(_PLACEHOLDER.sub(fill, url))
    bare = _parsed(_PLACEHOLDER.sub("", url)) if user_part > 0 else None
    if full is None:
        layout.refuse(
            "The database URL cannot be parsed.", remedy="write dialect+driver://user:${PASSWORD}@host/base."
        )
    if bare is not None and bare.password:
        layout.refuse(
            "The database URL holds a password.",
            remedy="write ${DB_PASSWORD} in its place, and export DB_PASSWORD where the night runs.",
        )
    if full.password:
        secrets.append(str(full.password))
    return full, tuple(sorted(filter(None, secrets), key=len, reverse=True))


def parse(url: str) -> sqlalchemy.URL:
    """A URL as SQLAlchemy reads it; plain ``postgresql://`` means psycopg, the driver that comes with us.

    Raises:
        sqlalchemy.exc.ArgumentError, ValueError: not a URL.
    """
    parsed = sqlalchemy.make_url(url)
    is_plain = parsed.drivername == "postgresql"
    return parsed.set(drivername="postgresql+psycopg") if is_plain else parsed


def _parsed(url: str) -> sqlalchemy.URL | None:
    try:
        return parse(url)
    except (ArgumentError, ValueError):
        return None


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """The first line of a text with every secret replaced."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text.splitlines()[0] if text else ""
