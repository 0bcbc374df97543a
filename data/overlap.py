"""Rows that several files hold, as exports that overlap do: counted once before they are aggregated."""

from __future__ import annotations

import polars as pl

from data.findings import Finding
from data.layout import Layout
from data.times import local_text

FILE = "__file"  # which file holds a row; like the others a name that no declared column has
_UNTIL = "__until"
_SINCE = "__since"
_COPY = "__copy"


def once(frame: pl.LazyFrame, layout: Layout, findings: list[Finding]) -> pl.LazyFrame:
    """Rows that several files hold, as often as the file that holds them most often.

    Within a file identical rows stay: they may be events that are alike. Only rows from times that several
    files span are held in memory.

    Args:
        frame: normalised rows, and in the column `FILE` the number of their file.
        layout: the roles of the columns.
        findings: that rows were left out is appended here.
    """
    spans = _shared_spans(frame)
    if spans.is_empty():
        return frame
    columns = ["series", "time", *layout.values]
    time = pl.col("time")
    is_shared = ((time <= pl.col(_UNTIL)) | (time >= pl.col(_SINCE))).fill_null(False)
    marked = frame.join(spans.lazy(), on=["series", FILE], how="left")
    shared = marked.filter(is_shared).select(*columns, FILE).collect(engine="streaming")
    distinct = _collapse(shared, layout, findings).select(columns)
    return pl.concat([marked.filter(~is_shared).select(columns), distinct.lazy()])


def _shared_spans(frame: pl.LazyFrame) -> pl.DataFrame:
    """The series of files whose times meet another file's: until when, and from when on, they may."""
    spans = frame.group_by("series", FILE).agg(
        pl.col("time").min().alias("first"), pl.col("time").max().alias("last")
    )
    neighbours = (
        spans.collect(engine="streaming")
        .sort("series", "first", FILE)
        .with_columns(
            pl.col("last").cum_max().shift().over("series").alias(_UNTIL),
            pl.col("first").shift(-1).over("series").alias(_SINCE),
        )
    )
    meets = (pl.col("first") <= pl.col(_UNTIL)) | (pl.col("last") >= pl.col(_SINCE))
    return neighbours.filter(meets).select("series", FILE, _UNTIL, _SINCE)


def _collapse(rows: pl.DataFrame, layout: Layout, findings: list[Finding]) -> pl.DataFrame:
    """Identical rows of several files as one: the first of each file, the second of each, and so on."""
    row = ["series", "time", *layout.values]
    copies = rows.select(*row, pl.int_range(pl.len()).over(*row, FILE).alias(_COPY))
    is_first = copies.select(pl.struct(*row, _COPY).is_first_distinct()).to_series()
    repeated = rows.filter(~is_first)
    if not repeated.is_empty():
        earliest = repeated.sort("time", "series").row(0, named=True)
        findings.append(
            Finding(
                "identical rows of several files, collapsed into one",
                series=earliest["series"] or None,
                time=local_text(earliest["time"], layout.time_zone),
                count=repeated.height,
            )
        )
    return rows.filter(is_first)
