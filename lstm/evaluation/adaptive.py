"""Adaptive intervals: quantiles that learn from every forecast that has come true.

A calibration (`lstm.evaluation.conformal`) knows the errors of the weeks that it comes from, and errors
change with the season. So each quantile is moved on, after every forecast whose horizon is over, by how much
more often it was missed than its level allows: outwards where it was missed too often, inwards where too
seldom. Whatever the data does, the share that is missed then tends to what the level says (Gibbs and Candès,
2021, Adaptive conformal inference under distribution shift, arXiv:2106.00170; here the quantile itself is
moved, as by Angelopoulos, Candès and Tibshirani, 2023, Conformal PID control for time series prediction,
arXiv:2307.16895, on a logarithmic scale, so that it cannot pass the median).

Axes: W windows to forecast, V windows of the trail, S series, H horizon steps, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from data.panel import Floats, Integers
from lstm.evaluation.conformal import stretch
from lstm.windows import Windows

RATE = 0.05
"""How far a quantile moves, in parts of its distance from the median, where one forecast missed it."""

TRAIL = 512
"""Steps to look back for forecasts to learn from. Where a calibration is about right, more add little."""

# Of few windows, each may say so much.
_MOST_RATE = 0.2

# A distance of nothing is missed for ever, however far it is stretched.
_FURTHEST = log(10)


@dataclass(frozen=True)
class Trail:
    """Forecasts whose whole horizon has passed.

    Args:
        y_VH: what happened; NaN where nothing was observed.
        forecast_VHQ: rising quantiles in the units of y, by weights that had not seen it.
        series_V: the index of each series.
        steps_V: the grid step of each origin.
    """

    y_VH: Floats
    forecast_VHQ: Floats
    series_V: Integers
    steps_V: Integers


def adapt(
    forecast_WHQ: Floats,
    series_W: Integers,
    steps_W: Integers,
    trail: Trail,
    levels: Sequence[float],
    rate: float = RATE,
) -> Floats:
    """(W, H, Q) the forecasts, each adapted by that part of its series' trail whose horizon was over at its
    origin.

    The median stays as it is, and no two quantiles cross. A series without a trail keeps its forecast.

    Args:
        forecast_WHQ: rising quantiles.
        series_W: the index of each window's series.
        steps_W: the grid step of each origin.
        levels: (Q,) rising quantile levels, .5 among them.
        rate: see `RATE`; so many times that where the trail has one origin in so many.
    """
    horizon, median = forecast_WHQ.shape[1], list(levels).index(0.5)
    count = 1 + int(max(series_W.max(initial=0), trail.series_V.max(initial=0)))
    moved_SHQ = np.zeros((count, *forecast_WHQ.shape[1:]))
    adapted_WHQ, adapted_VHQ = np.empty_like(forecast_WHQ), np.empty_like(trail.forecast_VHQ)
    asked, past = _by_origin(steps_W), _by_origin(trail.steps_V)
    for step in sorted({*asked, *past, *(origin + horizon for origin in past)}):
        over, own, earlier = past.get(step - horizon), asked.get(step), past.get(step)
        if over is not None:
            series = trail.series_V[over]
            missed_VHQ = _missed_too_often(trail.y_VH[over], adapted_VHQ[over], levels, median)
            moved_SHQ[series] = np.clip(moved_SHQ[series] + rate * missed_VHQ, -_FURTHEST, _FURTHEST)
        if own is not None:
            factor_WHQ = np.exp(moved_SHQ[series_W[own]])
            adapted_WHQ[own] = stretch(forecast_WHQ[own], factor_WHQ, median)
        if earlier is not None:
            factor_VHQ = np.exp(moved_SHQ[trail.series_V[earlier]])
            adapted_VHQ[earlier] = stretch(trail.forecast_VHQ[earlier], factor_VHQ, median)
    return adapted_WHQ


def adapt_in_turn(
    forecast_WHQ: Floats, y_WH: Floats, windows: Windows, levels: Sequence[float], share: float = 1.0
) -> Floats:
    """(W, H, Q) forecasts of windows that no training has seen, each adapted by those before it.

    Args:
        forecast_WHQ: rising quantiles.
        y_WH: what happened, in the same units; NaN where nothing was observed.
        share: of all windows, so many are here: each then says more.
    """
    trail = Trail(y_WH, forecast_WHQ, windows.series, windows.steps)
    rate = min(RATE / share, _MOST_RATE)
    return adapt(forecast_WHQ, windows.series, windows.steps, trail, levels, rate)


def _by_origin(steps_W: Integers) -> dict[int, Integers]:
    """The indices of each origin's windows, one a series."""
    if not len(steps_W):
        return {}
    order = np.argsort(steps_W, kind="stable")
    steps, begins = np.unique(steps_W[order], return_index=True)
    return dict(zip(steps.tolist(), np.split(order, begins[1:]), strict=True))


def _missed_too_often(y_VH: Floats, forecast_VHQ: Floats, levels: Sequence[float], median: int) -> Floats:
    """(V, H, Q) 1 for a target beyond a quantile and else 0, less the share that should be; 0 for the median
    and where nothing was observed."""
    levels_Q, y_VH1 = np.asarray(levels), y_VH[..., np.newaxis]
    is_above_Q = np.arange(len(levels_Q)) > median
    beyond_VHQ = np.where(is_above_Q, y_VH1 > forecast_VHQ, y_VH1 < forecast_VHQ)
    too_often_VHQ: Floats = np.where(
        np.isnan(y_VH1), 0.0, beyond_VHQ - np.where(is_above_Q, 1 - levels_Q, levels_Q)
    )
    too_often_VHQ[..., median] = 0.0
    return too_often_VHQ
