"""Standardisation a series and column, and the panel a model reads: float32, filled from the past.

Axes: N rows, C columns (the target first), S series, W windows, K future covariates, A steps ahead of the
panel's last one, D numbers of the static features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataRefused
from data.panel import Booleans, Floats, Integers, Panel
from lstm.clock import Calendar, calendar
from lstm.features import cycles_seen
from lstm.static import StaticEncoder, embedding_size, unit

# Rows that are scaled at once: float64 in between costs memory for so many only.
_PIECE = 65_536


@dataclass(frozen=True)
class ScaledPanel:
    """A panel in standardised units, ready to be gathered from.

    Args:
        values: (N, C) float32, target and past covariates; a missing value holds the newest one before it,
            or 0 (the mean) where there is none.
        observed: (N, C) True where a value was observed.
        future: (N + S * A, K) float32, future covariates, filled alike: each series has A rows more.
        static: (S, D) float32, static features.
        numbers: (S,) int64, by which the network knows each series.
        calendar: features of every grid step and of the horizon after the last.
        first_steps: (S,) the grid step of each series' first row.
        offsets: (S + 1,) the first row of each series, then N.
    """

    values: NDArray[np.float32]
    observed: Booleans
    future: NDArray[np.float32]
    static: NDArray[np.float32]
    numbers: Integers
    calendar: Calendar
    first_steps: Integers
    offsets: Integers

    @property
    def n_ahead(self) -> int:
        """A."""
        return (len(self.future) - len(self.values)) // len(self.numbers)

    @property
    def n_steps(self) -> int:
        """Grid steps of the panel."""
        return int(self.first_steps[0] + self.offsets[1])

    @property
    def sizes(self) -> dict[str, int]:
        """What of a network's configuration follows from the panel that it is trained on."""
        return {
            "columns": self.values.shape[1],
            "calendar_features": self.calendar.shape[1],
            "future_covariates": self.future.shape[1],
            "static_features": self.static.shape[1],
            "series": len(self.numbers),
            "series_embedding": embedding_size(len(self.numbers)),
        }


