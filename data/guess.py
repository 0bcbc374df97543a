"""A first catalog entry, written by looking at a file. A person reads it over."""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
import yaml
from polars.exceptions import PolarsError

from data import delimited
from data.calendar import Frequency
from data.catalog import DataSet, Role, parse_data_set, parse_yaml
from data.errors import CatalogError
from data.files import write_atomically
from data.layout import Layout
from data.retrain import defaults
from data.spacing import fits, usual_frequency
from data.times import is_time_text, to_utc

ROWS = 1_000_000
HEAD = 1_000
MOST_ODD = 0.05
"""Share of a column of numbers that may be text by mistake; a column with more is one of text."""

_TIMES = ("time", "timestamp", "datetime", "ts", "ds", "date")
_TARGETS = ("target", "y", "value", "load", "demand", "sales", "consumption", "power", "count", "volume")
_IDS = ("series", "id", "unique_id", "item", "store", "sensor", "meter", "region", "site", "station")
_INDEXES = ("", "index", "unnamed: 0", "row")


@dataclass(frozen=True)
class _Table:
    """A file's first rows: `time` in UTC beside the other columns, and which of those are numbers.

    `spoilt` are the texts that would be numbers but for a few cells, and the rows of those.
    """

    rows: pl.DataFrame
    time: str
    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    spoilt: dict[str, list[int]]


def guess(path: Path, name: str | None = None, target: str | None = None) -> tuple[str, dict[str, Any]]:
    """Look at a CSV or Parquet file.

    Args:
        path: the file.
        name: the data set's name; by default made from the file's name.
        target: the column to forecast; by default guessed as well.

    Returns:
        The name and a catalog entry as plain values; its `source.path` is absolute.

    Raises:
        DataRefused: the file is missing or unreadable, or has no time or no number column or not the target,
            or its times repeat and no column tells the series apart.
    """
    name = name or _slug(path.stem)
    layout = Layout(name, time="", series=None, target="", covariates=(), time_zone="UTC")
    if not path.is_file():
        layout.refuse(f"There is no file {path}.", remedy="give the path of a CSV or Parquet file.")
    try:
        with tempfile.TemporaryDirectory(prefix="nightcast-") as folder:
            table = _look(path, layout, Path(folder))
    except PolarsError as error:
        _refuse_unreadable(path, layout, error)
    series = _series(table, layout)
    target = _target(table, series, layout, target)
    newest = table.rows.filter(pl.col(target).is_not_null())["time"].max()
    assert isinstance(newest, datetime)
    grid = usual_frequency(table.rows, series) or Frequency("D")
    columns = _columns(table, series, target, _known_ahead(table, series, newest, grid))
    is_parquet = path.suffix.lower() in (".parquet", ".pq")
    entry: dict[str, Any] = {
        "source": {"kind": "parquet" if is_parquet else "csv", "path": str(path.absolute())},
        "time": table.time,
        **({"series": series} if series else {}),
        "target": target,
        **({"columns": columns} if columns else {}),
        "frequency": grid.text,
        "time_zone": "UTC",
        **({} if fits(grid, table.rows["time"]) else {"aggregate": "mean"}),
    }
    if newest < datetime.now(UTC) - timedelta(days=3) - timedelta(seconds=grid.seconds):
        entry["clock"] = "data"
    entry["non_negative"] = bool((table.rows[target].drop_nulls() >= 0).all())
    return name, entry


def add(catalog: Path, path: Path, name: str | None = None) -> DataSet:
    """Append a first entry for a file to a catalog, which keeps its other text; makes a missing catalog.

    Raises:
        CatalogError: the name is taken, or the catalog cannot be extended as it is.
        DataRefused: as `guess`.
    """
    catalog = catalog.resolve()  # a link stays one, and paths start from the folder that it leads to
    text = catalog.read_text(encoding="utf-8") if catalog.exists() else ""
    name, entry = guess(path, name)
    if name in _parse(text, catalog):
        raise CatalogError(f"{catalog}: {name}: the name is taken. Remedy: give another one with --name")
    place = path.parent.resolve() / path.name
    if place.is_relative_to(catalog.parent):
        entry["source"]["path"] = str(place.relative_to(catalog.parent))
    data_set = parse_data_set(catalog, name, entry)
    block = yaml.safe_dump({name: entry}, sort_keys=False, allow_unicode=True, default_flow_style=False)
    comment = "# Guessed by `nightcast data add`: check time_zone, frequency, target and columns.\n"
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    extended = text + gap + comment + block
    if not _holds(extended, name, entry):
        raise CatalogError(
            f"{catalog}: cannot be extended as it is written. Remedy: add this to it:\n{block}"
        )
    write_atomically(catalog, extended.encode())
    return data_set


