"""Metrics over arrays in which a NaN target is a step that nobody observed.

Only targets mask: a forecast that is NaN where the target was observed makes the metric NaN, it is not
left out. So a broken forecast cannot look good. Without one observed target every metric is NaN.

Axes: W windows, H horizon steps, Q quantile levels. Every function also takes other shapes, as long as
target and forecast agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mae(y_WH: Floats, forecast_WH: Floats) -> float:
    """Mean absolute error over the observed targets."""
    return _mean(np.abs(forecast_WH - y_WH), y_WH)


def mse(y_WH: Floats, forecast_WH: Floats) -> float:
    """Mean squared error over the observed targets."""
    return _mean((forecast_WH - y_WH) ** 2, y_WH)


def rmse(y_WH: Floats, forecast_WH: Floats) -> float:
    """Square root of the mean squared error over the observed targets."""
    return float(np.sqrt(mse(y_WH, forecast_WH)))


def mase(y_WH: Floats, forecast_WH: Floats, naive_scale_W: Floats) -> float:
    """Mean absolute scaled error (Hyndman and Koehler, 2006, Another look at measures of forecast accuracy).

    Args:
        y_WH: targets.
        forecast_WH: point forecasts.
        naive_scale_W: the in-sample MAE of the seasonal naive for each window's series, in the targets'
            units (`baselines.naive_scale`). Windows whose scale is 0 or unknown say nothing and are left out.
    """
    usable_W = naive_scale_W > 0
    errors_WH = np.abs(forecast_WH - y_WH)[usable_W] / naive_scale_W[usable_W, np.newaxis]
    return _mean(errors_WH, y_WH[usable_W])


def pinball(y_WH: Floats, forecast_WHQ: Floats, levels: Sequence[float]) -> float:
    """Mean pinball loss over the observed targets and all levels (Koenker and Bassett, 1978).

    Half of it is the absolute error for a single level of 0.5.

    Args:
        y_WH: targets.
        forecast_WHQ: one forecast for each level.
        levels: (Q,) the quantile levels.
    """
    error_WHQ = y_WH[..., np.newaxis] - forecast_WHQ
    levels_Q = np.asarray(levels)
    loss_WHQ = np.maximum(levels_Q * error_WHQ, (levels_Q - 1) * error_WHQ)
    return _mean(loss_WHQ.mean(axis=-1), y_WH)


def coverage(y_WH: Floats, low_WH: Floats, high_WH: Floats) -> float:
    """Share of the observed targets that lie within [low, high], both included."""
    inside_WH = ((low_WH <= y_WH) & (y_WH <= high_WH)).astype(np.float64)
    inside_WH[np.isnan(low_WH) | np.isnan(high_WH)] = np.nan
    return _mean(inside_WH, y_WH)


def error_by_step(y_WH: Floats, forecast_WH: Floats) -> Floats:
    """(H,) mean absolute error of each horizon step; NaN where a step was never observed."""
    return np.array([mae(y_W, forecast_W) for y_W, forecast_W in zip(y_WH.T, forecast_WH.T, strict=True)])


def _mean(values: Floats, y: Floats) -> float:
    """Mean over the places where the target was observed; NaN if there is none."""
    observed = ~np.isnan(y)
    return float(values[observed].mean()) if observed.any() else float("nan")
