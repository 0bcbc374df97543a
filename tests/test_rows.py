"""Rows: their order, duplicates, the time grid and what is finite, through real files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import meter
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meter import AS_OF, HOURS, assert_refused, edit, problems, rows

from data.catalog import DataSet
from data.contract import check
from data.errors import DataRefused
from data.layout import layout_of
from data.rows import tidy
from data.snapshot import digest
from data.source import read

Declare = Callable[..., DataSet]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    return partial(meter.declare, tmp_path)


@given(order=st.permutations(range(30)), twice=st.lists(st.integers(0, 29), max_size=5))
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_and_repetition_never_change_the_panel(
    declare: Declare, order: list[int], twice: list[int]
) -> None:
    frame = rows(series=("a", "b"))
    shuffled = pl.concat([frame[30:], frame[order], frame[twice]])
    clean = check(declare(frame, series="site"), AS_OF)
    assert digest(check(declare(shuffled, series="site"), AS_OF).panel) == digest(clean.panel)


def test_unsorted_rows_are_sorted_and_said(declare: Declare) -> None:
    frame = rows()
    mixed = pl.concat([frame[:10], frame[12:13], frame[10:12], frame[13:]])
    checked = check(declare(mixed), AS_OF)
    assert problems(checked) == ["rows out of time order, sorted (first at 2024-01-01 10:00+00:00)"]
    assert digest(checked.panel) == digest(check(declare(frame), AS_OF).panel)


def test_series_one_after_the_other_are_not_unsorted(declare: Declare) -> None:
    assert check(declare(rows(series=("a", "b")), series="site"), AS_OF).findings == ()


def test_identical_duplicates_collapse(declare: Declare) -> None:
    frame = rows()
    checked = check(declare(pl.concat([frame[:8], frame[7:8], frame[7:]])), AS_OF)
    assert problems(checked) == [
        "identical rows, collapsed into one (first at 2024-01-01 07:00+00:00, 2 times)"
    ]
    assert checked.panel.n_steps == HOURS


@pytest.mark.parametrize("spoilt", ["load", "wind"])
def test_conflicting_duplicates_are_refused(declare: Declare, spoilt: str) -> None:
    frame = rows()
    assert_refused(
        declare(pl.concat([frame, edit(frame[9:10], 0, **{spoilt: 7.5})])),
        "contradict each other",
        column=spoilt,
        time="2024-01-01 09:00+00:00",
        remedy="or name the column that tells the series apart",
    )


def test_an_hour_that_autumn_repeats_is_not_to_be_thrown_away(declare: Declare) -> None:
    """Rows of local times that are declared as UTC look like contradictions."""
    frame = rows()
    twice = pl.concat([frame, edit(frame[9:10], 0, load=7.5)])
    for zone, said in (("UTC", True), ("Europe/Paris", False)):
        with pytest.raises(DataRefused, match="contradict") as refused:
            check(declare(twice, time_zone=zone), AS_OF)
        hint = "if these are local times, of which autumn repeats an hour, keep both and set `time_zone:`"
        assert (hint in refused.value.remedy) == said


def test_a_value_and_its_absence_at_one_time_conflict(declare: Declare) -> None:
    frame = rows(series=("a", "b"))
    assert_refused(
        declare(pl.concat([frame, edit(frame[-3:-2], 0, load=None)]), series="site"),
        "contradict each other",
        series="b",
        time="2024-01-05 21:00+00:00",
        remedy="keep one of them in the source; but if these are local times",
    )


def test_times_off_the_grid_are_refused(declare: Declare) -> None:
    frame = edit(rows(), slice(33, 35), at="2024-01-02 09:20:30")
    frame = edit(frame, 34, at="2024-01-02 10:20:00")
    assert_refused(
        declare(frame),
        "2 of 120 times are off the grid of h in UTC; the step there begins at 2024-01-02 09:00+00:00",
        column="at",
        time="2024-01-02 09:20:30+00:00",
        remedy="set `aggregate:`",
    )
    aggregated = check(declare(frame, aggregate="mean"), AS_OF)
    assert digest(aggregated.panel) == digest(check(declare(rows()), AS_OF).panel)


@pytest.mark.parametrize(("value", "column"), [("inf", "load"), ("-inf", "wind")])
def test_infinite_values_are_refused(declare: Declare, value: str, column: str) -> None:
    assert_refused(
        declare(edit(rows(), slice(70, 72), **{column: float(value)})),
        f"{value} breaks the rule finite",
        column=column,
        time="2024-01-03 22:00+00:00",
        remedy="leave a value empty",
    )


@pytest.mark.parametrize(
    ("change", "column", "time"),
    [
        ({"wind": pl.lit(1)}, "wind", None),
        ({"series": pl.lit(None, pl.String)}, None, "2024-01-01 00:00+00:00"),
        ({"time": pl.lit(None, pl.Datetime("us", "UTC"))}, "at", None),
        ({"other": pl.lit(1.0)}, None, None),
    ],
)
def test_rows_that_break_the_schema_are_refused(
    declare: Declare, change: dict[str, pl.Expr], column: str | None, time: str | None
) -> None:
    """What no reader should let through is refused all the same."""
    declared = declare(rows())
    frame = read(declared, AS_OF).frame.with_columns(**change)
    with pytest.raises(DataRefused, match="breaks the rule") as refused:
        tidy(frame, layout_of(declared), declared.grid)
    assert refused.value.time == time
    assert column is None or refused.value.column == column
