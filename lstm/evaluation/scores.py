"""The scores of one forecaster on one set of windows: what the gate compares and what the tables show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lstm.evaluation import metrics

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores on standardised targets: each series' target minus its location, over its scale.

    Attributes:
        mae: mean absolute error of the median.
        mse: mean squared error of the median.
        rmse: square root of `mse`.
        mase: MAE over the in-sample MAE of the seasonal naive; free of units.
        pinball: mean pinball loss over all levels.
        crps: continuous ranked probability score, from the quantiles.
        coverage: share of the targets between the outermost levels.
        width: mean width between the outermost levels.
        windows: how many windows were scored.
        finite: every forecast of every window, step and level is a finite number, and so are `mae`,
            `mse` and `pinball`. Scores that are not finite prove nothing.
        mae_by_step: the MAE of each horizon step; NaN where a step was never observed.
        coverage_by_step: the coverage of each horizon step; NaN likewise.
    """

    mae: float
    mse: float
    rmse: float
    mase: float
    pinball: float
    crps: float
    coverage: float
    width: float
    windows: int
    finite: bool
    mae_by_step: tuple[float, ...]
    coverage_by_step: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: numbers that are not finite become None."""
        return {
            name: [_number(step) for step in value] if isinstance(value, tuple) else _number(value)
            for name, value in asdict(self).items()
        }


def score(
    y_WH: Floats,
    forecast_WHQ: Floats,
    levels: Sequence[float],
    *,
    loc_W: Floats,
    scale_W: Floats,
    naive_scale_W: Floats,
) -> Scores:
    """Score quantile forecasts against what happened.

    Args:
        y_WH: targets in their own units; NaN where nothing was observed.
        forecast_WHQ: one forecast for each level, in the same units.
        levels: (Q,) rising quantile levels, among them 0.5, the point forecast.
        loc_W: the location of each window's series (`lstm.scaling`).
        scale_W: the scale of each window's series, above 0.
        naive_scale_W: see `metrics.mase`; in the targets' own units.

    Raises:
        ValueError: the shapes do not agree, or the levels do not hold 0.5.
    """
    expected = (*y_WH.shape, len(levels))
    if forecast_WHQ.shape != expected:
        raise ValueError(
            f"forecasts have shape {forecast_WHQ.shape}; the targets and levels ask for {expected}"
        )
    if 0.5 not in levels:
        raise ValueError(f"levels {tuple(levels)} do not hold 0.5, the point forecast")
    # In float64: a float32 forecast of a large target would lose its last digits in the difference.
    forecast_WHQ = forecast_WHQ.astype(np.float64)
    z_WH = (y_WH - loc_W[:, np.newaxis]) / scale_W[:, np.newaxis]
    z_WHQ = (forecast_WHQ - loc_W[:, np.newaxis, np.newaxis]) / scale_W[:, np.newaxis, np.newaxis]
    median = list(levels).index(0.5)
    low_WH, point_WH, high_WH = z_WHQ[..., 0], z_WHQ[..., median], z_WHQ[..., -1]
    mse = metrics.mse(z_WH, point_WH)
    mae = metrics.mae(z_WH, point_WH)
    pinball = metrics.pinball(z_WH, z_WHQ, levels)
    return Scores(
        mae=mae,
        mse=mse,
        rmse=metrics.rmse(z_WH, point_WH),
        mase=metrics.mase(y_WH, forecast_WHQ[..., median], naive_scale_W),
        pinball=pinball,
        crps=metrics.crps(z_WH, z_WHQ, levels),
        coverage=metrics.coverage(z_WH, low_WH, high_WH),
        width=metrics.width(z_WH, low_WH, high_WH),
        windows=len(y_WH),
        finite=bool(np.isfinite(forecast_WHQ).all()) and all(map(math.isfinite, (mae, mse, pinball))),
        mae_by_step=tuple(metrics.by_step(metrics.mae, z_WH, point_WH).tolist()),
        coverage_by_step=tuple(metrics.by_step(metrics.coverage, z_WH, low_WH, high_WH).tolist()),
    )


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
