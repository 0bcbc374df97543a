"""The contract between a data set and a night: what is read, checked and fixed, and what is refused.

Each deviation has one outcome: it is fixed and reported as a finding, or the night is refused with data set,
series, column, first offending time and remedy. A refused night changes nothing.

    checked = check(data_set, resolve_as_of(data_set))
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl

from data.assemble import build_panel
from data.calendar import Frequency, duration
from data.catalog import DataSet
from data.changes import Seen, compare
from data.checks import check_ahead, check_panel
from data.errors import DataRefused
from data.findings import Finding
from data.layout import layout_of
from data.panel import Panel
from data.rows import tidy
from data.source import newest_time, read
from data.spacing import check_spacing
from data.splits import Splits, split

__all__ = ["Checked", "Seen", "build_panel", "check", "resolve_as_of"]


@dataclass(frozen=True)
class Checked:
    """A panel that passed the contract.

    Args:
        panel: ends at as-of; series too short to train on are left out.
        findings: what was fixed or is worth knowing.
        seen: the data set's shape, for the next night's comparison.
    """

    panel: Panel
    findings: tuple[Finding, ...]
    seen: Seen


def resolve_as_of(data_set: DataSet, now: datetime | None = None) -> np.datetime64:
    """The grid step at which the past ends: the last complete one.

    With the wall clock, the last step that ended `publication_delay` before now; with `clock: data`, the
    step of the newest row. Where rows are aggregated, that step may still miss some: it counts as complete
    where a next row, as far from the newest as that is from the one before, would lie in the next step.

    Args:
        data_set: the data set.
        now: the moment, with its time zone; unset means now.

    Raises:
        ValueError: `now` has no time zone.
        DataRefused: `clock: data`, and the data cannot be read or has no rows.
    """
    grid = data_set.grid
    if data_set.clock == "data":
        newest = newest_time(data_set)
        step = _floor(grid, newest)
        if data_set.aggregate is None:
            return step
        following = newest + (newest - newest_time(data_set, before=newest))
        return step if following >= grid.shift(step, 1) else grid.shift(step, -1)
    now = now or datetime.now(UTC)
    if now.tzinfo is None:
        raise ValueError(f"now needs a time zone, found {now}")
    end = (now - duration(data_set.publication_delay)).astimezone(UTC).replace(tzinfo=None)
    return grid.shift(_floor(grid, np.datetime64(end, "us")), -1)


def check(data_set: DataSet, as_of: np.datetime64, previous: Seen | None = None) -> Checked:
    """Read a data set up to `as_of`, hold it against the contract, and build its panel.

    Args:
        data_set: the data set.
        as_of: the last grid step to see; nothing later is read, but for future covariates.
        previous: what last night saw; unset skips the comparison.

    Raises:
        DataRefused: the data breaks the contract; names data set, series, column, time and remedy.
    """
    layout, grid = layout_of(data_set), data_set.grid
    reading = read(data_set, until=as_of)
    frame, fixed = tidy(reading.frame, layout, grid)
    if data_set.aggregate is None:  # Events, which are aggregated, come when they do.
        check_spacing(frame, layout, grid)
    series = tuple(frame["series"].unique().sort())
    seen = Seen(dict(reading.columns), series, data_set.series)
    changed = compare(data_set, previous, seen) if previous else ()
    begun = _from_first_target(frame, data_set, as_of)
    panel = build_panel(layout, grid, begun, as_of, reading.static)
    splits = split(panel, data_set.retrain)
    needed = _least_steps(panel, data_set, splits)
    steps = dict(zip(panel.series, np.diff(panel.offsets).tolist(), strict=True))
    waiting = [
        Finding(
            f"too short to train on: {steps.get(name, 0)} steps, and it takes {needed}; left out until then",
            series=name,
            column=data_set.target,
        )
        for name in series
        if steps.get(name, 0) < needed
    ]
    panel = panel.select([name for name, count in steps.items() if count >= needed])
    found = check_panel(panel, data_set, splits)
    # After staleness: a source that has stopped gives nothing ahead either.
    check_ahead(panel, data_set.retrain.horizon)
    return Checked(panel, (*reading.findings, *fixed, *changed, *waiting, *found), seen)


def _from_first_target(frame: pl.DataFrame, data_set: DataSet, as_of: np.datetime64) -> pl.DataFrame:
    """Without the rows of each series before its target was first observed: it begins there."""
    begun = frame.filter(pl.col(data_set.target).is_not_null().cum_max().over("series"))
    if begun.is_empty():
        raise DataRefused(
            f"No value of the target up to {data_set.grid.format(as_of)}.",
            data_set=data_set.name,
            column=data_set.target,
            remedy="give the source rows with values, or a later as-of.",
        )
    return begun


def _least_steps(panel: Panel, data_set: DataSet, splits: Splits) -> int:
    """The steps up to as-of that a series needs to hold one training window of the longest lookback."""
    after_training = panel.n_steps - 1 - splits.train.last
    return max(data_set.retrain.search_space.lookback) + data_set.retrain.horizon + after_training


def _floor(grid: Frequency, time: np.datetime64) -> np.datetime64:
    floored: np.datetime64 = grid.floor(np.array([time], dtype="datetime64[us]"))[0]
    return floored
