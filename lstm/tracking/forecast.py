"""A forecast: quantiles of the next horizon, series by series; and the newest rows that it is made from.

Axes: S series, H horizon steps, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
import polars as pl

from data.assemble import build_panel
from data.calendar import Frequency, Times
from data.errors import DataRefused
from data.frame import normalise
from data.layout import Layout
from data.panel import Floats, Panel
from data.rows import tidy
from data.static import static_values


@dataclass(frozen=True)
class Forecast:
    """Quantiles of the horizon after `as_of`.

    Args:
        data_set: the catalog name.
        version: the model version; None where the bundle was not loaded from the registry.
        as_of: the UTC time of the last step seen, ISO.
        frequency: the grid's step and time zone.
        series: S ids.
        times: (H,) UTC grid times.
        quantiles: Q levels, rising.
        values_SHQ: in the target's own units.
    """

    data_set: str
    version: str | None
    as_of: str
    frequency: Frequency
    series: tuple[str, ...]
    times: Times
    quantiles: tuple[float, ...]
    values_SHQ: Floats

    def to_frame(self) -> pd.DataFrame:
        """One row a series and step: `series`, `time` (ISO, local with offset), and `q0.5` and so on."""
        times = [self.frequency.format(time).replace(" ", "T") for time in self.times]
        frame = pd.DataFrame(
            self.values_SHQ.reshape(-1, len(self.quantiles)), columns=quantile_columns(self.quantiles)
        )
        frame.insert(0, "series", [name for name in self.series for _ in times])
        frame.insert(1, "time", times * len(self.series))
        return frame


def quantile_columns(quantiles: tuple[float, ...]) -> list[str]:
    """``q0.1``, ``q0.5`` and so on."""
    return [f"q{level:g}" for level in quantiles]


def panel_of(frame: pd.DataFrame, layout: Layout, frequency: Frequency) -> Panel:
    """The panel of some newest rows, under the source's own column names.

    It ends at the newest time; where there are future covariates, at the newest with a target: later rows
    give what is known ahead.

    Args:
        frame: one row a series and grid step; times as ISO texts or datetimes, local where they carry
            no offset; empty or NaN where nothing was observed.

    Raises:
        DataRefused: columns, types, times or values that the contract refuses.
    """
    if frame.empty:
        raise DataRefused(
            "no rows to forecast from.",
            data_set=layout.data_set,
            remedy="give the newest rows, at least as many as the model reads.",
        )
    rows = normalise(pl.from_pandas(frame).lazy(), layout)
    static = static_values(rows, layout)
    tidied, _ = tidy(rows.drop(layout.static).collect(), layout, frequency)
    has_target = pl.col(layout.target).is_not_null()
    past = tidied.filter(has_target) if layout.future else tidied
    if past.is_empty():
        layout.refuse("No row has a target.", column=layout.target, remedy="give the newest observed rows.")
    newest = past["time"].max()
    assert isinstance(newest, datetime)
    late = tidied.filter(pl.col("time").min().over("series") > newest)
    if not late.is_empty():
        layout.refuse(
            "The series has no row at or before the newest with a target.",
            series=late["series"][0],
            column=layout.target,
            remedy="give its newest observed rows, or leave it out.",
        )
    return build_panel(layout, frequency, tidied, np.datetime64(newest.replace(tzinfo=None), "us"), static)


def rows_of(panel: Panel, layout: Layout, history: int) -> pd.DataFrame:
    """The newest rows, and those ahead, under the source's own column names: the inverse of `panel_of`.

    A forecast fills a missing value from the newest one before it, so the rows of each series begin where
    every column was observed, at or before the history that is asked for: with `Bundle.history` they give
    the same forecast as the whole panel. Times are ISO texts, local with their offset; NaN where nothing was
    observed.
    """
    times = panel.frequency.times(panel.start, panel.n_steps + panel.n_ahead)
    texts = np.array([panel.frequency.format(time).replace(" ", "T") for time in times])
    frames = []
    for number, name in enumerate(panel.series):
        first, end = int(panel.offsets[number]), int(panel.offsets[number + 1])
        complete = np.flatnonzero(panel.observed[first : max(first, end - history) + 1].all(axis=1))
        start = first + int(complete[-1]) if len(complete) else first
        values = np.full((end - start + panel.n_ahead, len(panel.columns)), np.nan)
        values[: end - start] = panel.values[start:end]
        if panel.n_ahead:
            values[end - start :, len(panel.columns) - len(panel.future) :] = panel.ahead[number]
        frame = pd.DataFrame(values, columns=list(panel.columns))
        frame.insert(0, layout.time, texts[len(texts) - len(frame) :])
        if layout.series:
            frame.insert(1, layout.series, name)
        for feature, of_series in panel.static.items():
            frame[feature] = of_series[number]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
