"""Files that hold the same rows: counted once before they are aggregated, as often as one file holds them."""

# ruff: noqa: DTZ001 (times of the sources are local)

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import overlap
from data.catalog import DataSet, parse_data_set
from data.source import Reading, read

START = datetime(2024, 5, 1)
Event = tuple[str, datetime, float | None]
Reads = Callable[..., Reading]


@pytest.fixture
def reads(tmp_path: Path) -> Reads:
    """What files of events are, summed to hours."""

    def make(*files: list[Event], **keys: Any) -> Reading:
        for old in tmp_path.glob("*.csv"):
            old.unlink()
        for number, events in enumerate(files):
            frame = pl.DataFrame(
                events, {"shop": pl.String, "when": pl.Datetime, "sold": pl.Float64}, orient="row"
            )
            frame.write_csv(tmp_path / f"{number}.csv")
        return read(declared(tmp_path, {"kind": "csv", "path": "*.csv"}, **keys))

    return make


def declared(folder: Path, source: dict[str, str], **keys: Any) -> DataSet:
    entry = {
        "source": source,
        "time": "when",
        "series": "shop",
        "target": "sold",
        "frequency": "h",
        "aggregate": "sum",
        **keys,
    }
    return parse_data_set(folder / "catalog.yaml", "made", entry)


def quarters(first: int, last: int, shop: str = "a") -> list[Event]:
    return [(shop, START + timedelta(minutes=15 * step), 1.0) for step in range(first, last)]


def test_exports_that_overlap_count_once_and_it_is_said(reads: Reads) -> None:
    reading = reads(quarters(0, 24), quarters(8, 28))
    assert reading.frame["sold"].to_list() == [4.0] * 7
    assert [str(finding) for finding in reading.findings] == [
        "identical rows of several files, collapsed into one "
        "(series a, first at 2024-05-01 02:00+00:00, 16 times)"
    ]


def test_times_in_the_finding_are_local(reads: Reads) -> None:
    (finding,) = reads(quarters(0, 4), quarters(3, 6), time_zone="Europe/Paris").findings
    assert (finding.time, finding.count) == ("2024-05-01 00:45+02:00", 1)


def test_events_that_are_alike_add_up_within_a_file(reads: Reads) -> None:
    """Three were sold one by one at the same time; that they come in the next export too makes no six."""
    day = quarters(0, 1) * 3
    assert reads(day).frame["sold"].to_list() == [3.0]
    assert reads(day).findings == ()
    assert reads(day, day[:2], quarters(1, 4)).frame["sold"].to_list() == [6.0]


def test_the_rows_of_a_query_are_one_export(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "base.db") as connection:
        connection.execute('create table sales (shop text, "when" text, sold real)')
        connection.executemany("insert into sales values (?, ?, ?)", [("a", "2024-05-01 00:10", 1.0)] * 5)
    connection.close()
    source = {"kind": "sql", "url": f"sqlite:///{tmp_path}/base.db", "query": "select * from sales"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.database.BATCH_ROWS", 2)
        assert read(declared(tmp_path, source)).frame["sold"].to_list() == [5.0]


def test_rows_of_one_time_that_differ_add_up(reads: Reads) -> None:
    reading = reads([("a", START, 1.0)], [("a", START, 2.0)], [("b", START, 1.0)])
    assert reading.frame.rows() == [
        ("a", reading.frame["time"][0], 3.0),
        ("b", reading.frame["time"][0], 1.0),
    ]
    assert reading.findings == ()


def test_files_that_only_follow_each_other_are_not_compared(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "_collapse", lambda *_: pytest.fail("rows were held in memory"))
    assert reads(quarters(0, 8), quarters(8, 16), quarters(16, 20)).frame["sold"].to_list() == [4.0] * 5
    both = reads(quarters(0, 8, "a"), quarters(0, 8, "b"))
    assert both.frame["sold"].to_list() == [4.0] * 4


events = st.tuples(
    st.sampled_from("ab"),
    st.integers(0, 9).map(lambda step: START + timedelta(minutes=20 * step)),
    st.sampled_from([None, 1.0, 2.0]),
)


@given(st.lists(st.lists(events, max_size=12), min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_every_row_counts_as_often_as_in_the_file_that_holds_it_most_often(
    reads: Reads, files: list[list[Event]]
) -> None:
    union: Counter[Event] = Counter()
    for file in files:
        union |= Counter(file)
    if not union:
        return
    reading = reads(*files)
    expected: dict[tuple[str, datetime], float | None] = {}
    for (shop, time, sold), count in union.items():
        step = (shop, time.replace(minute=0))
        before = expected.setdefault(step, None)
        expected[step] = before if sold is None else (before or 0.0) + sold * count
    found = reading.frame.with_columns(pl.col("time").dt.replace_time_zone(None))
    assert {(shop, time): sold for shop, time, sold in found.rows()} == expected
    dropped = sum(map(len, files)) - union.total()
    assert sum(finding.count for finding in reading.findings) == dropped
