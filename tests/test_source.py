"""Sources: files, globs and queries become rows; finer rows become grid steps in bounded memory."""

# ruff: noqa: DTZ001 (times without a zone are part of what is tested)

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.catalog import DataSet, parse_data_set
from data.errors import DataRefused
from data.source import newest_time, read

Z = ZoneInfo("UTC")
Declare = Callable[..., DataSet]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    """A data set whose catalog lies in the test's folder."""

    def make(path: str = "rows.csv", kind: str = "csv", **keys: Any) -> DataSet:
        entry = {
            "source": {"kind": kind, "path": path},
            "time": "when",
            "target": "load",
            "frequency": "h",
            **keys,
        }
        return parse_data_set(tmp_path / "catalog.yaml", "made", entry)

    return make


def moment(text: str) -> np.datetime64:
    return np.datetime64(text, "us")


def hours(count: int, start: datetime = datetime(2024, 1, 1, tzinfo=Z)) -> pl.Series:
    return pl.Series("when", [start + timedelta(hours=hour) for hour in range(count)])


CSV = "when,load,spare\n2024-01-01 00:00,1,x\n2024-01-01 02:00,3,y\n2024-01-01 01:00,2.5,z\n"


def test_csv_and_parquet_and_sql_give_the_same_rows(tmp_path: Path, declare: Declare) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    table = pl.read_csv(tmp_path / "rows.csv", try_parse_dates=True)
    table.write_parquet(tmp_path / "rows.parquet")
    with sqlite3.connect(tmp_path / "base.db") as connection:
        connection.execute('create table rows ("when" text, load real, spare text)')
        rows = table.with_columns(pl.col("when").cast(pl.String)).rows()
        connection.executemany("insert into rows values (?, ?, ?)", rows)
    connection.close()
    query = {"kind": "sql", "url": f"sqlite:///{tmp_path / 'base.db'}", "query": "select * from rows"}
    csv = read(declare())
    parquet = read(declare("rows.parquet", "parquet"))
    sql = read(declare(source=query))
    assert csv.frame["load"].to_list() == [1.0, 3.0, 2.5]
    assert csv.frame.equals(parquet.frame)
    assert csv.frame.equals(sql.frame)
    assert (
        csv.columns == parquet.columns == sql.columns == {"when": "time", "load": "number", "spare": "text"}
    )
    assert csv.findings == ()


def test_nothing_after_until_is_returned(tmp_path: Path, declare: Declare) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    until = read(declare(), moment("2024-01-01T01:00")).frame
    assert until["load"].to_list() == [1.0, 2.5]
    with pytest.raises(DataRefused, match="no rows at or before 2023-12-31"):
        read(declare(), moment("2023-12-31T00:00"))


def test_the_newest_time_is_the_newest_rows(tmp_path: Path, declare: Declare) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    assert newest_time(declare()) == moment("2024-01-01T02:00")
    assert newest_time(declare(time_zone="Europe/Paris")) == moment("2024-01-01T01:00")


def test_what_was_fixed_is_reported(tmp_path: Path, declare: Declare) -> None:
    (tmp_path / "rows.csv").write_bytes(CSV.replace(",", ";").replace("2.5", "2,5").encode("utf-16"))
    reading = read(declare())
    assert reading.frame["load"].to_list() == [1.0, 3.0, 2.5]
    assert [str(finding) for finding in reading.findings] == [
        "rows.csv: read as UTF-16, not UTF-8",
        "rows.csv: the separator is ';', not a comma",
        "a decimal comma was read as a decimal point (column load)",
    ]


def test_empty_lines_are_no_rows(tmp_path: Path, declare: Declare) -> None:
    (tmp_path / "rows.csv").write_text(CSV.replace("y\n", "y\n\n") + ",,\n\n\n")
    assert read(declare()).frame["load"].to_list() == [1.0, 3.0, 2.5]


def test_a_glob_is_read_in_the_order_of_names_whatever_the_order_of_columns(
    tmp_path: Path, declare: Declare
) -> None:
    (tmp_path / "2024").mkdir()
    (tmp_path / "2024" / "b.csv").write_text("load;when\n2;2024-01-02\n")
    (tmp_path / "2024" / "a.csv").write_text("when,load,extra\n2024-01-01,1,7\n")
    (tmp_path / "2024" / "c.csv").write_text("when,load\n")
    reading = read(declare("**/*.csv"))
    assert reading.frame["load"].to_list() == [1.0, 2.0]
    assert reading.columns == {"when": "time", "load": "number", "extra": "number"}
    assert read(declare(str(tmp_path / "2024" / "a.csv"))).frame.height == 1


