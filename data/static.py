"""Static features: what a column says of each series, the same in all of its rows."""

from __future__ import annotations

import math

import polars as pl

from data.layout import Layout

MOST_CATEGORIES = 256


def static_values(frame: pl.LazyFrame, layout: Layout) -> pl.DataFrame:
    """One row a series: `series`, then its static features, a number (Float64) or a category (String) each.

    Args:
        frame: normalised rows, the static columns among them; an empty field says nothing.

    Raises:
        DataRefused: a series has two values of a feature, none, or a number that is not finite.
    """
    if not layout.static:
        return pl.DataFrame(schema={"series": pl.String})
    given = [pl.col(name).drop_nulls() for name in layout.static]
    found = (
        frame.group_by("series")
        .agg(*(column.unique().sort() for column in given))
        .sort("series")
        .collect(engine="streaming")
    )
    for name in layout.static:
        for series, values in found.select("series", name).iter_rows():
            if len(values) > 1:
                layout.refuse(
                    f"A static feature has one value a series; here are {values[0]!r} and {values[1]!r}.",
                    series=series,
                    column=name,
                    remedy="correct the column in the source, or declare it `past` or `future`.",
                )
            if not values:
                layout.refuse(
                    "The static feature has no value.",
                    series=series,
                    column=name,
                    remedy="fill it in one row of the series at least, or declare the column `ignore`.",
                )
            if isinstance(values[0], float) and not math.isfinite(values[0]):
                layout.refuse(
                    f"The static feature {values[0]} is no finite number.",
                    series=series,
                    column=name,
                    remedy="correct it in the source, or declare the column `ignore`.",
                )
    values = found.with_columns(pl.col(name).list.first() for name in layout.static)
    for name in layout.static:
        if values.schema[name] == pl.String and values[name].n_unique() > MOST_CATEGORIES:
            layout.refuse(
                f"{values[name].n_unique():,} categories; at most {MOST_CATEGORIES} say what series share.",
                column=name,
                remedy="declare the column `ignore`, since every series is told apart anyway; or group them.",
            )
    return values
