"""Checks of normalised rows: columns and types (pandera), order, duplicates, and the time grid."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from data.calendar import Frequency
from data.findings import Finding
from data.layout import Layout

_INSTANT = pl.Datetime("us", "UTC")
_LOCAL = (
    "; but if these are local times, of which autumn repeats an hour, keep both and set `time_zone:` "
    "in the catalog, as in Europe/Berlin."
)


def tidy(frame: pl.DataFrame, layout: Layout, grid: Frequency) -> tuple[pl.DataFrame, tuple[Finding, ...]]:
    """Rows sorted by series and time, one a step; and what had to be fixed.

    Args:
        frame: normalised rows (`series`, `time`, target, covariates).
        layout: the roles of the columns.
        grid: the time grid.

    Raises:
        DataRefused: a row without time or series id, an infinite value, rows that contradict each other,
            or a time off the grid.
    """
    _validate(frame, layout, grid)
    frame, unsorted = _sorted(frame, grid)
    frame, repeated = _without_duplicates(frame, layout, grid)
    _on_grid(frame, layout, grid)
    return frame, (*unsorted, *repeated)


def schema(layout: Layout) -> pa.DataFrameSchema:
    """The pandera schema of normalised rows: names, types, what must be there, and finite numbers."""
    finite = pa.Check(lambda data: data.lazyframe.select(pl.col(data.key).is_finite()), name="finite")
    return pa.DataFrameSchema(
        {
            "series": pa.Column(pl.String),
            "time": pa.Column(_INSTANT),
            **{name: pa.Column(pl.Float64, finite, nullable=True) for name in layout.values},
        },
        strict=True,
    )


def _validate(frame: pl.DataFrame, layout: Layout, grid: Frequency) -> None:
    """Refuse rows that break the schema, naming the first."""
    try:
        schema(layout).validate(frame, lazy=True)
    except SchemaErrors as error:
        failure = error.failure_cases.sort("index", nulls_last=True).row(0, named=True)
        row = {} if failure["index"] is None else frame.row(failure["index"], named=True)
        layout.refuse(
            f"{failure['failure_case']} breaks the rule {failure['check']}.",
            series=row.get("series"),
            column={"series": layout.series, "time": layout.time}.get(failure["column"], failure["column"]),
            time=_format(row.get("time"), grid),
            remedy="correct it in the source; leave a value empty where nothing was measured.",
        )


def _sorted(frame: pl.DataFrame, grid: Frequency) -> tuple[pl.DataFrame, list[Finding]]:
    late = frame.filter(pl.col("time") < pl.col("time").shift().over("series"))
    finding = _finding("rows out of time order, sorted", late, late.height, grid)
    return frame.sort("series", "time", maintain_order=True), finding


def _without_duplicates(
    frame: pl.DataFrame, layout: Layout, grid: Frequency
) -> tuple[pl.DataFrame, list[Finding]]:
    """Identical rows collapse; rows of one series and time that differ are refused."""
    distinct = frame.unique(maintain_order=True)
    clash = distinct.filter(pl.struct("series", "time").is_duplicated()).sort("time", "series")
    if not clash.is_empty():
        first, second = clash.row(0, named=True), clash.row(1, named=True)
        column = next(name for name in first if first[name] != second[name])
        layout.refuse(
            f"Two rows of the same time contradict each other: {first[column]} and {second[column]}.",
            series=first["series"],
            column=column,
            time=_format(first["time"], grid),
            remedy="keep one of them in the source"
            + ("" if layout.series else ", or name the column that tells the series apart as `series:`")
            # Local times are often taken for UTC, and keeping one row would then lose an hour of autumn.
            + (_LOCAL if grid.time_zone == "UTC" else "."),
        )
    repeated = frame.filter(frame.is_duplicated())
    count = frame.height - distinct.height
    return distinct, _finding("identical rows, collapsed into one", repeated, count, grid)


def _on_grid(frame: pl.DataFrame, layout: Layout, grid: Frequency) -> None:
    times = frame["time"].dt.replace_time_zone(None).to_numpy()
    off = times != grid.floor(times)
    if not off.any():
        return
    first = times[off].min()
    layout.refuse(
        f"{int(off.sum())} of {len(off)} times are off the grid of {grid.text} in {grid.time_zone}; the step "
        f"there begins at {grid.format(grid.floor(np.array([first]))[0])}.",
        series=frame["series"][int((off & (times == first)).argmax())],
        column=layout.time,
        time=grid.format(first),
        remedy="correct `frequency:` or `time_zone:` in the catalog, or set `aggregate:` (mean, sum, min, "
        "max, last), which takes every row into its step.",
    )


def _finding(problem: str, rows: pl.DataFrame, count: int, grid: Frequency) -> list[Finding]:
    """One finding that names the earliest of `rows`; none where there are no rows."""
    if rows.is_empty():
        return []
    first = rows.sort("time", "series").row(0, named=True)
    return [Finding(problem, series=first["series"] or None, time=_format(first["time"], grid), count=count)]


def _format(time: datetime | None, grid: Frequency) -> str | None:
    """A time of a row as text, None for none."""
    if time is None:
        return None
    return grid.format(np.datetime64(time.astimezone(UTC).replace(tzinfo=None), "us"))
