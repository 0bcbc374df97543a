"""From a declared source to its rows: CSV, Parquet or SQL, lazily and in bounded memory.

Rows finer than the grid are aggregated to it on the way, by Polars' streaming engine, so that a file
may be larger than memory. Nothing later than asked for is returned.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from data import database, delimited
from data.calendar import Frequency
from data.catalog import Aggregate, DataSet, Query
from data.changes import STATIC
from data.findings import Finding
from data.frame import kind, layout_of, normalise
from data.layout import Layout
from data.overlap import FILE, once
from data.static import static_values

_GLOB = "*?["
_NAMED = 5
"""Series that one finding names."""


@dataclass(frozen=True)
class Reading:
    """What a source held.

    Args:
        frame: columns `series` (String), `time` (Datetime, microseconds, UTC), then target and
            covariates (Float64, null where missing): in file order, or sorted by series and time
            where the data set aggregates.
        static: one row a series: `series`, then its static features (Float64 or String).
        findings: what was fixed while reading.
        columns: every column of the source and what it holds (number, text, time, boolean, empty), or
            `data.changes.STATIC` where it is declared so.
    """

    frame: pl.DataFrame
    static: pl.DataFrame
    findings: tuple[Finding, ...]
    columns: dict[str, str]


@dataclass(frozen=True)
class _Opened:
    frame: pl.LazyFrame
    findings: list[Finding]
    columns: dict[str, str]
    exports: int = 1  # how many files may hold the same rows


def read(data_set: DataSet, until: np.datetime64 | None = None) -> Reading:
    """Read a data set's declared columns.

    Args:
        data_set: the catalog entry.
        until: the newest time to return (UTC); with `aggregate`, the newest grid step. Only future covariates
            are returned beyond it, for the horizon.

    Raises:
        DataRefused: the source is missing, empty, truncated or unreadable, or a column is not what
            the catalog declares.
    """
    layout = layout_of(data_set)
    with _opened(data_set, layout) as opened:
        opened.findings.extend(_excluded_in_vain(opened, data_set, layout))
        keep = (FILE,) if data_set.aggregate and opened.exports > 1 else ()
        frame = normalise(_kept(opened, data_set, layout), layout, opened.findings, keep)
        past = frame
        if until is not None:
            is_past = pl.col("time") < _utc(_after(data_set, until))
            past = frame.filter(is_past)
            frame = _with_future(frame, data_set, until, is_past) if layout.future else past
        static = static_values(past, layout)
        frame = frame.drop(layout.static)
        if keep:
            frame = once(frame, layout, opened.findings)
        if data_set.aggregate:
            frame = _aggregate(frame, layout, data_set.grid, data_set.aggregate)
        rows = frame.collect(engine="streaming")
    if data_set.aggregate:
        grid_times = data_set.grid.floor(rows["time"].to_numpy())
        rows = rows.with_columns(pl.Series("time", grid_times).dt.replace_time_zone("UTC"))
        rows = rows.sort("series", "time")
    if rows.is_empty():
        when = "" if until is None else f" at or before {data_set.grid.format(until)}"
        layout.refuse(
            f"The source holds no rows{when}.", remedy="check the source; is the last export whole?"
        )
    return Reading(rows, static, tuple(opened.findings), opened.columns)


def newest_time(data_set: DataSet, before: np.datetime64 | None = None) -> np.datetime64:
    """The newest row's time (UTC, microseconds); with future covariates, of the rows that have a target.

    Args:
        data_set: the catalog entry.
        before: rows at or after this time (UTC) are left out.

    Raises:
        DataRefused: as `read`.
    """
    layout = layout_of(data_set)
    with _opened(data_set, layout) as opened:
        frame = normalise(_kept(opened, data_set, layout), layout)
        if layout.future:
            frame = frame.filter(pl.col(layout.target).is_not_null())
        if before is not None:
            frame = frame.filter(pl.col("time") < _utc(before))
        time = frame.select(pl.col("time").max()).collect(engine="streaming").to_series()
    if time.item() is None:
        when = "" if before is None else f" before {data_set.grid.format(before)}"
        layout.refuse(
            f"The source holds no rows{when}.", remedy="check the source; is the last export whole?"
        )
    return np.datetime64(time.to_numpy()[0], "us")


def _after(data_set: DataSet, until: np.datetime64) -> np.datetime64:
    """Rows before this time are not later than `until`."""
    return data_set.grid.shift(until, 1) if data_set.aggregate else until + np.timedelta64(1, "us")


def _with_future(
    frame: pl.LazyFrame, data_set: DataSet, until: np.datetime64, is_past: pl.Expr
) -> pl.LazyFrame:
    """The rows up to the end of the horizon; after `until` they hold what is known ahead and nothing else."""
    layout = layout_of(data_set)
    end = _after(data_set, data_set.grid.shift(until, data_set.retrain.horizon))
    unknown = (layout.target, *layout.covariates)
    return frame.filter(pl.col("time") < _utc(end)).with_columns(
        pl.when(is_past).then(pl.col(name)).alias(name) for name in unknown
    )


def _utc(time: np.datetime64) -> pl.Expr:
    return pl.lit(time.astype("datetime64[us]").astype(np.int64)).cast(pl.Datetime("us", "UTC"))


def _aggregate(frame: pl.LazyFrame, layout: Layout, grid: Frequency, how: Aggregate) -> pl.LazyFrame:
    """One row a series and grid step; `time` is the first row's, for the grid to floor.

    A value is null where none was observed in the step.
    """
    return (
        frame.group_by("series", _step(grid).alias("__step"))
        .agg(
            pl.col("time").min().alias("__earliest"),
            *(_statistic(column, how).alias(column) for column in layout.values),
        )
        .select("series", pl.col("__earliest").alias("time"), *layout.values)
    )


def _statistic(column: str, how: Aggregate) -> pl.Expr:
    value = pl.col(column)
    if how == "last":
        return value.max_by(pl.when(value.is_not_null()).then("time"))
    if how == "sum":
        return pl.when(value.count() > 0).then(value.sum())
    return {"mean": value.mean(), "min": value.min(), "max": value.max()}[how]


def _step(grid: Frequency) -> pl.Expr:
    """A number for the grid step of each `time`, the same for all times of one step."""
    epoch = np.array([0], dtype="datetime64[us]")
    if not grid.is_calendar:
        first = int(grid.floor(epoch).astype(np.int64)[0])
        return (pl.col("time").dt.epoch("us") - first) // (grid.seconds * 1_000_000)
    local = pl.col("time").dt.convert_time_zone(grid.time_zone)
    if grid.text == "MS":
        return local.dt.year() * 12 + local.dt.month()
    day = local.dt.replace_time_zone(None).dt.epoch("us") // 86_400_000_000
    first = int(grid.local(grid.floor(epoch)).astype("datetime64[D]").astype(np.int64)[0])
    return (day - first) // (grid.seconds // 86_400)


@contextmanager
def _opened(data_set: DataSet, layout: Layout) -> Iterator[_Opened]:
    """The source's rows; temporary copies live as long as the block."""
    try:
        with tempfile.TemporaryDirectory(prefix="nightcast-") as folder:
            yield _open(data_set, layout, Path(folder))
    except PolarsError as error:
        reason = str(error).splitlines()[0]
        layout.refuse(
            f"The source cannot be read: {reason}.",
            remedy="check that every file is whole: Parquet, or UTF-8 text with one header and equal rows.",
        )


