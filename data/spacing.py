"""How far apart rows lie: the frequency that this tells, and a declared one that it contradicts."""

from __future__ import annotations

import numpy as np
import polars as pl

from data.calendar import WEEKDAYS, Frequency
from data.layout import Layout

FINER = 0.01
"""Share of rows that may lie closer than the frequency that the others tell."""
RUN = 10
"""So many rows in turn, each in the declared step after the one before, prove that there are such steps."""
NEXT = 0.75
"""Share of rows that lie in the step after the one before; of five trading days a week it is four fifths."""

_STEPS = (60, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200)


def usual_frequency(rows: pl.DataFrame, series: str | None, time_zone: str = "UTC") -> Frequency | None:
    """The commonest distance of neighbours as a frequency; None where no two times of a series differ.

    Args:
        rows: has the column `time` (UTC).
        series: the column that tells the series apart, if there is one.
        time_zone: where days and weeks begin.
    """
    ordered = rows.lazy().select(pl.col("time"), pl.col(series) if series else pl.lit("").alias("series"))
    ordered = ordered.sort(series or "series", "time")
    gap = pl.col("time").diff().over(series or "series").dt.total_seconds().alias("gap")
    seconds = ordered.select(gap).filter(pl.col("gap") > 0).collect().to_series()
    if seconds.is_empty():
        return None
    local = rows["time"].dt.convert_time_zone(time_zone)
    return Frequency(_text(int(seconds.mode().min()), local), time_zone)  # type: ignore[arg-type]


def fits(frequency: Frequency, times: pl.Series) -> bool:
    """Whether all times (UTC) are beginnings of steps."""
    moments = _moments(times)
    return bool(np.all(frequency.floor(moments) == moments))


def check_spacing(frame: pl.DataFrame, layout: Layout, grid: Frequency) -> None:
    """Refuse a grid of which nearly all rows leave steps out, as hourly rows do of one of 15 minutes.

    Rows that are missing here and there leave most neighbours one step apart, so they change nothing.

    Args:
        frame: normalised rows, sorted by series and time, one a step.
        layout: the roles of the columns.
        grid: the declared time grid.

    Raises:
        DataRefused: names the frequency that the rows have.
    """
    usual = usual_frequency(frame, "series", grid.time_zone)
    if usual is None or usual.seconds <= grid.seconds:
        return
    same = (frame["series"] == frame["series"].shift())[1:].to_numpy()
    times = _moments(frame["time"])
    steps = np.diff(usual.steps_between(times[0], times))[same]
    if np.mean(steps < 1) > FINER or np.mean(steps == 1) < NEXT:
        return
    steps = np.diff(grid.steps_between(times[0], times))[same]
    # Some series, or the newest rows, have the declared frequency.
    if np.convolve(steps == 1, np.ones(RUN), "valid").max(initial=0) >= RUN:
        return
    apart = np.bincount(steps).argmax()
    aggregated = "" if fits(usual, frame["time"]) else " with `aggregate:`"
    layout.refuse(
        f"The rows are {apart} steps of {grid.text} apart, so that most steps would be missing.",
        column=layout.time,
        time=grid.format(times.min()),
        remedy=f"did you mean `frequency: {usual.text}`{aggregated}? Rows that are events, which come "
        "when they do, want `aggregate:`.",
    )


def _moments(times: pl.Series) -> np.ndarray[tuple[int], np.dtype[np.datetime64]]:
    return times.dt.replace_time_zone(None).to_numpy().astype("datetime64[us]")


def _text(seconds: int, times: pl.Series) -> str:
    """The grid at that distance, or the next coarser one that divides a day."""
    if seconds >= 28 * 86_400:
        return "MS"
    if seconds >= 7 * 86_400:
        return f"W-{WEEKDAYS[int(times.dt.weekday().mode().min()) - 1]}"  # type: ignore[arg-type]
    step = next((s for s in _STEPS if s >= seconds), 86_400)
    exact = seconds % 60 == 0 and 86_400 % seconds == 0
    step = seconds if exact else step
    if step >= 86_400:
        return "D"
    hours = step // 3600
    return f"{step // 60}min" if step % 3600 else "h" if hours == 1 else f"{hours}h"
