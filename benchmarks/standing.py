"""How forecasts stand on a case's test windows: errors on standardised values, in bounded memory.

Axes: W windows, H horizon steps, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.protocol import Case, every_window
from data.panel import Floats, Panel
from data.splits import Span
from lstm.evaluation import metrics
from lstm.evaluation.baselines import fit_linear, seasonal_naive
from lstm.scaling import Scaler
from lstm.windows import Windows, targets, windows

Forecast = Callable[[Windows], NDArray[np.floating]]
"""From windows to (W, H, Q) standardised quantiles."""

# Numbers of one piece's forecasts: 80 MB in float64.
_MOST_NUMBERS = 10_000_000


def errors(case: Case, horizon: int, levels: Sequence[float], forecast: Forecast) -> dict[str, float]:
    """A forecaster's errors on all test windows: `mse` of its expectation, `mae` and `mse_of_median` of its
    median, and `pinball`, the mean over levels.

    Means over windows, steps and series of what was observed, of values standardised by the train rows.
    """
    totals = dict.fromkeys(("mse", "mae", "mse_of_median", "pinball"), 0.0)
    count, median, scaler = 0, list(levels).index(0.5), case.scaler
    chosen = every_window(case.panel, case.splits.judge, horizon)
    for piece in pieces(chosen, horizon * len(levels)):
        y_WH = scaler.scale_target(targets(case.panel, piece, horizon), piece.series)
        z_WHQ = forecast(piece).astype(np.float64)
        observed = int(np.count_nonzero(~np.isnan(y_WH)))
        totals["mse"] += observed * metrics.mse(y_WH, metrics.expectation(z_WHQ, levels))
        totals["mae"] += observed * metrics.mae(y_WH, z_WHQ[..., median])
        totals["mse_of_median"] += observed * metrics.mse(y_WH, z_WHQ[..., median])
        totals["pinball"] += observed * metrics.pinball(y_WH, z_WHQ, levels)
        count += observed
    return {name: total / count for name, total in totals.items()}


def pieces(chosen: Windows, numbers: int) -> Iterator[Windows]:
    """The windows in order, as many at a time as memory allows.

    Args:
        numbers: a forecast has.
    """
    size = max(1, _MOST_NUMBERS // numbers)
    for first in range(0, len(chosen), size):
        yield chosen.select(np.arange(first, min(first + size, len(chosen))))


def naive(case: Case, horizon: int) -> dict[str, float]:
    """Errors of the seasonal naive."""
    scaler = case.scaler

    def forecast(piece: Windows) -> Floats:
        y_WH = seasonal_naive(case.panel, piece, horizon, case.season)
        z_WH: Floats = scaler.scale_target(y_WH, piece.series)
        return z_WH[..., np.newaxis]

    return errors(case, horizon, (0.5,), forecast)


def ridge(case: Case, horizon: int, lookback: int, levels: Sequence[float]) -> dict[str, dict[str, float]]:
    """Errors of ridge regression fitted on the train span, as it is and with quantiles of its residuals.

    The quantiles are those of its errors on the validation span at the same phase of the season, an hour of
    the day in hourly data; the corrected forecast is their median, which the error's skew moves.
    """
    linear = fit_linear(
        case.seen, windows(case.seen, case.splits.train, lookback, horizon), lookback, horizon
    )
    scaler, season = case.scaler, case.season

    def point(panel: Panel, piece: Windows) -> Floats:
        z_WH: Floats = scaler.scale_target(linear.forecast(panel, piece), piece.series)
        return z_WH

    residuals_PQ = _residuals(case, case.splits.validation, horizon, levels, point, scaler)

    def spread(piece: Windows) -> Floats:
        phase_WH = (piece.steps[:, np.newaxis] + 1 + np.arange(horizon)) % season
        z_WHQ: Floats = point(case.panel, piece)[..., np.newaxis] + residuals_PQ[phase_WH]
        return z_WHQ

    plain = errors(case, horizon, (0.5,), lambda piece: point(case.panel, piece)[..., np.newaxis])
    return {"ridge": plain, "ridge, residual quantiles": errors(case, horizon, levels, spread)}


def _residuals(
    case: Case,
    span: Span,
    horizon: int,
    levels: Sequence[float],
    point: Callable[[Panel, Windows], Floats],
    scaler: Scaler,
) -> Floats:
    """(season, Q) quantiles of the errors in a span at each phase of the season."""
    phases, found = [], []
    for piece in pieces(every_window(case.seen, span, horizon), horizon):
        y_WH = scaler.scale_target(targets(case.seen, piece, horizon), piece.series)
        phase_WH = (piece.steps[:, np.newaxis] + 1 + np.arange(horizon)) % case.season
        phases.append(phase_WH.reshape(-1))
        found.append((y_WH - point(case.seen, piece)).reshape(-1))
    phase_N, error_N = np.concatenate(phases), np.concatenate(found)
    each = [error_N[(phase_N == phase) & ~np.isnan(error_N)] for phase in range(case.season)]
    return np.stack([np.quantile(part if len(part) else np.zeros(1), levels) for part in each])