@dataclass(frozen=True)
class Scaler:
    """Location (mean) and scale (standard deviation) of each series and column, in float64.

    Args:
        series: the ids, in the order of the rows.
        columns: the names, in the order of the columns: target, past and future covariates.
        numbers: (S,) the place of each series among those fitted, by which the network knows it.
        static: encodes static features.
        cycles: of the calendar, that were seen (`lstm.features.cycles_seen`); the others' features are 0.
        loc_SC: (S, C) in the data's own units.
        scale_SC: (S, C) in the data's own units, above 0.
    """

    series: tuple[str, ...]
    columns: tuple[str, ...]
    numbers: Integers
    static: StaticEncoder
    cycles: tuple[str, ...]
    loc_SC: Floats
    scale_SC: Floats

    @classmethod
    def fit(cls, panel: Panel, last_step: int, first_step: int = 0) -> Scaler:
        """Mean and standard deviation of what was observed between two grid steps, both included.

        A constant column gets scale 1; one with nothing observed gets location 0 and scale 1. Cycles of the
        calendar count as seen that this span holds twice.
        """
        count = len(panel.series)
        loc, scale = np.zeros((count, len(panel.columns))), np.ones((count, len(panel.columns)))
        for number in range(count):
            begins = int(panel.first_steps[number])
            rows = slice(max(first_step - begins, 0), max(last_step + 1 - begins, 0))
            values = panel.values[panel.rows(number)][rows]
            for column in range(len(panel.columns)):
                mean, spread = _mean_and_deviation(values[:, column])
                loc[number, column] = mean
                scale[number, column] = unit(mean, spread)
        cycles = cycles_seen(panel.frequency, min(last_step, panel.n_steps - 1) + 1 - first_step)
        static = StaticEncoder.fit(panel)
        return cls(panel.series, panel.columns, np.arange(count), static, cycles, loc, scale)

    def select(self, panel: Panel) -> Scaler:
        """The scaler of a panel's series, in the panel's order, so that series indices agree.

        Raises:
            DataRefused: the panel has other columns, or a series that was not fitted.
        """
        if panel.columns != self.columns:
            raise DataRefused(
                f"columns {', '.join(panel.columns)}; the model was trained on {', '.join(self.columns)}.",
                data_set=panel.data_set,
                remedy="give the columns of the training, or retrain.",
            )
        row = {name: number for number, name in enumerate(self.series)}
        unknown = [name for name in panel.series if name not in row]
        if unknown:
            raise DataRefused(
                "the model was not trained on this series.",
                data_set=panel.data_set,
                series=unknown[0],
                remedy="leave the series out, or retrain.",
            )
        rows = [row[name] for name in panel.series]
        return replace(
            self,
            series=panel.series,
            numbers=self.numbers[rows],
            loc_SC=self.loc_SC[rows],
            scale_SC=self.scale_SC[rows],
        )

    def scale(self, panel: Panel, horizon: int) -> ScaledPanel:
        """The panel in standardised units, with the calendar of `horizon` more steps.

        Raises:
            DataRefused: the panel has other columns, or a series that was not fitted.
        """
        own = self.select(panel)
        # Columns that are observed, up to the future covariates, which are known.
        count, end = len(panel.columns) - len(panel.future), int(panel.offsets[-1])
        values_NC = np.empty((end, count), dtype=np.float32)
        future_NK = np.empty((end + len(panel.series) * panel.n_ahead, len(panel.future)), dtype=np.float32)
        for number, (loc_C, scale_C) in enumerate(zip(own.loc_SC, own.scale_SC, strict=True)):
            rows, behind = panel.rows(number), number * panel.n_ahead
            newest_C = np.zeros_like(loc_C)
            for first in range(rows.start, rows.stop, _PIECE):
                last = min(first + _PIECE, rows.stop)
                filled_NC = _fill((panel.values[first:last] - loc_C) / scale_C, newest_C)
                values_NC[first:last], newest_C = filled_NC[:, :count], filled_NC[-1]
                future_NK[first + behind : last + behind] = filled_NC[:, count:]
            if panel.n_ahead:
                ahead_AK = (panel.ahead[number] - loc_C[count:]) / scale_C[count:]
                first = rows.stop + behind
                future_NK[first : first + panel.n_ahead] = _fill(ahead_AK, newest_C[count:])
        return ScaledPanel(
            values=values_NC,
            observed=~np.isnan(panel.values[:, :count]),
            future=future_NK,
            static=own.static.encode(panel),
            numbers=own.numbers,
            calendar=calendar(
                panel.frequency, panel.start, panel.n_steps + horizon, panel.holidays, own.cycles
            ),
            first_steps=panel.first_steps,
            offsets=panel.offsets,
        )

    def target(self, series: Integers) -> tuple[Floats, Floats]:
        """Location and scale, (W,) each, of the target of each of these series (indices)."""
        return self.loc_SC[series, 0], self.scale_SC[series, 0]

    def scale_target(self, y_W: Floats, series: Integers) -> Floats:
        """Targets (W, ...) of these series (W,) in standardised units."""
        loc_W, scale_W = (_trailing(part, y_W.ndim) for part in self.target(series))
        return (y_W - loc_W) / scale_W

    def unscale(self, y_W: NDArray[np.floating[Any]], series: Integers) -> Floats:
        """Standardised targets (W, ...) of these series (W,) in their own units, float64."""
        loc_W, scale_W = (_trailing(part, y_W.ndim) for part in self.target(series))
        return y_W.astype(np.float64) * scale_W + loc_W

    def to_dict(self) -> dict[str, Any]:
        """Of a fitted one, JSON-safe; `from_dict` gives back the same floats to the last bit."""
        return {
            "series": list(self.series),
            "columns": list(self.columns),
            "static": self.static.to_dict(),
            "cycles": list(self.cycles),
            "loc": self.loc_SC.tolist(),
            "scale": self.scale_SC.tolist(),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Scaler:
        """The inverse of `to_dict`."""
        shape = (len(raw["series"]), len(raw["columns"]))
        loc, scale = (np.array(raw[key], dtype=np.float64).reshape(shape) for key in ("loc", "scale"))
        static = StaticEncoder.from_dict(raw["static"])
        return cls(
            series=tuple(raw["series"]),
            columns=tuple(raw["columns"]),
            numbers=np.arange(shape[0]),
            static=static,
            cycles=tuple(raw["cycles"]),
            loc_SC=loc,
            scale_SC=scale,
        )


def _mean_and_deviation(values_N: Floats) -> tuple[float, float]:
    """Of what was observed; 0 and 0 where nothing was."""
    pieces = [values_N[first : first + _PIECE] for first in range(0, len(values_N), _PIECE)]
    count = sum(int(np.count_nonzero(~np.isnan(piece))) for piece in pieces)
    if not count:
        return 0.0, 0.0
    mean = sum(float(piece[~np.isnan(piece)].sum()) for piece in pieces) / count
    squares = sum(float(((piece[~np.isnan(piece)] - mean) ** 2).sum()) for piece in pieces)
    return mean, sqrt(squares / count)


def _fill(values_NC: Floats, newest_C: Floats) -> Floats:
    """Each missing value replaced by the newest one before it, which for the first rows is `newest_C`."""
    rows = np.arange(1, len(values_NC) + 1)[:, None]
    newest = np.maximum.accumulate(np.where(np.isnan(values_NC), 0, rows), axis=0)
    return np.take_along_axis(np.concatenate([newest_C[None], values_NC]), newest, axis=0)


def _trailing(part_W: Floats, ndim: int) -> Floats:
    """(W,) as (W, 1, ...), to broadcast over the axes that follow W."""
    return part_W.reshape(-1, *(1,) * (ndim - 1))