def test_files_that_disagree_are_refused(tmp_path: Path, declare: Declare) -> None:
    pl.DataFrame({"when": hours(1), "load": [1]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"when": hours(1), "load": [1.5]}).write_parquet(tmp_path / "b.parquet")
    pl.DataFrame({"when": hours(1), "load": [None]}).write_parquet(tmp_path / "c.parquet")
    assert read(declare("*.parquet", "parquet")).frame["load"].to_list() == [1.0, 1.5, None]
    pl.DataFrame({"when": hours(1), "load": ["1"]}).write_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataRefused, match=r"number in .*a.parquet but text in .*d.parquet"):
        read(declare("*.parquet", "parquet"))
    pl.DataFrame({"when": hours(1)}).write_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataRefused, match=r"d.parquet lacks the column") as refused:
        read(declare("*.parquet", "parquet"))
    assert refused.value.column == "load"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"when,load\n", "holds no rows"),
        (CSV.encode()[:-3], "is truncated"),
        (CSV.encode() + b"2024-01-02,1,x,4,5\n", "has 5 fields, not 3"),
        (CSV.replace("load", "lod").encode(), "did it become 'lod'"),
        (CSV.replace("2.5", "n/k").encode(), "not numbers: 'n/k'"),
        (CSV.replace("2024-01-01 02:00", "\xe9").encode("latin-1"), "is not UTF-8 .* save it as UTF-8"),
    ],
)
def test_broken_csv_is_refused_by_both_ways_of_reading(
    tmp_path: Path, declare: Declare, content: bytes, problem: str
) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    for ask in (read, newest_time):
        with pytest.raises(DataRefused, match=problem) as refused:
            ask(declare())
        assert refused.value.data_set == "made"


def test_truncated_and_empty_parquet_is_refused(tmp_path: Path, declare: Declare) -> None:
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"when": hours(100), "load": range(100)}).write_parquet(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(DataRefused, match="cannot be read"):
            read(declare("rows.parquet", "parquet"))
    pl.DataFrame({"when": hours(0).cast(pl.Datetime("us")), "load": []}).write_parquet(path)
    with pytest.raises(DataRefused, match="holds no rows"):
        newest_time(declare("rows.parquet", "parquet"))


def test_a_missing_file_is_refused(tmp_path: Path, declare: Declare) -> None:
    with pytest.raises(DataRefused, match=r"There is no file .*rows.csv"):
        read(declare())
    with pytest.raises(DataRefused, match=r"There is no file .*\*.csv"):
        read(declare("*.csv"))
    with pytest.raises(DataRefused, match="is a folder"):
        read(declare("."))


def test_excluded_series_are_left_out_before_anything_is_checked(tmp_path: Path, declare: Declare) -> None:
    table = pl.DataFrame({"when": ["2024-01-01", "broken", "2024-01-02"], "id": [1, 2, 3], "load": [1, 2, 3]})
    table.write_parquet(tmp_path / "rows.parquet")
    data_set = declare("rows.parquet", "parquet", series="id", exclude=["2"])
    assert read(data_set).frame["series"].to_list() == ["1", "3"]


def test_a_lost_series_column_is_named_whether_or_not_ids_are_excluded(
    tmp_path: Path, declare: Declare
) -> None:
    (tmp_path / "rows.csv").write_text("when,meter,load\n2024-01-01,a,1\n")
    with pytest.raises(DataRefused, match="missing") as caught:
        read(declare(series="id", exclude=["b"]))
    assert caught.value.column == "id"


def test_blanks_around_an_id_make_no_other_series(tmp_path: Path, declare: Declare) -> None:
    (tmp_path / "rows.csv").write_text("when, id, load\n2024-01-01, a, 1\n2024-01-02,a ,2\n2024-01-02, b,3\n")
    assert read(declare(series="id", exclude=["b"])).frame["series"].to_list() == ["a", "a"]
    (tmp_path / "rows.csv").write_text("when,id,load\n2024-01-01,a,1\n2024-01-02, ,2\n")
    with pytest.raises(DataRefused, match="no series id"):
        read(declare(series="id"))


frequencies = st.sampled_from(["15min", "h", "6h", "D", "W", "W-WED", "MS"])
zones = st.sampled_from(["UTC", "Europe/Paris", "Asia/Kolkata", "America/New_York"])
stamps = st.lists(
    st.datetimes(datetime(2023, 1, 1), datetime(2025, 1, 1)),
    min_size=1,
    max_size=30,
)


@given(frequencies, zones, stamps)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_every_row_counts_once_in_the_step_the_grid_says(
    tmp_path: Path, declare: Declare, frequency: str, zone: str, times: list[datetime]
) -> None:
    utc = pl.Series([time.replace(tzinfo=Z) for time in times], dtype=pl.Datetime("us", "UTC"))
    pl.DataFrame({"when": utc, "load": [1.0] * len(times)}).write_parquet(tmp_path / "rows.parquet")
    data_set = declare("rows.parquet", "parquet", frequency=frequency, time_zone=zone, aggregate="sum")
    frame = read(data_set).frame
    steps, counts = np.unique(data_set.grid.floor(utc.to_numpy()), return_counts=True)
    assert frame["time"].to_numpy().astype("datetime64[us]").tolist() == steps.tolist()
    assert frame["load"].to_list() == counts.tolist()


@pytest.mark.parametrize("frequency", ["4h", "D", "W", "W-WED", "MS"])
def test_steps_begin_and_end_where_the_grid_says(tmp_path: Path, declare: Declare, frequency: str) -> None:
    pl.DataFrame({"when": hours(24 * 100), "load": [1.0] * 2400}).write_parquet(tmp_path / "rows.parquet")
    data_set = declare(
        "rows.parquet", "parquet", frequency=frequency, time_zone="Asia/Kolkata", aggregate="sum"
    )
    frame = read(data_set).frame
    steps, counts = np.unique(data_set.grid.floor(hours(2400).to_numpy()), return_counts=True)
    assert frame["time"].to_numpy().astype("datetime64[us]").tolist() == steps.tolist()
    assert frame["load"].to_list() == counts.tolist()


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("mean", [2.0, 5.0]),
        ("sum", [6.0, 5.0]),
        ("min", [1.0, 5.0]),
        ("max", [3.0, 5.0]),
        ("last", [2.0, 5.0]),
    ],
)
def test_aggregates_ignore_missing_values(
    tmp_path: Path, declare: Declare, aggregate: str, expected: list[float]
) -> None:
    rows = "when,load\n2024-01-01 00:20,3\n2024-01-01 00:10,1\n2024-01-01 00:40,2\n2024-01-01 00:50,\n"
    (tmp_path / "rows.csv").write_text(rows + "2024-01-01 01:00,NaN\n2024-01-01 02:59,5\n")
    frame = read(declare(aggregate=aggregate)).frame
    assert frame["time"].dt.strftime("%H:%M").to_list() == ["00:00", "01:00", "02:00"]
    assert frame["load"].to_list() == [expected[0], None, expected[1]]


