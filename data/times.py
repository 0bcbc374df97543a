"""The time column: text, dates, local and zoned times become UTC.

Frames here have the columns `series` and `time`. Local times are those of the declared zone. The hour
that autumn repeats is told apart by the order of the rows; an hour that spring skips is refused.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from typing import Literal
from zoneinfo import ZoneInfo

import polars as pl

from data.findings import Finding
from data.layout import Layout

UTC = pl.Datetime("us", "UTC")
LOCAL = pl.Datetime("us")
_ROW = "__row"  # a name that no declared column has
ISO = "write times in ISO 8601, as in 2024-03-31 14:00 or 2024-03-31T14:00+02:00."

# Text is recognised by its shape: the text with every digit written as 9.
_SHAPE = re.compile(
    r"(?P<date>9999-9{1,2}-9{1,2}|9999/9{1,2}/9{1,2}|99999999|9999-99"
    r"|9{1,2}\.9{1,2}\.9999|9{1,2}/9{1,2}/9999|9{1,2}-9{1,2}-9999)"
    r"(?:(?P<gap>[T ])9{1,2}:99(?P<seconds>:99(?P<fraction>\.9+)?)?(?P<half> ?[AaPp][Mm])?"
    r"(?P<offset> ?(?:Z|UTC|[+-]99(?::?99)?))?)?"
)
_UNORDERED = re.compile(r"9{1,2}([/-])9{1,2}\1(?:9999)")


def to_utc(frame: pl.LazyFrame, layout: Layout, findings: list[Finding]) -> pl.LazyFrame:
    """Turn the column `time` into UTC; reports the repeated hour of autumn in `findings`.

    Raises:
        DataRefused: a row without a time, text that is no time, text with and without offsets, dates
            whose day and month cannot be told apart, a local time that does not exist.
    """
    dtype = frame.collect_schema()["time"]
    if dtype == pl.String:
        frame = _parse(frame, layout)
        dtype = frame.collect_schema()["time"]
    _refuse_nulls(frame, layout)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        return frame.with_columns(pl.col("time").dt.convert_time_zone("UTC").cast(UTC))
    if not isinstance(dtype, pl.Datetime | pl.Date):
        layout.refuse(f"The time column holds {dtype}, not times.", column=layout.time, remedy=ISO)
    frame = frame.with_columns(pl.col("time").cast(LOCAL))
    return _local_to_utc(frame, layout, findings)


def local_text(time: datetime.datetime, zone: str) -> str:
    """A UTC time as a person writes it, local with its offset."""
    return time.astimezone(ZoneInfo(zone)).isoformat(sep=" ", timespec="minutes")


def is_time_text(texts: pl.Series) -> bool:
    """True where every text looks like a time, and there is one."""
    shapes = _shape(pl.col(texts.name))
    found = texts.drop_nulls().to_frame().select(shapes).unique().to_series().to_list()
    return bool(found) and all(_SHAPE.fullmatch(shape) for shape in found)


def _shape(column: pl.Expr) -> pl.Expr:
    return column.str.strip_chars().str.replace_all(r"\d", "9")


def _parse(frame: pl.LazyFrame, layout: Layout) -> pl.LazyFrame:
    """Text to local times, or to UTC where every text carries an offset.

    The first rows tell the formats; shapes are counted only among the rows that those do not read.
    """
    examples = _examples(frame.head(1000))
    time = _reader(frame, layout, examples)
    unread = frame.filter(pl.col("time").is_not_null() & time.is_null())
    others = _examples(unread)
    if others:
        time = _reader(frame, layout, examples | others)
        unread = frame.filter(pl.col("time").is_not_null() & time.is_null())
        first = unread.select(pl.col("time").min()).collect(engine="streaming").item()
        if first is not None:
            layout.refuse(f"{first!r} is no time that can be read.", column=layout.time, remedy=ISO)
    return frame.with_columns(time.alias("time"))


def _examples(frame: pl.LazyFrame) -> dict[str, str]:
    """The shapes of the texts, each with one text."""
    texts = frame.filter(pl.col("time").is_not_null()).group_by(_shape(pl.col("time")).alias("shape"))
    found = texts.agg(pl.col("time").min()).sort("shape").collect(engine="streaming")
    return dict(found.iter_rows())


def _reader(frame: pl.LazyFrame, layout: Layout, examples: dict[str, str]) -> pl.Expr:
    """The expression that reads texts of these shapes; null for texts that only look like a time."""
    matches = {}
    for shape, example in examples.items():
        match = _SHAPE.fullmatch(shape)
        if match is None:
            layout.refuse(f"{example!r} is no time that can be read.", column=layout.time, remedy=ISO)
        matches[example] = match
    zoned = [example for example, match in matches.items() if match["offset"]]
    local = [example for example, match in matches.items() if not match["offset"]]
    if zoned and local:
        layout.refuse(
            f"Some times carry an offset from UTC ({zoned[0]!r}) and others do not ({local[0]!r}).",
            column=layout.time,
            remedy="write every time with its offset, or every time local to the declared time_zone.",
        )
    unordered = any(_UNORDERED.fullmatch(match["date"]) for match in matches.values())
    day_first = unordered and _day_first(frame, layout)
    formats = dict.fromkeys(_format(match, day_first) for match in matches.values())
    text = _tidy(pl.col("time"), matches.values())
    parsed = [text.str.to_datetime(fmt, time_unit="us", strict=False) for fmt in formats]
    return pl.coalesce(parsed) if parsed else pl.lit(None, LOCAL)


def _tidy(text: pl.Expr, matches: Iterable[re.Match[str]]) -> pl.Expr:
    """Text as the formats expect it: offsets written +hh:mm, months with a day."""
    text = text.str.strip_chars()
    if any(match["offset"] for match in matches):
        return (
            text.str.replace(r" ?(?:Z|UTC)$", "+00:00")
            .str.replace(r" ?([+-]\d\d)$", "${1}:00")
            .str.replace(r" ?([+-]\d\d:?\d\d)$", "${1}")
        )
    if any(match["date"] == "9999-99" for match in matches):
        return text.str.replace(r"^(\d{4}-\d\d)$", "${1}-01")
    return text


def _format(match: re.Match[str], day_first: bool) -> str:
    """The strptime format of a shape."""
    date = match["date"]
    if _UNORDERED.fullmatch(date):
        mark = date[-5]
        date = f"%d{mark}%m{mark}%Y" if day_first else f"%m{mark}%d{mark}%Y"
    elif "." in date:
        date = "%d.%m.%Y"
    elif date == "9" * 8:
        date = "%Y%m%d"
    else:
        date = "%Y/%m/%d" if "/" in date else "%Y-%m-%d"
    if match["gap"] is None:
        return date
    half = match["half"] or ""
    clock = ("%I" if half else "%H") + ":%M" + (":%S" if match["seconds"] else "")
    clock += "%.f" if match["fraction"] else ""
    clock += half[:-2] + "%p" if half else ""
    return date + match["gap"] + clock + ("%z" if match["offset"] else "")


def _day_first(frame: pl.LazyFrame, layout: Layout) -> bool:
    """Whether 03/04/2024 is the third of April: a number above 12 somewhere tells."""
    numbers = pl.col("time").str.extract_groups(r"^\s*(?<first>\d{1,2})[/-](?<second>\d{1,2})[/-]\d{4}")
    facts = frame.select(
        numbers.struct.field("first").cast(pl.Int32).max(),
        numbers.struct.field("second").cast(pl.Int32).max(),
        pl.col("time").min().alias("example"),
    )
    first, second, example = facts.collect(engine="streaming").row(0)
    if (first > 12) == (second > 12):
        reason = "both orders appear" if first > 12 else "no day is above 12"
        layout.refuse(
            f"Day and month cannot be told apart in times like {example!r}: {reason}.",
            column=layout.time,
            remedy=ISO,
        )
    return bool(first > 12)


def _refuse_nulls(frame: pl.LazyFrame, layout: Layout) -> None:
    missing = frame.select(pl.col("time").null_count()).collect(engine="streaming").item()
    if missing:
        layout.refuse(
            f"{missing:,} rows have no time.", column=layout.time, remedy="remove the rows or fill the time."
        )


def _local_to_utc(frame: pl.LazyFrame, layout: Layout, findings: list[Finding]) -> pl.LazyFrame:
    zone = layout.time_zone
    earliest = _at(zone, "earliest")
    if ZoneInfo(zone).utcoffset(None) is not None:  # a fixed offset: nothing is skipped or repeated
        return _finish(frame, earliest)
    order = frame.with_row_index(_ROW)
    dated, skipped, doubled = pl.collect_all(
        [
            frame.select((pl.col("time").dt.time() == datetime.time()).all()),
            frame.filter(earliest.is_null()).bottom_k(1, by="time").select("series", "time"),
            order.filter(earliest != _at(zone, "latest")).select(_ROW, "series", "time"),
        ],
        engine="streaming",
    )
    if dated.item():
        # Midnights stand for days: where the clock skips midnight, the day starts an hour later.
        return _finish(frame, pl.coalesce(earliest, _at(zone, "earliest", pl.duration(hours=1))))
    if skipped.height:
        series, time = skipped.row(0)
        layout.refuse(
            f"The local time {time} does not exist in {zone}: the clock skips it.",
            series=series,
            column=layout.time,
            time=str(time),
            remedy="declare the zone that the clock followed (Etc/GMT-1 is a fixed UTC+1), or add offsets.",
        )
    if doubled.is_empty():
        return _finish(frame, earliest)
    findings.append(
        Finding(
            "local times that autumn repeats were told apart by row order, the first as summer time",
            column=layout.time,
            time=str(doubled["time"].min()),
            count=doubled.height,
        )
    )
    second = pl.col(_ROW).is_in(_second(doubled, frame).implode())
    return _finish(order, pl.when(second).then(_at(zone, "latest")).otherwise(earliest)).drop(_ROW)


def _at(zone: str, ambiguous: Literal["earliest", "latest"], later: pl.Expr | None = None) -> pl.Expr:
    """The local time, or a later one, in the zone; null where it does not exist."""
    time = pl.col("time") if later is None else pl.col("time") + later
    return time.dt.replace_time_zone(zone, ambiguous=ambiguous, non_existent="null")


def _finish(frame: pl.LazyFrame, time: pl.Expr) -> pl.LazyFrame:
    return frame.with_columns(time.dt.convert_time_zone("UTC").alias("time"))


def _second(doubled: pl.DataFrame, frame: pl.LazyFrame) -> pl.Series:
    """Rows in the second, winter half: from where a series' clock turns back, or repeats itself.

    Where it never turns back that day and more than one time comes again, the rows are sorted by local time:
    then the second row of a time is winter's.
    """
    ends = frame.group_by("series").agg(newest_first=pl.col("time").first() > pl.col("time").last())
    known = doubled.join(ends.collect(engine="streaming"), on="series")
    row, time = pl.col(_ROW).cast(pl.Int64), pl.col("time")
    ordered = known.sort(pl.when("newest_first").then(-row).otherwise(row)).with_columns(
        earlier=pl.int_range(pl.len()).over("series", "time")
    )
    turns = (time.diff() < pl.duration()).fill_null(False)
    repeats = (time.diff() == pl.duration()).fill_null(False)
    half = (
        pl.when(turns.any())
        .then(turns.cum_sum())
        .when(time.filter(repeats).n_unique() > 1)
        .then("earlier")
        .otherwise(repeats.cum_sum())
    )
    # An odd number of turns is winter; a copy of the same day further down starts again with summer.
    return ordered.filter(half.over("series", time.dt.date()) % 2 == 1)[_ROW]
