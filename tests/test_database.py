"""SQL sources: rows in bounded batches, and a password that nothing shows."""

from __future__ import annotations

import sqlite3
import traceback
import uuid
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest

from data import database
from data.catalog import Query, parse_data_set
from data.database import expand, fetch, redact
from data.errors import DataRefused
from data.layout import Layout
from data.source import read

LAYOUT = Layout("made", "when", None, "load", (), "UTC")
SECRET = "p@ss:w/rd%1"


@pytest.fixture
def base(tmp_path: Path) -> str:
    path = tmp_path / "base.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table loads (time text, load real)")
        connection.executemany(
            "insert into loads values (?, ?)", [(f"2024-01-{day:02d}", day / 2) for day in range(1, 11)]
        )
    connection.close()
    return f"sqlite:///{path}"


def run(url: str, query: str, folder: Path) -> list[pl.DataFrame]:
    folder.mkdir(exist_ok=True)
    return [pl.read_parquet(path) for path in fetch(Query(kind="sql", url=url, query=query), LAYOUT, folder)]


def test_rows_come_in_batches_and_in_order(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BATCH_ROWS", 4)
    batches = run(base, "select * from loads order by time", tmp_path / "out")
    assert [batch.height for batch in batches] == [4, 4, 2]
    assert pl.concat(batches)["load"].to_list() == [day / 2 for day in range(1, 11)]


def test_an_empty_result_still_has_its_columns(base: str, tmp_path: Path) -> None:
    (batch,) = run(base, "select * from loads where load > 99", tmp_path / "out")
    assert batch.columns == ["time", "load"]
    assert batch.height == 0


def test_mixed_numbers_are_numbers(base: str, tmp_path: Path) -> None:
    (batch,) = run(base, "select 1 as load union all select 1.5 union all select null", tmp_path / "out")
    assert sorted(batch["load"].drop_nulls().cast(pl.Float64)) == [1.0, 1.5]


def test_what_only_python_knows_is_kept_as_text(tmp_path: Path) -> None:
    """PostgreSQL's ids come as `uuid.UUID`, and a query may well select columns that nobody uses."""
    ids = [uuid.UUID(int=number) for number in range(2)]
    frame = database._frame(["id", "load", "blob"], [(ids[0], 1.5, object()), (ids[1], None, None)])
    frame.write_parquet(tmp_path / "rows.parquet")
    assert frame["id"].to_list() == [str(one) for one in ids]
    assert frame["load"].to_list() == [1.5, None]
    assert frame["blob"].null_count() == 1


def test_exact_numbers_are_numbers_however_they_are_written(tmp_path: Path) -> None:
    """NaN and infinity among them, and more digits than Polars has room for."""
    texts = ["1.5", "NaN", "Infinity", "1e40", f"0.{30 * '3'}", "1000000000000"]
    numbers = [Decimal(text) for text in texts]
    frame = database._frame(["load"], [*((number,) for number in numbers), (None,)])
    assert frame.schema["load"] == pl.Float64
    assert frame["load"].is_nan().to_list() == [False, True, *[False] * 4, None]
    kept = [float(number) for number in numbers if not number.is_nan()]
    assert frame["load"].drop_nulls().drop_nans().to_list() == kept


def test_exact_numbers_that_tell_series_apart_keep_every_digit() -> None:
    ids = [Decimal("12345678901234567890"), Decimal("1E+3"), Decimal(7)]
    frame = database._frame(["id", "load"], [(one, Decimal("0.5")) for one in ids], "id")
    assert frame["id"].to_list() == ["12345678901234567890", "1000", "7"]
    assert frame["load"].to_list() == [0.5] * 3


@pytest.mark.postgres
def test_numeric_columns_of_postgresql(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server = request.getfixturevalue("_postgres")
    rows = "values (timestamp '2024-01-01', 7::numeric, 1.5::numeric), ('2024-01-02', 7, 'NaN')"
    query = f"select * from ({rows}) as rows (time, id, load)"
    entry = {
        "source": {"kind": "sql", "url": server, "query": query},
        "time": "time",
        "series": "id",
        "target": "load",
        "frequency": "D",
    }
    frame = read(parse_data_set(tmp_path / "catalog.yaml", "made", entry)).frame
    assert frame["series"].to_list() == ["7", "7"]
    assert frame["load"].to_list() == [1.5, None]


def test_the_password_comes_from_the_environment_whatever_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", SECRET)
    monkeypatch.setenv("DB_HOST", "db.example")
    url, secrets = expand("postgresql+psycopg://me:${DB_PASSWORD}@${DB_HOST}:5432/base", LAYOUT)
    assert (url.username, url.password, url.host, url.port) == ("me", SECRET, "db.example", 5432)
    assert SECRET not in repr(url)
    assert SECRET in secrets
    assert redact(f"bad {SECRET}\nsecond line", secrets) == "bad ***"
    monkeypatch.setenv("DB_HOST", "p@ss")
    _, secrets = expand("postgresql://me:${DB_PASSWORD}@${DB_HOST}/base", LAYOUT)
    assert redact(f"bad {SECRET}", tuple(secrets)) == "bad ***"
    monkeypatch.setenv("DATABASE_URL", "sqlite:////somewhere/base.db")
    assert expand("${DATABASE_URL}", LAYOUT)[0].database == "/somewhere/base.db"


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DB_PASSWORD", raising=False)
    with pytest.raises(DataRefused, match=r"environment variable DB_PASSWORD.*export DB_PASSWORD"):
        expand("postgresql://me:${DB_PASSWORD}@host/base", LAYOUT)


def test_a_password_in_the_catalog_is_refused_and_not_repeated() -> None:
    with pytest.raises(DataRefused, match="holds a password") as refused:
        expand("postgresql://me:hunter2@host/base", LAYOUT)
    assert "hunter2" not in str(refused.value)


def test_postgresql_means_the_driver_that_is_installed() -> None:
    url, _ = expand("postgresql://me@host/base", LAYOUT)
    assert url.drivername == "postgresql+psycopg"
    url, _ = expand("postgresql+asyncpg://me@host/base", LAYOUT)
    assert url.drivername == "postgresql+asyncpg"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:${DB_PASSWORD}@127.0.0.1:1/base?connect_timeout=1",
        "postgresql+psycopg://me:${DB_PASSWORD}@nowhere.invalid/${DB_PASSWORD}",
        "nosuchdialect://me:${DB_PASSWORD}@host/base",
        "postgresql://me:${DB_PASSWORD}@host:${DB_PASSWORD}/base",
        "sqlite:////nonexistent/${DB_PASSWORD}",
    ],
)
def test_no_failure_shows_the_password(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", SECRET)
    with pytest.raises(DataRefused) as refused:
        run(url, "select 1", tmp_path / "out")
    text = "".join(traceback.format_exception(refused.value))
    assert SECRET not in text
    assert quote(SECRET, safe="") not in text
    assert refused.value.remedy


def test_a_sqlite_file_that_is_missing_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match=r"There is no file .*absent.db. Remedy: correct source.url"):
        run(f"sqlite:///{tmp_path / 'absent.db'}", "select 1", tmp_path / "out")
    assert not (tmp_path / "absent.db").exists()
    for url in ("sqlite://", "sqlite:///:memory:"):
        assert len(run(url, "select 1 as load", tmp_path / "out")) == 1


def test_a_wrong_query_is_refused_with_the_databases_reason(base: str, tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="query failed: no such table: absent"):
        run(base, "select * from absent", tmp_path / "out")
