"""The published long-horizon protocol: which rows train, validate and test, and which windows are scored.

Zhou et al. 2021 ("Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting") and
those who compare with them: the columns of a file are standardised by its first part, every window of its
last part counts, one step after the other, and errors are means over windows, steps and columns.

Axes: W windows, H horizon steps, C columns, S series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.assemble import build_panel
from data.catalog import DataSet, parse_data_set
from data.contract import resolve_as_of
from data.errors import DataRefused
from data.guess import guess
from data.layout import layout_of
from data.panel import Floats, Panel
from data.retrain import default_seasons
from data.rows import tidy
from data.source import read
from data.splits import Span, Splits
from lstm.scaling import Scaler
from lstm.windows import Windows, windows

Split = Literal["ETTh", "ETTm", "70/10/20"]

_MONTH = 30 * 24
_ETT = {"ETTh": _MONTH, "ETTm": 4 * _MONTH}


@dataclass(frozen=True, eq=False)
class Case:
    """Data to be measured on.

    Args:
        name: the data set's, lower case.
        panel: ends with the test span.
        splits: its `judge` is the test span.
        season: steps of the strongest season; 1 for none.
        entry: the keys of a catalog entry that describe the file.
        has_times: False where the panel's times are made up, so that its calendar must say nothing.
    """

    name: str
    panel: Panel
    splits: Splits
    season: int
    entry: Mapping[str, Any]
    has_times: bool = True

    @property
    def seen(self) -> Panel:
        """The panel without the test span: all that search and training get."""
        return self.panel.until(self.splits.validation.last)

    @property
    def scaler(self) -> Scaler:
        """Standardises each series by its train rows."""
        fitted = Scaler.fit(self.panel, self.splits.train.last, self.splits.train.first)
        return fitted if self.has_times else replace(fitted, cycles=())

    def data_set(self, horizon: int, lookbacks: Sequence[int], retrain: Mapping[str, Any]) -> DataSet:
        """The catalog entry of a horizon; what is not given is the library's default for the frequency.

        Args:
            lookbacks: the search chooses among them; none for the default ones.
            retrain: further keys of the `retrain` block.

        Raises:
            CatalogError: a key or value that a catalog could not hold either.
            DataRefused: validation or test is shorter than the horizon.
        """
        for part in ("validation", "judge"):
            self._refuse_short(part, horizon, f"horizon {horizon}")
        seconds = self.panel.frequency.seconds
        spans = {name: f"{len(getattr(self.splits, name)) * seconds}s" for name in ("validation", "judge")}
        space = {"search_space": {"lookback": tuple(lookbacks)}} if lookbacks else {}
        block = {"horizon": horizon, **spans, **space, **retrain}
        return parse_data_set(Path("benchmark"), self.name, {**self.entry, "retrain": block})

    def check(self, horizon: int, lookback: int) -> None:
        """See that training, validation and test have windows, and each series a scale.

        Raises:
            DataRefused: one has none; says what would fit.
        """
        self._refuse_short("train", lookback + horizon, f"horizon {horizon} with lookback {lookback}")
        self._refuse_unseen()
        if not len(every_window(self.panel, self.splits.judge, horizon)):
            raise DataRefused(
                f"Nothing observed in test, the last {len(self.splits.judge)} steps.",
                data_set=self.name,
                column=self.panel.target,
                remedy="give a file with the target's last rows, or another --split.",
            )
        for part in ("train", "validation"):
            if not len(windows(self.panel, getattr(self.splits, part), lookback, horizon)):
                raise DataRefused(
                    f"No {part} window of lookback {lookback} and horizon {horizon} has half of its lookback "
                    "and any of its horizon observed.",
                    data_set=self.name,
                    remedy="a smaller --lookback, or data with fewer gaps.",
                )

    def _refuse_unseen(self) -> None:
        """A series that has no train row would be scored in its own units beside standardised ones."""
        train, panel = self.splits.train, self.panel
        for number, name in enumerate(panel.series):
            first = max(train.last + 1 - int(panel.first_steps[number]), 0)
            if np.isnan(panel.values[panel.rows(number)][:first, 0]).all():
                raise DataRefused(
                    f"Nothing observed in train, up to {panel.frequency.format(panel.times()[train.last])}.",
                    data_set=self.name,
                    series=name,
                    remedy="leave it out of the file, or give earlier rows.",
                )

    def _refuse_short(self, part: str, needed: int, what: str) -> None:
        steps = len(getattr(self.splits, part))
        if steps < needed:
            raise DataRefused(
                f"Too short: {self.panel.n_steps} steps leave {steps} to {part}; {what} needs {needed}.",
                data_set=self.name,
                remedy="a longer file, or smaller --horizons and --lookback.",
            )


def read_case(
    path: Path, target: str | None = None, split: Split | None = None, *, interpolate: bool = False
) -> Case:
    """A CSV or Parquet file with a column of times.

    Args:
        target: the column to forecast, from itself and all others, each in the role that `guess` gives it:
            a column that reaches a whole horizon beyond the target's last row counts as known ahead. Unset,
            every column is a series of its own, and all are forecast by the same weights.
        split: which rows are train, validation and test; by default that of the file's name.
        interpolate: fill gaps on a straight line and count what was filled, as some published numbers do.
            Otherwise what is missing stays so, and is not scored.

    Raises:
        DataRefused: the file is missing or unreadable, holds no times, no numbers or not the target.
    """
    name, entry = guess(path, target=target)
    if target is None:
        if "series" in entry:
            raise DataRefused(
                f"Times repeat: column {entry['series']!r} tells several series apart.",
                data_set=name,
                remedy="name what to forecast: --target COLUMN.",
            )
        # Each becomes a series, and the rows count that one has after the others' last.
        entry["columns"] = dict.fromkeys(entry.get("columns", {}), "past")
    data_set = parse_data_set(path, name, {**entry, "clock": "data"})
    layout, grid = layout_of(data_set), data_set.grid
    as_of = resolve_as_of(data_set)
    reading = read(data_set, until=as_of)
    frame, _ = tidy(reading.frame, layout, grid)
    panel = build_panel(layout, grid, frame, as_of, reading.static)
    splits = split_rows(name, panel.n_steps, split or split_of(path.stem))
    if interpolate:
        panel = interpolated(panel, splits.validation.last)
    if target is None:
        panel = unfolded(panel)
        entry = {key: value for key, value in entry.items() if key != "columns"}
    panel = aligned(panel)
    season = default_seasons(grid)[0]
    return Case(name, panel.until(splits.judge.last), splits, season, {**entry, "clock": "data"})


def split_of(stem: str) -> Split:
    """The split of a file by its name without suffix."""
    return next((kind for kind in ("ETTh", "ETTm") if stem.lower().startswith(kind.lower())), "70/10/20")


def split_rows(name: str, steps: int, kind: Split) -> Splits:
    """The spans of target steps: 12, 4 and 4 months of 30 days, or seven, one and two tenths.

    Later rows are unused. The shares are rounded as in the published code: train and test down.

    Raises:
        DataRefused: fewer steps than that.
    """
    if kind == "70/10/20":
        train, test = int(steps * 0.7), int(steps * 0.2)
        validation = steps - train - test
    else:
        train, validation, test = (months * _ETT[kind] for months in (12, 4, 4))
    if train + validation + test > steps or min(train, validation, test) < 1:
        raise DataRefused(
            f"Too short: {steps} steps; the split {kind} needs {max(10, train + validation + test)}.",
            data_set=name,
            remedy="give the whole file, or --split 70/10/20.",
        )
    return Splits(
        Span(0, train - 1),
        Span(train, train + validation - 1),
        Span(train + validation, train + validation + test - 1),
    )


def unfolded(panel: Panel) -> Panel:
    """Every column of a panel of one series as a series of its own."""
    rows, columns = panel.values.shape
    return replace(
        panel,
        target="value",
        covariates=(),
        future=(),
        ahead=np.empty((0, 0, 0)),
        static={},
        series=panel.columns,
        first_steps=np.zeros(columns, dtype=np.int64),
        offsets=np.arange(columns + 1, dtype=np.int64) * rows,
        values=panel.values.T.reshape(-1, 1),
    )


def aligned(panel: Panel) -> Panel:
    """Every series from the panel's first step on, with missing values before it began.

    So every lookback of a test window lies within the window's own series.
    """
    parts = [
        np.pad(panel.values[panel.rows(number)], ((int(first), 0), (0, 0)), constant_values=np.nan)
        for number, first in enumerate(panel.first_steps)
    ]
    return replace(
        panel,
        first_steps=np.zeros_like(panel.first_steps),
        offsets=np.arange(len(parts) + 1, dtype=np.int64) * panel.n_steps,
        values=np.concatenate(parts),
    )


def interpolated(panel: Panel, last_seen: int) -> Panel:
    """Every gap filled on the straight line between its neighbours in time, at the ends with the nearest.

    So the published data were made. A test window whose origin lies in a gap reads values that lead to the
    first one after the gap, which nobody could know at its origin; that is as published. Search and training
    read nothing of it: the part before the test span is filled by itself.

    Args:
        last_seen: the grid step before the test span.
    """
    values = panel.values.copy()
    for number, first in enumerate(panel.first_steps):
        part = values[panel.rows(number)]
        seen = max(last_seen + 1 - int(first), 0)
        for column in part.T:
            column[:] = np.concatenate([_filled(column[:seen]), _filled(column)[seen:]])
    return replace(panel, values=values)


def _filled(values_N: Floats) -> Floats:
    """Without gaps, as `interpolated` says; where nothing was observed, as it was."""
    known = np.flatnonzero(~np.isnan(values_N))
    return np.interp(np.arange(len(values_N)), known, values_N[known]) if len(known) else values_N


def every_window(panel: Panel, span: Span, horizon: int) -> Windows:
    """Every window whose horizon lies in the span and holds an observed target, one step after the other.

    None is dropped for what its lookback misses, so that every lookback is measured on the same ones; only
    an origin before the first row of its series makes none.
    """
    parts = []
    for number in range(len(panel.series)):
        rows, begin = panel.values[panel.rows(number), 0], int(panel.first_steps[number])
        step = np.arange(max(span.first - 1, begin), span.last - horizon + 1, dtype=np.int64)
        row = step - begin
        seen = np.concatenate([[0], np.cumsum(~np.isnan(rows))])
        keep = seen[row + 1 + horizon] > seen[row + 1]
        series = np.full(int(keep.sum()), number, dtype=np.int64)
        parts.append((panel.offsets[number] + row[keep], series, step[keep]))
    return Windows.of(*(np.concatenate(each) for each in zip(*parts, strict=True)))
