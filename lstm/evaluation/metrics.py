"""Metrics over arrays in which a NaN target is a step that nobody observed.

Only targets mask: a forecast that is NaN where the target was observed makes the metric NaN, it is not
left out. So a broken forecast cannot look good. Without one observed target every metric is NaN. Errors are
scikit-learn's, which is imported when first asked for: it takes most of a second. Pinball losses are of all
levels at once, which scikit-learn's are not: a search asks for many.

Axes: W windows, H horizon steps, Q quantile levels. Every function also takes other shapes, as long as
target and forecast agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mae(y_WH: Floats, forecast_WH: Floats) -> float:
    """Mean absolute error over the observed targets."""
    from sklearn.metrics import mean_absolute_error

    return _observed(mean_absolute_error, y_WH, forecast_WH)


def mse(y_WH: Floats, forecast_WH: Floats) -> float:
    """Mean squared error over the observed targets."""
    from sklearn.metrics import mean_squared_error

    return _observed(mean_squared_error, y_WH, forecast_WH)


def rmse(y_WH: Floats, forecast_WH: Floats) -> float:
    """Square root of the mean squared error over the observed targets."""
    from sklearn.metrics import root_mean_squared_error

    return _observed(root_mean_squared_error, y_WH, forecast_WH)


def mase(y_WH: Floats, forecast_WH: Floats, naive_scale_W: Floats) -> float:
    """Mean absolute scaled error (Hyndman and Koehler, 2006, Another look at measures of forecast accuracy).

    Args:
        y_WH: targets.
        forecast_WH: point forecasts.
        naive_scale_W: the in-sample MAE of the seasonal naive for each window's series, in the targets'
            units (`baselines.naive_scale`). Windows whose scale is 0 or unknown say nothing and are left out.
    """
    usable_W = naive_scale_W > 0
    scale_W1 = naive_scale_W[usable_W, np.newaxis]
    return mae(y_WH[usable_W] / scale_W1, forecast_WH[usable_W] / scale_W1)


def pinball(y_WH: Floats, forecast_WHQ: Floats, levels: Sequence[float]) -> float:
    """Mean pinball loss over the observed targets and all levels (Koenker and Bassett, 1978).

    Twice it is the absolute error for a single level of 0.5.

    Args:
        y_WH: targets.
        forecast_WHQ: one forecast for each level.
        levels: (Q,) the quantile levels.
    """
    return float(np.mean(_pinball_by_level(y_WH, forecast_WHQ, levels)))


def crps(y_WH: Floats, forecast_WHQ: Floats, levels: Sequence[float]) -> float:
    """Continuous ranked probability score, from quantiles: twice the integral of the pinball loss over all
    levels (Gneiting and Ranjan, 2011, Comparing density forecasts using threshold- and quantile-weighted
    scoring rules).

    Each level stands for the levels that are nearer to it than to any other, down to 0 and up to 1. In the
    target's units: a forecast without spread has its absolute error, where the levels are symmetric.

    Args:
        y_WH: targets.
        forecast_WHQ: one forecast for each level.
        levels: (Q,) rising quantile levels.
    """
    return float(2 * _shares(levels) @ _pinball_by_level(y_WH, forecast_WHQ, levels))


def expectation(forecast_WHQ: Floats, levels: Sequence[float]) -> Floats:
    """(W, H) the mean of what quantiles say may come, which squared errors ask for: the integral of the
    quantiles over all levels, each standing for those that are nearer to it than to any other.

    Args:
        forecast_WHQ: one forecast for each level.
        levels: (Q,) rising quantile levels.
    """
    mean_WH: Floats = forecast_WHQ @ _shares(levels)
    return mean_WH


def coverage(y_WH: Floats, low_WH: Floats, high_WH: Floats) -> float:
    """Share of the observed targets that lie within [low, high], both included."""
    inside_WH = ((low_WH <= y_WH) & (y_WH <= high_WH)).astype(np.float64)
    inside_WH[np.isnan(low_WH) | np.isnan(high_WH)] = np.nan
    return _mean(inside_WH, y_WH)


def width(y_WH: Floats, low_WH: Floats, high_WH: Floats) -> float:
    """Mean width of [low, high] over the observed targets: of two that cover as often, the narrower is
    the better one."""
    return _mean(high_WH - low_WH, y_WH)


def by_step(metric: Callable[..., float], y_WH: Floats, *forecasts_WH: Floats) -> Floats:
    """(H,) a metric of each horizon step; NaN where a step was never observed.

    Args:
        metric: of this module: takes targets and forecasts.
        y_WH: targets.
        forecasts_WH: what the metric takes after the targets.
    """
    steps = zip(y_WH.T, *(forecast_WH.T for forecast_WH in forecasts_WH), strict=True)
    return np.array([metric(*step) for step in steps])


def _shares(levels: Sequence[float]) -> Floats:
    """(Q,) the share of all levels, from 0 to 1, that each level stands for."""
    levels_Q = np.asarray(levels)
    shares_Q: Floats = np.diff(np.concatenate([[0.0], (levels_Q[1:] + levels_Q[:-1]) / 2, [1.0]]))
    return shares_Q


def _pinball_by_level(y_WH: Floats, forecast_WHQ: Floats, levels: Sequence[float]) -> Floats:
    """(Q,) the mean pinball loss of each level over the observed targets."""
    observed = ~np.isnan(y_WH)
    levels_Q = np.asarray(levels)
    if not observed.any():
        return np.full(len(levels_Q), np.nan)
    forecast_NQ = forecast_WHQ[observed]
    error_NQ = y_WH[observed][:, np.newaxis] - forecast_NQ
    loss_Q: Floats = np.maximum(levels_Q * error_NQ, (levels_Q - 1) * error_NQ).mean(axis=0)
    return np.where(np.isfinite(forecast_NQ).all(axis=0), loss_Q, np.nan)


def _observed(metric: Callable[..., float], y: Floats, forecast: Floats) -> float:
    """A metric of scikit-learn, which takes no NaN, over the places where the target was observed.

    NaN if there is none, or where a forecast there is not a finite number.
    """
    observed = ~np.isnan(y)
    if not observed.any() or not np.isfinite(forecast[observed]).all():
        return float("nan")
    return float(metric(y[observed], forecast[observed]))


def _mean(values: Floats, y: Floats) -> float:
    """Mean over the places where the target was observed; NaN if there is none."""
    observed = ~np.isnan(y)
    return float(values[observed].mean()) if observed.any() else float("nan")
