"""Normalised rows: the declared columns, renamed and retyped, or refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from data.catalog import parse_data_set
from data.errors import DataRefused
from data.frame import UTC, Layout, kind, layout_of, normalise

LAYOUT = Layout("made", "when", "place", "load", ("heat",), "Europe/Paris")
GOOD: dict[str, list[object]] = {
    "heat": [1, 2, None],
    "when": ["2024-01-01 02:00", "2024-01-01 00:00", "2024-01-01 01:00"],
    "spare": ["x", "y", "z"],
    "place": [7, 8, 7],
    "load": [1.5, float("nan"), -2.0],
}


def rows(layout: Layout = LAYOUT, **columns: list[object]) -> pl.DataFrame:
    return normalise(pl.DataFrame({**GOOD, **columns}, strict=False).lazy(), layout).collect()


def test_declared_columns_come_out_in_order_and_rows_in_file_order() -> None:
    frame = rows()
    assert frame.schema == {"series": pl.String, "time": UTC, "load": pl.Float64, "heat": pl.Float64}
    assert frame["series"].to_list() == ["7", "8", "7"]
    assert frame["time"].dt.hour().to_list() == [1, 23, 0]
    assert frame["load"].to_list() == [1.5, None, -2.0]
    assert frame["heat"].to_list() == [1.0, 2.0, None]


def test_a_data_set_without_a_series_column_is_one_nameless_series() -> None:
    frame = rows(Layout("made", "when", None, "load", (), "UTC"))
    assert frame["series"].to_list() == [""] * 3
    assert frame.columns == ["series", "time", "load"]


def test_booleans_and_decimals_are_numbers_and_an_empty_column_is_missing() -> None:
    assert rows(heat=[True, False, None])["heat"].to_list() == [1.0, 0.0, None]
    assert rows(heat=[Decimal("1.25"), None, Decimal(3)])["heat"].to_list() == [1.25, None, 3.0]
    assert rows(heat=[None] * 3)["heat"].to_list() == [None] * 3
    empty = pl.DataFrame(GOOD, strict=False).with_columns(heat=pl.lit(None, pl.String))
    assert normalise(empty.lazy(), LAYOUT).collect()["heat"].to_list() == [None] * 3


def test_a_retyped_column_is_refused_with_its_first_bad_value() -> None:
    with pytest.raises(DataRefused, match="holds String, not numbers: 'n/a'") as refused:
        rows(heat=["1", "2", "n/a"])
    assert (refused.value.column, refused.value.series) == ("heat", "7")
    assert refused.value.time == "2024-01-01 01:00+01:00"
    with pytest.raises(DataRefused, match="not numbers: '2'") as refused:
        rows(heat=["1", "2", "3"])
    assert refused.value.time == "2024-01-01 00:00+01:00"
    with pytest.raises(DataRefused, match="holds List"):
        rows(heat=[[1], [2], [3]])


def test_a_missing_column_is_refused_and_the_nearest_named() -> None:
    frame = pl.DataFrame(GOOD, strict=False).rename({"heat": "heating"})
    with pytest.raises(
        DataRefused, match=r"the source has heating, when.*did it become 'heating'"
    ) as refused:
        normalise(frame.lazy(), LAYOUT)
    assert refused.value.column == "heat"


def test_a_row_without_a_series_id_is_refused() -> None:
    with pytest.raises(DataRefused, match="2 rows have no series id") as refused:
        rows(place=[None, None, 7])
    assert (refused.value.column, refused.value.time) == ("place", "2024-01-01 00:00")


@pytest.mark.parametrize("name", ["series", "time"])
def test_a_number_column_may_not_take_a_reserved_name(name: str) -> None:
    frame = pl.DataFrame({"when": ["2024-01-01"], name: [1]})
    with pytest.raises(DataRefused, match=f"may not be called '{name}'"):
        normalise(frame.lazy(), Layout("made", "when", None, name, (), "UTC"))


def test_the_layout_is_what_the_catalog_declares() -> None:
    entry = {
        "source": {"kind": "csv", "path": "x.csv"},
        "time": "when",
        "series": "place",
        "target": "load",
        "columns": {"heat": "past", "spare": "ignore"},
        "frequency": "h",
        "time_zone": "Europe/Paris",
    }
    layout = layout_of(parse_data_set(Path("catalog.yaml"), "made", entry))
    assert layout == LAYOUT
    assert layout.columns == ("when", "place", "load", "heat")
    assert layout.values == ("load", "heat")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (pl.Int8(), "number"),
        (pl.Float64(), "number"),
        (pl.Decimal(10, 2), "number"),
        (pl.Date(), "time"),
        (pl.Datetime("us", "UTC"), "time"),
        (pl.Boolean(), "boolean"),
        (pl.Null(), "empty"),
        (pl.String(), "text"),
        (pl.Categorical(), "text"),
    ],
)
def test_kinds(dtype: pl.DataType, expected: str) -> None:
    assert kind(dtype) == expected