def _kept(opened: _Opened, data_set: DataSet, layout: Layout) -> pl.LazyFrame:
    """The rows without those of excluded series."""
    if layout.series not in opened.columns or not data_set.exclude:
        return opened.frame
    series = pl.col(layout.series).cast(pl.String)
    return opened.frame.filter(series.is_in(data_set.exclude).not_() | series.is_null())


def _excluded_in_vain(opened: _Opened, data_set: DataSet, layout: Layout) -> list[Finding]:
    """Excluded series that are not there: misspelled, or vanished from the source, which may well be."""
    if layout.series not in opened.columns or not data_set.exclude:
        return []
    ids = opened.frame.select(pl.col(layout.series).cast(pl.String).unique()).collect(engine="streaming")
    known = set(ids.to_series().drop_nulls())
    absent = [name for name in data_set.exclude if name not in known]
    if not absent:
        return []
    others = known.difference(data_set.exclude)
    named = [_with_the_nearest(name, others) for name in absent[:_NAMED]]
    more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
    return [Finding(f"`exclude:` names series that the source does not hold: {', '.join(named)}{more}")]


def _with_the_nearest(name: str, others: Collection[str]) -> str:
    near = difflib.get_close_matches(name, others, n=1)
    return f"{name} (did you mean {near[0]!r}?)" if near else name


