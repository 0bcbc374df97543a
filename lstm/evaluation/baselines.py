"""What a forecaster has to beat: the seasonal naive, and a linear model over the window.

Axes: W windows, H horizon steps, Q quantile levels, L lookback steps, N rows, S series. Forecasts are in
the target's own units, float64, and see nothing after their window's origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.panel import Floats, Integers, Panel
from lstm.scaling import Scaler
from lstm.windows import Windows, targets

# More training windows than this do not move a few hundred coefficients, but cost time; and of so many inputs
# at once they cost memory.
_MOST_WINDOWS = 200_000
_MOST_INPUTS = 10_000_000

_PENALTY = 1.0


def seasonal_naive(panel: Panel, windows: Windows, horizon: int, season: int) -> Floats:
    """(W, H) the newest observed target of the same phase of the season, at or before the origin.

    A phase that was never observed takes the newest observed target of any phase; a series that was never
    observed before the origin gives NaN.

    Args:
        season: grid steps in a season.
    """
    phase_N, newest_N = _newest_observed(panel, season), _newest_observed(panel, 1)
    ahead_H = np.arange(1, horizon + 1)
    back_H = ahead_H - season * -(-ahead_H // season)
    rows_WH = windows.origins[:, np.newaxis] + back_H
    inside_WH = rows_WH >= panel.offsets[windows.series][:, np.newaxis]
    sources_WH = np.where(inside_WH, phase_N[np.maximum(rows_WH, 0)], -1)
    sources_WH = np.where(sources_WH < 0, newest_N[windows.origins][:, np.newaxis], sources_WH)
    return np.where(sources_WH < 0, np.nan, panel.values[sources_WH, 0])


def naive_scale(panel: Panel, season: int, last_step: int) -> Floats:
    """(S,) in-sample MAE of the seasonal naive, the denominator of MASE, in the target's own units.

    Args:
        season: grid steps in a season.
        last_step: the last grid step that may be seen. NaN for a series without a pair of observed
            targets one season apart by then.
    """
    scales = np.full(len(panel.series), np.nan)
    for number, offset in enumerate(panel.offsets[:-1]):
        rows = max(last_step + 1 - int(panel.first_steps[number]), 0)
        values = panel.values[offset : min(offset + rows, panel.offsets[number + 1]), 0]
        changes = np.abs(values[season:] - values[:-season])
        changes = changes[~np.isnan(changes)]
        if len(changes):
            scales[number] = changes.mean()
    return scales


@dataclass(frozen=True)
class Linear:
    """Ridge regression from the target's last steps to its next ones, one for all series.

    Args:
        scaler: standardises each series.
        weights_LH: from inputs to outputs, both in standardised units.
        intercept_H: added to the outputs.
    """

    scaler: Scaler
    weights_LH: Floats
    intercept_H: Floats

    def forecast(self, panel: Panel, windows: Windows) -> Floats:
        """(W, H) forecasts in the target's own units.

        Raises:
            DataRefused: the panel has other columns, or a series that was not fitted.
        """
        scaler = self.scaler.select(panel)
        inputs_WL = _inputs(_filled_target(scaler, panel), windows.origins, len(self.weights_LH))
        return scaler.unscale(inputs_WL @ self.weights_LH + self.intercept_H, windows.series)


def fit_linear(panel: Panel, train: Windows, lookback: int, horizon: int) -> Linear:
    """Fit on training windows: standardised a series, missing values filled from the past.

    A window counts by the share of its targets that were observed.

    Args:
        train: windows with at least `lookback` steps; of a very long list, some drawn by chance.

    Raises:
        ValueError: there is no window to learn from.
    """
    if not len(train):
        raise ValueError("no training window: the linear baseline has nothing to learn from")
    scaler = Scaler.fit(panel, train.last_step + horizon)
    chosen, z_N = train.at_most(_MOST_WINDOWS), _filled_target(scaler, panel)
    size = max(1, _MOST_INPUTS // lookback)

    def piece(first: int) -> tuple[Floats, Floats, Floats]:
        some = chosen.select(np.arange(first, min(first + size, len(chosen))))
        observed_WH = ~np.isnan(targets(panel, some, horizon))
        outputs_WH = z_N[some.origins[:, np.newaxis] + 1 + np.arange(horizon)]
        return _inputs(z_N, some.origins, lookback), outputs_WH, observed_WH.mean(axis=1)

    return Linear(scaler, *ridge(piece(first) for first in range(0, len(chosen), size)))


def ridge(pieces: Iterable[tuple[Floats, Floats, Floats]]) -> tuple[Floats, Floats]:
    """(L, H) weights and (H,) intercept with the least weighted squared error plus sum of squared weights.

    The normal equations of ridge regression with an intercept that is not penalised (Hastie, Tibshirani and
    Friedman, The Elements of Statistical Learning, 2nd edition, equation 3.44), summed piece by piece.

    Args:
        pieces: of the windows, at least one: (W, L) inputs, (W, H) outputs, and (W,) how much each counts, at
            least 0.
    """
    moments_LL, moments_LH = np.zeros((1, 1)), np.zeros((1, 1))
    for inputs_WL, outputs_WH, weight_W in pieces:
        # A column of ones first: its products are the sums.
        one_WL = np.concatenate([np.ones((len(inputs_WL), 1)), inputs_WL], axis=1)
        weighted_LW = one_WL.T * weight_W
        moments_LL = moments_LL + weighted_LW @ one_WL
        moments_LH = moments_LH + weighted_LW @ outputs_WH
    total = moments_LL[0, 0]
    mean_L, mean_H = moments_LL[0, 1:] / total, moments_LH[0] / total
    centred_LL = moments_LL[1:, 1:] - total * np.outer(mean_L, mean_L)
    centred_LH = moments_LH[1:] - total * np.outer(mean_L, mean_H)
    weights_LH = np.linalg.solve(centred_LL + _PENALTY * np.eye(len(mean_L)), centred_LH)
    return weights_LH, mean_H - mean_L @ weights_LH


def residual_quantiles(y_WH: Floats, forecast_WH: Floats, levels: Sequence[float]) -> Floats:
    """(H, Q) by how much each quantile lies above a point forecast, from its errors on past windows.

    Centred, so that the point forecast itself stays the median. 0 for a step without an observed error.

    Args:
        y_WH: targets; NaN where unobserved. Standardise both, where series of several sizes meet.
        forecast_WH: point forecasts.
        levels: (Q,) rising quantile levels.
    """
    quantiles_HQ = np.zeros((y_WH.shape[1], len(levels)))
    for step, residuals in enumerate((y_WH - forecast_WH).T):
        seen = residuals[~np.isnan(residuals)]
        if len(seen):
            quantiles_HQ[step] = np.quantile(seen, levels) - np.median(seen)
    return quantiles_HQ


def with_quantiles(forecast_WH: Floats, residuals_HQ: Floats, scale_W: Floats | float = 1.0) -> Floats:
    """(W, H, Q) point forecasts with `residual_quantiles` around them.

    Args:
        scale_W: what one unit of the residuals means for each window: the scale of its series where
            they were standardised.
    """
    scale = np.broadcast_to(scale_W, len(forecast_WH))
    return forecast_WH[..., np.newaxis] + scale[:, np.newaxis, np.newaxis] * residuals_HQ


def _newest_observed(panel: Panel, season: int) -> Integers:
    """(N,) the newest row at or before each row, whole seasons back, with an observed target; -1 for none."""
    newest_N = np.full(len(panel.values), -1, dtype=np.int64)
    for first, end in zip(panel.offsets[:-1], panel.offsets[1:], strict=True):
        rows = np.arange(first, end)
        seen = np.where(np.isnan(panel.values[first:end, 0]), -1, rows)
        whole = np.pad(seen, (0, -len(seen) % season), constant_values=-1).reshape(-1, season)
        newest_N[first:end] = np.maximum.accumulate(whole, axis=0).reshape(-1)[: len(seen)]
    return newest_N


def _filled_target(scaler: Scaler, panel: Panel) -> Floats:
    """(N,) the standardised target, missing values filled from the past."""
    return scaler.scale(panel, 0).values[:, 0].astype(np.float64)


def _inputs(z_N: Floats, origins: Integers, lookback: int) -> NDArray[np.float64]:
    """(W, L) the last steps of each window."""
    inputs: Floats = z_N[origins[:, np.newaxis] + np.arange(1 - lookback, 1)]
    return inputs
