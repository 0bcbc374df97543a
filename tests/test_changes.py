"""What changed since last night: reported where it does no harm, refused where it does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import meter
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meter import AS_OF, assert_refused, edit, problems, rows

from data.catalog import DataSet
from data.contract import Seen, check

Declare = Callable[..., DataSet]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    return partial(meter.declare, tmp_path)


def test_the_same_data_as_last_night_is_no_news(declare: Declare) -> None:
    seen = check(declare(rows()), AS_OF).seen
    assert check(declare(rows()), AS_OF, Seen.from_json(seen.to_json())).findings == ()


def test_new_gone_and_retyped_unused_columns_are_reported(declare: Declare) -> None:
    seen = check(declare(rows()), AS_OF).seen
    changed = rows().drop("note").with_columns(extra=pl.lit("x"))
    assert problems(check(declare(changed), AS_OF, seen)) == [
        "new column since last night (column extra)",
        "unused column gone since last night (column note)",
    ]
    retyped = rows().with_columns(note=pl.lit(1.5))
    assert problems(check(declare(retyped), AS_OF, seen)) == [
        "unused column retyped since last night, from text to number (column note)"
    ]


def test_a_column_that_is_declared_static_is_not_retyped(declare: Declare) -> None:
    one = partial(declare, rows(series=("a",)), series="site")
    seen, static = check(one(), AS_OF).seen, {"columns": {"wind": "past", "note": "static"}}
    declared = check(one(**static), AS_OF, seen)
    assert declared.findings == ()
    assert check(one(), AS_OF, declared.seen).findings == ()


def test_a_new_series_is_reported(declare: Declare) -> None:
    seen = check(declare(rows(series=("a",)), series="site"), AS_OF).seen
    checked = check(declare(rows(series=("a", "b")), series="site"), AS_OF, seen)
    assert problems(checked) == ["new series since last night (series b)"]


def test_a_vanished_series_is_refused_until_it_is_excluded(declare: Declare) -> None:
    seen = check(declare(rows(series=("a", "b", "c")), series="site"), AS_OF).seen
    assert_refused(
        declare(rows(series=("a",)), series="site"),
        "was there last night and has vanished, and 1 more",
        series="b",
        column="site",
        time=None,
        remedy="`exclude: [b, c]`",
        previous=seen,
    )
    # Since the ids may be misspelled just as well, that they are not there is said.
    assert problems(check(declare(rows(series=("a",)), series="site", exclude=["b", "c"]), AS_OF, seen)) == [
        "`exclude:` names series that the source does not hold: b, c"
    ]


def test_another_series_column_is_a_new_start(declare: Declare) -> None:
    seen = check(declare(rows(series=("a",)), series="site"), AS_OF).seen
    renamed = rows(series=("x",)).rename({"site": "place"})
    texts = problems(check(declare(renamed, series="place"), AS_OF, seen))
    assert "the catalog names another series column than last night (column place)" in texts


def test_excluded_series_are_not_there(declare: Declare) -> None:
    checked = check(declare(rows(series=("a", "b")), series="site", exclude=["b"]), AS_OF)
    assert checked.panel.series == checked.seen.series == ("a",)
    assert checked.findings == ()


def test_a_misspelled_exclusion_is_reported_with_the_likely_series(declare: Declare) -> None:
    frame = rows(series=("harbour", "station"))
    gone = [f"{number}" for number in range(7)]
    assert problems(check(declare(frame, series="site", exclude=["harbuor", *gone]), AS_OF)) == [
        "`exclude:` names series that the source does not hold: harbuor (did you mean 'harbour'?), "
        "0, 1, 2, 3 and 3 more"
    ]


@given(
    columns=st.dictionaries(st.text(max_size=5), st.sampled_from(["number", "text"]), max_size=4),
    series=st.lists(st.text(max_size=5), max_size=4),
    column=st.none() | st.text(max_size=5),
)
@settings(deadline=None, max_examples=50)
def test_what_was_seen_survives_json(columns: dict[str, str], series: list[str], column: str | None) -> None:
    seen = Seen(columns, tuple(series), column)
    assert Seen.from_json(seen.to_json()) == seen


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"columns": 1, "series": [], "series_column": null}'])
def test_what_is_no_record_of_last_night_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a record of what was seen"):
        Seen.from_json(text)


def test_a_removed_or_renamed_column_is_refused_with_its_likely_name(declare: Declare) -> None:
    seen = check(declare(rows()), AS_OF).seen
    assert_refused(
        declare(rows().rename({"wind": "wind_ms"})),
        "The column is missing",
        column="wind",
        time=None,
        remedy="wind_ms",
        previous=seen,
    )


def test_a_retyped_column_is_refused_with_its_first_value(declare: Declare) -> None:
    frame = edit(rows().with_columns(pl.col("load").cast(pl.String)), slice(20, 22), load="broken")
    assert_refused(declare(frame), "'broken'", time="2024-01-01 20:00+00:00", remedy="leave it empty")
