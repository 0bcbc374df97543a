"""Checks of normalised rows: columns and types (pandera), order, duplicates, and the time grid."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from data.calendar import Frequency
from data.findings import Finding
from data.layout import Layout

_INSTANT = pl.Datetime("us", "UTC")
_REMEDIES = {
    "no_time": ("a row without a time.", "fill the time in, or drop the row from the source."),
    "no_series": ("a row without a series id.", "fill the id in, or drop the row from the source."),
    "finite": ("an infinite value.", "correct it in the source, or leave it empty: empty means missing."),
}


def tidy(frame: pl.DataFrame, layout: Layout, grid: Frequency) -> tuple[pl.DataFrame, tuple[Finding, ...]]:
    """Rows sorted by series and time, one a step, NaN as null; and what had to be fixed.

    Args:
        frame: normalised rows (`series`, `time`, target, covariates).
        layout: the roles of the columns.
        grid: the time grid.

    Raises:
        DataRefused: a row without time or series id, an infinite value, rows that contradict each other,
            or a time off the grid.
    """
    frame, not_numbers = _nan_as_missing(frame, layout)
    _validate(frame, layout, grid)
    frame, unsorted = _sorted(frame, grid)
    frame, repeated = _without_duplicates(frame, layout, grid)
    _on_grid(frame, layout, grid)
    return frame, (*not_numbers, *unsorted, *repeated)


def schema(layout: Layout) -> pa.DataFrameSchema:
    """The pandera schema of normalised rows: names, types, what must be there, and finite numbers."""
    finite = pa.Check(
        lambda data: data.lazyframe.select(pl.col(data.key).is_infinite().not_()), name="finite"
    )
    numbers = {name: pa.Column(pl.Float64, finite, nullable=True) for name in layout.values}
    return pa.DataFrameSchema(
        {
            "series": pa.Column(pl.String, pa.Check(_present, name="no_series"), nullable=True),
            "time": pa.Column(_INSTANT, pa.Check(_present, name="no_time"), nullable=True),
            **numbers,
        },
        strict=True,
    )


def _present(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(data.key).is_not_null())


def _nan_as_missing(frame: pl.DataFrame, layout: Layout) -> tuple[pl.DataFrame, list[Finding]]:
    counts = frame.select(pl.col(layout.values).is_nan().sum()).row(0, named=True)
    findings = [
        Finding("NaN, taken as missing", column=column, count=counts[column])
        for column in layout.values
        if counts[column]
    ]
    return frame.with_columns(pl.col(layout.values).fill_nan(None)), findings


def _validate(frame: pl.DataFrame, layout: Layout, grid: Frequency) -> None:
    """Refuse the first row that breaks the schema."""
    try:
        schema(layout).validate(frame, lazy=True)
    except SchemaErrors as error:
        failure = error.failure_cases.sort("index", nulls_last=True).row(0, named=True)
        problem, remedy = _REMEDIES.get(
            failure["check"],
            (f"the rows break their schema ({failure['check']}: {failure['failure_case']}).", "report this."),
        )
        row = {} if failure["index"] is None else frame.row(failure["index"], named=True)
        layout.refuse(
            problem,
            series=row.get("series"),
            column={"series": layout.series, "time": layout.time}.get(failure["column"], failure["column"]),
            time=_format(row.get("time"), grid),
            remedy=remedy,
        )


def _sorted(frame: pl.DataFrame, grid: Frequency) -> tuple[pl.DataFrame, list[Finding]]:
    late = frame.filter(pl.col("time") < pl.col("time").shift().over("series"))
    if late.is_empty():
        return frame.sort("series", "time", maintain_order=True), []
    first = late.row(0, named=True)
    finding = Finding(
        "rows out of time order, sorted",
        series=first["series"] or None,
        time=_format(first["time"], grid),
        count=late.height,
    )
    return frame.sort("series", "time", maintain_order=True), [finding]


def _without_duplicates(
    frame: pl.DataFrame, layout: Layout, grid: Frequency
) -> tuple[pl.DataFrame, list[Finding]]:
    """Identical rows collapse; rows of one series and time that differ are refused."""
    distinct = frame.unique(maintain_order=True)
    clash = distinct.filter(pl.struct("series", "time").is_duplicated())
    if not clash.is_empty():
        first, second = clash.row(0, named=True), clash.row(1, named=True)
        column = next(name for name in first if first[name] != second[name])
        layout.refuse(
            f"two rows of the same time contradict each other: {first[column]} and {second[column]}.",
            series=first["series"],
            column=column,
            time=_format(first["time"], grid),
            remedy="keep one of them in the source"
            + ("." if layout.series else ", or name the column that tells the series apart as `series:`."),
        )
    count = frame.height - distinct.height
    if not count:
        return frame, []
    first = frame.filter(frame.is_duplicated()).row(0, named=True)
    finding = Finding(
        "identical rows, collapsed into one",
        series=first["series"] or None,
        time=_format(first["time"], grid),
        count=count,
    )
    return distinct, [finding]


def _on_grid(frame: pl.DataFrame, layout: Layout, grid: Frequency) -> None:
    times = frame["time"].dt.replace_time_zone(None).to_numpy()
    off = times != grid.floor(times)
    if not off.any():
        return
    row = int(off.argmax())
    layout.refuse(
        f"{int(off.sum())} of {len(off)} times are off the grid of {grid.text} in {grid.time_zone}; the step "
        f"there begins at {grid.format(grid.floor(times[row : row + 1])[0])}.",
        series=frame["series"][row],
        column=layout.time,
        time=grid.format(times[row]),
        remedy="correct `frequency:` or `time_zone:` in the catalog, or set `aggregate:` (mean, sum, min, "
        "max, last), which takes every row into its step.",
    )


def _format(time: object, grid: Frequency) -> str | None:
    """A time of a row as text, None for none."""
    if time is None:
        return None
    return grid.format(pl.Series([time], dtype=_INSTANT).dt.replace_time_zone(None).to_numpy()[0])