def _parse(text: str, catalog: Path) -> dict[str, Any]:
    """The catalog's plain values; none where it is empty."""
    raw = parse_yaml(catalog, text)
    return raw if isinstance(raw, dict) else {}


def _holds(text: str, name: str, entry: dict[str, Any]) -> bool:
    """Whether a catalog's text holds the entry; a catalog in braces cannot be extended by more text."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    return isinstance(raw, dict) and raw.get(name) == entry


def _slug(stem: str) -> str:
    """A data set name from a file name."""
    slug = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")
    return (slug if slug[:1].isalpha() else f"data_{slug}".rstrip("_"))[:63]


def _refuse_unreadable(path: Path, layout: Layout, error: PolarsError) -> NoReturn:
    reason = str(error).splitlines()[0]
    layout.refuse(f"{path} cannot be read: {reason}.", remedy="give a whole CSV or Parquet file.")


def _look(path: Path, layout: Layout, folder: Path) -> _Table:
    if path.suffix.lower() in (".parquet", ".pq"):
        frame = pl.scan_parquet(path)
    else:
        frame = delimited.scan(path, layout, folder).frame
    head = frame.head(HEAD).collect()
    time = _time(head, layout)
    others = [column for column in head.columns if column not in (time, "time")]
    texts = [column for column in others if head.schema[column] == pl.String]
    frame = frame.head(ROWS) if not texts else delimited.numbers(frame.head(ROWS), texts, layout, [])
    stamps = frame.select(pl.col(time).alias("time"), pl.lit("").alias("series"))
    stamps = to_utc(stamps, layout, [])
    rows = frame.select(others).collect(engine="streaming")
    clock = stamps.select("time").collect(engine="streaming").to_series()
    numbers = [c for c in others if rows.schema[c].is_numeric() and rows[c].null_count() < rows.height]
    labels = [c for c in others if rows.schema[c] == pl.String]
    if clock.is_empty():
        layout.refuse(f"{path} holds no rows.", remedy="give a file with rows.")
    spoilt = {column: odd for column in labels if (odd := _no_numbers(rows[column]))}
    return _Table(rows.with_columns(clock), time, tuple(numbers), tuple(labels), spoilt)


def _time(head: pl.DataFrame, layout: Layout) -> str:
    """The column that holds times, by type or by what its text looks like; a telling name comes first."""
    found = [
        column
        for column, dtype in head.schema.items()
        if dtype.is_temporal() or (dtype == pl.String and is_time_text(head[column]))
    ]
    if not found:
        layout.refuse(
            f"No column holds times; there are {', '.join(head.columns)}.",
            remedy="write times in ISO 8601 in one column, or write the catalog entry by hand.",
        )
    return min(found, key=lambda column: _rank(column, _TIMES))


def _rank(column: str, hints: Sequence[str]) -> tuple[int, int]:
    """Sorts columns that are a hint first, then those that hold one as a word, then the others."""
    lower = column.lower()
    words = re.split(r"[^a-z0-9]+", lower)
    exact = next((i for i, hint in enumerate(hints) if hint == lower), None)
    part = next((i for i, hint in enumerate(hints) if hint in words), None)
    return (0, exact) if exact is not None else (1, part) if part is not None else (2, 0)


def _series(table: _Table, layout: Layout) -> str | None:
    """The column that tells series apart, where times repeat (more often than by a few duplicates)."""
    rows = table.rows
    if rows["time"].n_unique() > 0.8 * rows.height:
        return None
    named = [column for column in table.numbers if _rank(column, _IDS)[0] < 2]
    texts = [column for column in table.texts if column not in table.spoilt]
    candidates = [*sorted(texts, key=lambda column: _rank(column, _IDS)), *named, *table.spoilt]
    unique = (
        column
        for column in candidates
        if rows[column].n_unique() < 0.5 * rows.height
        and rows.select(pl.struct("time", column).n_unique()).item() > 0.99 * rows.height
    )
    found = next(unique, None)
    if found is None:
        layout.refuse(
            "Times repeat, and no column tells the series apart.",
            column=table.time,
            remedy="put one series id a row in one column, or write the catalog entry by hand.",
        )
    return found


def _numbers(table: _Table, series: str | None) -> list[str]:
    """The columns that may be a target or a covariate: numbers that are no id and no row number."""
    return [column for column in table.numbers if column != series and column.lower() not in _INDEXES]


def _target(table: _Table, series: str | None, layout: Layout, wanted: str | None) -> str:
    """The number to forecast."""
    numbers = _numbers(table, series)
    _refuse_spoilt(table, series, layout, wanted)
    if not numbers:
        layout.refuse("No column holds numbers.", remedy="give a file with a number to forecast.")
    if wanted in numbers:
        return wanted
    if wanted is not None:
        near = difflib.get_close_matches(wanted, numbers, n=1)
        layout.refuse(
            f"There is no such column of numbers; there are {', '.join(numbers)}.",
            column=wanted,
            remedy=f"{f'did you mean {near[0]!r}? ' if near else ''}Name one of them as the target.",
        )
    return min(numbers, key=lambda column: _rank(column, _TARGETS))


def _refuse_spoilt(table: _Table, series: str | None, layout: Layout, wanted: str | None) -> None:
    """Refuse a column that would be the target, were it not for a few cells that are no numbers."""
    numbers = _numbers(table, series)
    # In the order of the file, so that of columns with equally telling names the first one wins.
    candidates = [
        column
        for column in table.rows.columns
        if column in numbers or (column in table.spoilt and column != series)
    ]
    best = wanted or min(candidates, key=lambda column: _rank(column, _TARGETS), default="")
    rows = table.spoilt.get(best, [])
    if best in candidates and rows:
        more = f", and so are {len(rows) - 1} more" if len(rows) > 1 else ""
        layout.refuse(
            f"The column would be the target, but {table.rows[best][rows[0]]!r} in row {rows[0] + 1} below "
            f"the header is no number{more}.",
            column=best,
            remedy="correct that cell or leave it empty, or write the catalog entry by hand.",
        )


def _no_numbers(texts: pl.Series) -> list[int]:
    """The few rows in which a column of numbers holds something else; none of a column of text."""
    numbers = texts.str.replace(",", ".").cast(pl.Float64, strict=False)
    odd = (texts.is_not_null() & numbers.is_null()).arg_true().to_list()
    return odd if len(odd) <= MOST_ODD * (texts.len() - texts.null_count()) else []


def _known_ahead(table: _Table, series: str | None, newest: datetime, grid: Frequency) -> tuple[str, ...]:
    """The numbers that every series has for the whole default horizon after the newest target.

    Fewer may just be of rows whose target is late.
    """
    rows, horizon = table.rows, int(defaults(grid)["horizon"])
    times = rows["time"].dt.replace_time_zone(None).to_numpy().astype("datetime64[us]")
    step = pl.Series("__step", grid.steps_between(np.datetime64(newest.replace(tzinfo=None), "us"), times))
    owner = pl.lit("") if series is None else pl.col(series)
    ahead = rows.with_columns(step, owner.alias("__series")).filter(pl.col("__step").is_between(1, horizon))
    count = rows.select(owner.n_unique()).item()

    def reaches(column: str) -> bool:
        found = ahead.drop_nulls(column).group_by("__series").agg(pl.col("__step").n_unique())
        return found.height == count and bool((found["__step"] == horizon).all())

    return tuple(column for column in table.numbers if reaches(column))


def _columns(table: _Table, series: str | None, target: str, known: Sequence[str]) -> dict[str, Role]:
    """The roles of the other columns that vary.

    What never varies within a series is static, if it is a number or a category of several series. A number
    that is known ahead is a future covariate, any other a past one.
    """
    rows = table.rows
    numbers = [column for column in _numbers(table, series) if column != target]
    roles: dict[str, Role] = {}
    for column in (*numbers, *table.texts):
        kinds = rows[column].drop_nulls().n_unique()
        if column == series or kinds < 2:
            continue
        if series is not None and _is_static(rows, series, column):
            if column in numbers or kinds < rows[series].n_unique():
                roles[column] = "static"
        elif column in numbers:
            roles[column] = "future" if column in known else "past"
    return roles


def _is_static(rows: pl.DataFrame, series: str, column: str) -> bool:
    """True where no series has two values."""
    return bool(rows.group_by(series).agg(pl.col(column).drop_nulls().n_unique())[column].max() <= 1)  # type: ignore[operator]