def _open(data_set: DataSet, layout: Layout, folder: Path) -> _Opened:
    source = data_set.source
    if isinstance(source, Query):
        return _open_parquet(database.fetch(source, layout, folder), layout)
    paths = _paths(data_set.folder, source.path, layout)
    if source.kind == "parquet":
        return replace(_open_parquet(paths, layout), exports=len(paths))
    files = [delimited.scan(path, layout, folder) for path in paths]
    frame = _concat([file.frame for file in files], paths, layout)
    findings = [finding for file in files for finding in file.findings]
    frame = frame.filter(pl.any_horizontal(pl.exclude(FILE).is_not_null()))  # an empty line is no row
    names = frame.collect_schema().names()
    if layout.series in names:
        text = pl.col(layout.series).str.strip_chars()
        frame = frame.with_columns(pl.when(text != "").then(text).alias(layout.series))
    present = [column for column in (*layout.values, *layout.static) if column in names]
    frame = delimited.numbers(frame, present, layout, findings)
    return _Opened(frame, findings, _columns([file.kinds for file in files], layout), len(paths))


def _open_parquet(paths: list[Path], layout: Layout) -> _Opened:
    frames = [pl.scan_parquet(path) for path in paths]
    kinds = [{name: kind(dtype) for name, dtype in frame.collect_schema().items()} for frame in frames]
    return _Opened(_concat(frames, paths, layout), [], _columns(kinds, layout))


def _columns(files: list[dict[str, str]], layout: Layout) -> dict[str, str]:
    """Every column of any file; declared ones as what they are declared to be."""
    merged = {column: held for file in files for column, held in file.items()}
    roles = {layout.time: "time", **dict.fromkeys(layout.values, "number")}
    roles |= dict.fromkeys(layout.static, STATIC)
    roles |= {layout.series: "text"} if layout.series else {}
    return {column: roles.get(column, held) for column, held in merged.items()}


def _concat(frames: list[pl.LazyFrame], paths: list[Path], layout: Layout) -> pl.LazyFrame:
    """Rows of all files, in the order of their names, in the declared columns and `FILE`."""
    schemas = [frame.collect_schema() for frame in frames]
    declared = [column for column in layout.columns if any(column in schema for schema in schemas)]
    if len(declared) < len(layout.columns):
        # All columns, so that `normalise` can refuse the missing one and name the likely new one.
        return pl.concat(frames, how="diagonal_relaxed")
    for column in declared:
        kinds: dict[str, Path] = {}
        for path, schema in zip(paths, schemas, strict=True):
            if column not in schema:
                layout.refuse(f"{path} lacks the column.", column=column, remedy="export that file again.")
            kinds.setdefault(kind(schema[column]), path)
        kinds.pop("empty", None)
        if len(kinds) > 1:
            found = " but ".join(f"{held} in {path}" for held, path in kinds.items())
            layout.refuse(f"The column holds {found}.", column=column, remedy="export it as one type.")
    numbered = [frame.select(*declared, pl.lit(n).alias(FILE)) for n, frame in enumerate(frames)]
    return pl.concat(numbered, how="vertical_relaxed")


def _paths(folder: Path, pattern: str, layout: Layout) -> list[Path]:
    """The files that a path or glob names, in the order of their names.

    Raises:
        DataRefused: there is none.
    """
    path = folder.absolute() / Path(pattern).expanduser()
    root = Path(path.anchor)
    is_glob = any(mark in pattern for mark in _GLOB)
    found = sorted(root.glob(str(path.relative_to(root)))) if is_glob else [path]
    files = [each for each in found if each.is_file()]
    if not files:
        problem = f"{path} is a folder." if path.is_dir() else f"There is no file {path}."
        layout.refuse(problem, remedy="correct source.path; it starts from the catalog's folder.")
    return files