def test_an_aggregated_step_is_whole_at_until_and_gone_after(tmp_path: Path, declare: Declare) -> None:
    (tmp_path / "rows.csv").write_text(
        "when,load\n2024-01-01 00:10,1\n2024-01-01 00:50,2\n2024-01-01 01:00,9\n"
    )
    frame = read(declare(aggregate="sum"), moment("2024-01-01T00:00")).frame
    assert frame["load"].to_list() == [3.0]
    assert newest_time(declare(aggregate="sum")) == moment("2024-01-01T01:00")


def test_a_column_may_have_any_name_but_the_two_reserved(tmp_path: Path, declare: Declare) -> None:
    names = ("row", "step", "earliest", "number", "text")
    (tmp_path / "rows.csv").write_text(
        f"when,load,{','.join(names)}\n2024-10-27 02:00,1,2,3,4,5,6\n2024-10-27 02:00,1,2,3,4,5,6\n"
    )
    data_set = declare(aggregate="sum", time_zone="Europe/Paris", columns=dict.fromkeys(names, "past"))
    assert read(data_set).frame.select(names).rows() == [(2.0, 3.0, 4.0, 5.0, 6.0)] * 2


def test_days_are_aggregated_along_the_local_calendar(tmp_path: Path, declare: Declare) -> None:
    start = datetime(2024, 3, 29, 23, tzinfo=Z)  # local midnight; the 31st of March has 23 hours
    table = pl.DataFrame({"when": hours(72, start), "id": ["b"] * 72, "load": [1.0] * 72})
    table.write_parquet(tmp_path / "rows.parquet")
    keys = {"frequency": "D", "time_zone": "Europe/Paris", "aggregate": "sum", "series": "id"}
    frame = read(declare("rows.parquet", "parquet", **keys)).frame
    assert frame["load"].to_list() == [24.0, 23.0, 24.0, 1.0]
    assert frame["time"].dt.hour().to_list() == [23, 23, 22, 22]


GROWTH = """
import re, sys
from pathlib import Path
from data.catalog import parse_data_set
from data.source import read

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

entry = {"source": {"kind": "csv", "path": sys.argv[1]}, "time": "when", "target": "load", "frequency": "D",
         "aggregate": "mean"}
before = peak()
frame = read(parse_data_set(Path("catalog.yaml"), "made", entry)).frame
print(frame.height, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_a_file_is_aggregated_in_bounded_memory(tmp_path: Path) -> None:
    """Four times the rows take nowhere near four times the memory."""
    days = pl.datetime_range(datetime(2018, 1, 1), datetime(2030, 1, 1), "1m", eager=True)
    path, script = tmp_path / "rows.csv", tmp_path / "growth.py"
    script.write_text(GROWTH)
    growth = {}
    for count in (1_000_000, 4_000_000):
        rows = pl.DataFrame({"when": days[:count]}).with_columns(load=1.5, note=pl.lit("x" * 100))
        rows.lazy().sink_csv(path, datetime_format="%Y-%m-%d %H:%M")
        done = subprocess.run(
            [sys.executable, script, path],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "POLARS_MAX_THREADS": "2"},  # each thread reads ahead
        )
        steps, growth[count] = map(int, done.stdout.split())
        assert steps == -(-count // 1440)
    assert growth[4_000_000] < 2.5 * growth[1_000_000]
    assert growth[4_000_000] < path.stat().st_size / 2**20
