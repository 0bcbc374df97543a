"""From a source's own columns to the columns that the contract checks: series, time in UTC, numbers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import polars as pl

from data.findings import Finding
from data.layout import Layout, layout_of
from data.times import UTC, local_text, to_utc

__all__ = ["RESERVED", "UTC", "Layout", "kind", "layout_of", "local_text", "normalise"]

RESERVED = ("series", "time")


def normalise(
    frame: pl.LazyFrame,
    layout: Layout,
    findings: list[Finding] | None = None,
    keep: Sequence[str] = (),
) -> pl.LazyFrame:
    """Rename and retype the declared columns, in file order; others are dropped.

    Args:
        frame: the source's rows.
        layout: which column plays which role.
        findings: what was fixed is appended here.
        keep: further columns that stay as they are.

    Returns:
        Columns `series` (String, "" where the layout has none), `time` (Datetime, microseconds, UTC),
        then target and covariates (Float64) and static features (Float64 or String) under their own names.
        Missing values are null, never NaN.

    Raises:
        DataRefused: a declared column is missing, a number is text, a time or a series id is missing
            or unreadable (see `data.times.to_utc`).
    """
    findings = [] if findings is None else findings
    _refuse_missing(frame, layout)
    for column in (*layout.values, *layout.static):
        if column in RESERVED:
            layout.refuse(
                f"A covariate or target may not be called {column!r}.",
                column=column,
                remedy="rename the column in the source and in the catalog.",
            )
    series = pl.col(layout.series).cast(pl.String) if layout.series else pl.lit("")
    frame = frame.select(
        series.alias("series"), pl.col(layout.time).alias("time"), *layout.values, *layout.static, *keep
    )
    if layout.series:
        _refuse_nameless(frame, layout)
    frame = to_utc(frame, layout, findings)
    schema = frame.collect_schema()
    return frame.with_columns(
        *(_number(frame, layout, column, schema[column]) for column in layout.values),
        *(_feature(layout, column, schema[column]) for column in layout.static),
    )


def kind(dtype: pl.DataType) -> str:
    """What a column holds, coarsely enough that a night without decimals changes nothing."""
    if dtype.is_numeric():
        return "number"
    if dtype.is_temporal():
        return "time"
    return {pl.Boolean: "boolean", pl.Null: "empty"}.get(dtype.base_type(), "text")


def _refuse_missing(frame: pl.LazyFrame, layout: Layout) -> None:
    names = frame.collect_schema().names()
    for column in layout.columns:
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            remedy = f"did it become {near[0]!r}? " if near else ""
            layout.refuse(
                f"The column is missing; the source has {', '.join(names)}.",
                column=column,
                remedy=f"{remedy}Bring it back, or change the catalog.",
            )


def _refuse_nameless(frame: pl.LazyFrame, layout: Layout) -> None:
    nameless = frame.filter(pl.col("series").is_null())
    facts = nameless.select(pl.len(), pl.col("time").cast(pl.String).min().alias("time"))
    count, time = facts.collect(engine="streaming").row(0)
    if count:
        layout.refuse(
            f"{count:,} rows have no series id.",
            column=layout.series,
            time=time,
            remedy="fill the id, or remove the rows.",
        )


def _feature(layout: Layout, column: str, dtype: pl.DataType) -> pl.Expr:
    """A static feature: a number as Float64 without NaN, or a category as String.

    Raises:
        DataRefused: it is neither.
    """
    if dtype.is_numeric() or dtype.base_type() in (pl.Boolean, pl.Null):
        return pl.col(column).cast(pl.Float64).fill_nan(None)
    if dtype.base_type() not in (pl.String, pl.Categorical, pl.Enum):
        layout.refuse(
            f"The static feature holds {dtype}, neither numbers nor text.",
            column=column,
            remedy="write it as a number or as text, or declare the column `ignore`.",
        )
    return pl.col(column).cast(pl.String)


def _number(frame: pl.LazyFrame, layout: Layout, column: str, dtype: pl.DataType) -> pl.Expr:
    """The column as Float64 without NaN.

    Raises:
        DataRefused: it holds text or anything else that is no number.
    """
    if dtype.is_numeric() or dtype.base_type() in (pl.Boolean, pl.Null):
        return pl.col(column).cast(pl.Float64).fill_nan(None)
    _refuse_held(frame, layout, column, dtype)
    return pl.lit(None, pl.Float64).alias(column)


def _refuse_held(frame: pl.LazyFrame, layout: Layout, column: str, dtype: pl.DataType) -> None:
    """Refuse the first value of a column that is not numeric; nothing where it is empty."""
    held = frame.filter(pl.col(column).is_not_null())
    if dtype == pl.String:
        # Name what is no number at all before text that only needs another type.
        is_number = pl.col(column).str.strip_chars().cast(pl.Float64, strict=False).is_not_null()
        held = held.filter(~is_number | is_number.all())
    first = held.select("series", "time", column).bottom_k(1, by="time").collect(engine="streaming")
    if first.is_empty():
        return
    series, time, value = first.row(0)
    layout.refuse(
        f"The column holds {dtype}, not numbers: {value!r}.",
        series=series,
        column=column,
        time=local_text(time, layout.time_zone),
        remedy="correct that value or leave it empty; write numbers as numbers, with a decimal point.",
    )
