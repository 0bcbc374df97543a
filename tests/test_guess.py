"""A first catalog entry: guessed from a file, added to a catalog that keeps its text."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from data.catalog import load_catalog, parse_data_set
from data.contract import resolve_as_of
from data.errors import CatalogError, DataRefused
from data.guess import add, guess
from data.source import read

START = datetime(2024, 1, 1, tzinfo=UTC)


def table(step: timedelta, count: int = 60, start: datetime = START, **columns: list[Any]) -> pl.DataFrame:
    times = [start + step * number for number in range(count)]
    return pl.DataFrame({"time": times, "load": [float(n % 7) for n in range(count)], **columns})


def write(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_csv(path, datetime_format="%Y-%m-%d %H:%M:%S")
    return path


def test_a_plain_file_becomes_an_entry_that_can_be_read(tmp_path: Path) -> None:
    path = write(
        table(timedelta(hours=1), heat=list(range(60)), note=["x"] * 60, flat=[1] * 60),
        tmp_path / "My Load.csv",
    )
    name, entry = guess(path)
    assert name == "my_load"
    assert entry == {
        "source": {"kind": "csv", "path": str(path)},
        "time": "time",
        "target": "load",
        "columns": {"heat": "past"},
        "frequency": "h",
        "time_zone": "UTC",
        "clock": "data",
        "non_negative": True,
    }
    assert read(add(tmp_path / "catalog.yaml", path)).frame.height == 60


def test_fresh_data_follows_the_wall_clock_and_negative_targets_are_seen(tmp_path: Path) -> None:
    frame = table(
        timedelta(hours=1),
        start=datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=60),
    )
    _, entry = guess(write(frame.with_columns(pl.col("load") - 3), tmp_path / "a.csv"))
    assert "clock" not in entry
    assert entry["non_negative"] is False


@pytest.mark.parametrize(
    ("step", "start", "frequency", "aggregate"),
    [
        (timedelta(minutes=1), START, "1min", False),
        (timedelta(minutes=15), START, "15min", False),
        (timedelta(hours=1), START, "h", False),
        (timedelta(hours=1), START + timedelta(minutes=30), "h", True),
        (timedelta(hours=6), START, "6h", False),
        (timedelta(seconds=10), START, "1min", True),
        (timedelta(minutes=25), START, "30min", True),
        (timedelta(days=1), START, "D", False),
        (timedelta(days=7), START, "W-MON", False),
        (timedelta(days=7), START + timedelta(days=6), "W-SUN", False),
    ],
)
def test_frequencies(
    tmp_path: Path, step: timedelta, start: datetime, frequency: str, aggregate: bool
) -> None:
    _, entry = guess(write(table(step, start=start), tmp_path / "a.csv"))
    assert (entry["frequency"], entry.get("aggregate") == "mean") == (frequency, aggregate)


def test_months_are_month_starts(tmp_path: Path) -> None:
    months = [f"{year}-{month:02d}-01" for year in (2022, 2023) for month in range(1, 13)]
    _, entry = guess(write(pl.DataFrame({"Month": months, "Sales": range(24)}), tmp_path / "a.csv"))
    assert (entry["frequency"], entry["time"], entry["target"]) == ("MS", "Month", "Sales")


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("ids", [["north", "south", "west"], [1, 2, 3]])
def test_series_are_found_in_any_order_of_rows(tmp_path: Path, ids: list[object], blocks: bool) -> None:
    parts = [
        table(timedelta(hours=1)).with_columns(pl.lit(name).alias("store"), note=pl.lit("same"))
        for name in ids
    ]
    frame = pl.concat(parts)
    _, entry = guess(write(frame if blocks else frame.sort("time"), tmp_path / "a.csv"))
    assert (entry["series"], entry["target"], entry["frequency"]) == ("store", "load", "h")
    assert "columns" not in entry


def test_a_few_duplicates_make_no_series(tmp_path: Path) -> None:
    frame = table(timedelta(hours=1), note=["x", "y"] * 30)
    _, entry = guess(write(pl.concat([frame, frame.head(3)]), tmp_path / "a.csv"))
    assert "series" not in entry


def test_times_that_repeat_without_an_id_are_refused(tmp_path: Path) -> None:
    frame = table(timedelta(hours=1))
    with pytest.raises(DataRefused, match="no column tells the series apart"):
        guess(write(pl.concat([frame, frame]), tmp_path / "a.csv"))


def test_telling_names_win(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "": range(40),
            "created date": ["2020-01-01"] * 40,
            "ts": [START + timedelta(days=day) for day in range(40)],
            "heat": [float(day % 5) for day in range(40)],
            "active_power": [float(day % 3) for day in range(40)],
        }
    )
    _, entry = guess(write(frame, tmp_path / "2024.csv"), "chosen")
    assert (entry["time"], entry["target"], entry["columns"]) == ("ts", "active_power", {"heat": "past"})


def spoil(column: pl.Series, value: str, *places: int) -> pl.Series:
    texts = column.cast(pl.String).to_list()
    return pl.Series(column.name, [value if row in places else text for row, text in enumerate(texts)])


@pytest.mark.parametrize(("places", "more"), [((41,), "."), ((41, 50), ", and so are 1 more.")])
def test_a_target_with_a_cell_that_is_no_number_is_refused_by_name(
    tmp_path: Path, places: tuple[int, ...], more: str
) -> None:
    """Its series and other numbers stand beside it, and neither is taken for it."""
    parts = [table(timedelta(hours=1), heat=list(range(60))).with_columns(store=pl.lit(s)) for s in "ab"]
    frame = pl.concat(parts).select("time", "load", "store", "heat")
    path = write(frame.with_columns(spoil(frame["load"], "defekt", *places)), tmp_path / "a.csv")
    with pytest.raises(DataRefused) as refused:
        guess(path)
    assert refused.value.column == "load"
    assert refused.value.problem == (
        f"The column would be the target, but 'defekt' in row 42 below the header is no number{more}"
    )
    assert guess(path, target="heat")[1]["target"] == "heat"
    with pytest.raises(DataRefused, match="'defekt' in row 42"):
        guess(path, target="load")


def test_text_that_now_and_then_is_a_number_and_ids_are_no_target(tmp_path: Path) -> None:
    frame = table(timedelta(hours=1)).with_columns(sales=pl.Series(["12", "12a", "7b"] * 20))
    assert guess(write(frame, tmp_path / "a.csv"))[1]["target"] == "load"
    ids = [str(store) for store in range(1, 25)] + ["B1"]
    stores = pl.concat(table(timedelta(hours=1)).with_columns(sales=pl.lit(store)) for store in ids)
    _, entry = guess(write(stores, tmp_path / "b.csv"))
    assert (entry["series"], entry["target"]) == ("sales", "load")


def test_parquet_and_packed_semicolon_files(tmp_path: Path) -> None:
    frame = table(timedelta(days=1))
    frame.write_parquet(tmp_path / "2024.parquet")
    name, entry = guess(tmp_path / "2024.parquet")
    assert (name, entry["source"]["kind"], entry["target"]) == ("data_2024", "parquet", "load")
    text = frame.with_columns(pl.col("load") + 0.25).write_csv(
        separator=";", datetime_format="%d.%m.%Y %H:%M"
    )
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(text.replace(".25", ",25").encode()))
    data_set = add(tmp_path / "catalog.yaml", tmp_path / "b.csv.gz", "packed")
    assert (data_set.frequency, data_set.target) == ("D", "load")
    assert read(data_set).frame["load"][:2].to_list() == [0.25, 1.25]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is empty"),
        ("time,load\n", "No column holds times"),
        ("a,b\nx,1\n", "No column holds times; there are a, b"),
        ("time,note\n2024-01-01,x\n", "No column holds numbers"),
    ],
)
def test_files_that_tell_nothing_are_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataRefused, match=problem):
        guess(tmp_path / "a.csv")


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="There is no file"):
        guess(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataRefused, match="cannot be read"):
        guess(tmp_path / "a.parquet")


def test_the_catalog_keeps_its_text_and_comments(tmp_path: Path) -> None:
    path = write(table(timedelta(hours=1)), tmp_path / "load.csv")
    catalog = tmp_path / "catalog.yaml"
    add(catalog, path, "first")
    before = (
        "# Ours.\n"
        + catalog.read_text().replace("target: load", "target: load   # the meter's")
        + "  title: A"
    )
    catalog.write_text(before)
    added = add(catalog, path, "second")
    text = catalog.read_text()
    assert text.startswith(before)
    loaded = load_catalog(catalog)
    assert list(loaded.data_sets) == ["first", "second"]
    assert loaded.get("second") == added
    assert added.source.path == "load.csv"  # type: ignore[union-attr]
    assert list(tmp_path.glob(".*")) == []


def test_a_file_elsewhere_keeps_its_whole_path(tmp_path: Path) -> None:
    path = write(table(timedelta(hours=1)), tmp_path / "load.csv")
    data_set = add(tmp_path / "home" / "catalog.yaml", path)
    assert data_set.source.path == str(path)  # type: ignore[union-attr]


def test_a_taken_name_and_a_catalog_in_braces_change_nothing(tmp_path: Path) -> None:
    path = write(table(timedelta(hours=1)), tmp_path / "load.csv")
    catalog = tmp_path / "catalog.yaml"
    add(catalog, path)
    before = catalog.read_text()
    with pytest.raises(CatalogError, match="load: the name is taken"):
        add(catalog, path)
    assert catalog.read_text() == before
    for text, problem in (("{}", "cannot be extended"), ("a: [", "cannot be read as YAML")):
        catalog.write_text(text)
        with pytest.raises(CatalogError, match=problem):
            add(catalog, path)
        assert catalog.read_text() == text


def test_a_catalog_behind_a_link_is_extended_where_it_lies(tmp_path: Path) -> None:
    """Paths in it start from its own folder, whichever name it was called by."""
    (tmp_path / "shared").mkdir()
    catalog = tmp_path / "shared" / "catalog.yaml"
    catalog.write_text("# ours\n")
    link = tmp_path / "catalog.yaml"
    link.symlink_to("shared/catalog.yaml")
    frame = table(timedelta(hours=1))
    for path in (tmp_path / "beside_link.csv", tmp_path / "shared" / "beside_catalog.csv"):
        assert read(add(link, write(frame, path))).frame.height == 60
    assert link.is_symlink()
    assert catalog.read_text().startswith("# ours\n")
    for name in (link, catalog):
        data_sets = load_catalog(name).data_sets
        assert [read(data_sets[key]).frame.height for key in ("beside_link", "beside_catalog")] == [60, 60]
    assert "path: beside_catalog.csv" in catalog.read_text()


def test_a_name_that_the_catalog_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = write(table(timedelta(hours=1)), tmp_path / "load.csv")
    with pytest.raises(CatalogError, match="name"):
        add(tmp_path / "catalog.yaml", path, "Not A Name")
    assert not (tmp_path / "catalog.yaml").exists()


def test_what_is_known_ahead_and_what_never_varies(tmp_path: Path) -> None:
    """Rows without a target at the end give future covariates; now is where the target ends."""
    hours = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(72)]
    frame = pl.concat(
        pl.DataFrame(
            {
                "time": hours,
                "shop": [shop] * 72,
                "sales": [float(hour) if hour < 48 else None for hour in range(72)],
                "price": [float(hour % 7) for hour in range(72)],
                "visitors": [float(hour % 5) if hour < 48 else None for hour in range(72)],
                "area": [area] * 72,
                "kind": [kind] * 72,
                "address": [f"street {shop}"] * 72,
            }
        )
        for shop, area, kind in (("a", 80.5, "kiosk"), ("b", 200.0, "hall"), ("c", 90.0, "kiosk"))
    )
    frame.write_csv(tmp_path / "shops.csv")
    _, entry = guess(tmp_path / "shops.csv")
    assert entry["columns"] == {"price": "future", "visitors": "past", "area": "static", "kind": "static"}
    assert (entry["series"], entry["target"], entry["clock"]) == ("shop", "sales", "data")
    data_set = add(tmp_path / "catalog.yaml", tmp_path / "shops.csv")
    assert resolve_as_of(data_set) == np.datetime64("2024-01-02T23:00", "us")


@pytest.mark.parametrize(("ahead", "role"), [(24, "future"), (23, "past"), (1, "past")])
@pytest.mark.parametrize("minutes", [60, 30])
def test_what_is_known_ahead_reaches_over_the_horizon_in_every_series(
    tmp_path: Path, ahead: int, role: str, minutes: int
) -> None:
    """Rows at the end that lack a target may be late as well."""
    per_hour = 60 // minutes
    rows = [
        {
            "time": START + timedelta(minutes=minutes * step),
            "shop": shop,
            "sales": float(step % 5) if step < 48 * per_hour else None,
            "price": float(step % 7),
        }
        for shop, hours in (("a", 48 + 24), ("b", 48 + ahead))
        for step in range(hours * per_hour)
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "shops.csv")
    name, entry = guess(tmp_path / "shops.csv")
    horizon = parse_data_set(tmp_path / "catalog.yaml", name, entry).retrain.horizon
    assert horizon == 24 * per_hour
    assert entry["columns"] == {"price": role}
