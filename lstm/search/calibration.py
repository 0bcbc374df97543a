"""How a trial stretches its quantiles: by its errors on validation windows, which it has not learned from.

Axes: W windows, H horizon steps, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from data.panel import Floats
from lstm.evaluation.conformal import Calibration, calibrate, spread
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel
from lstm.training.predict import predict
from lstm.windows import Windows

# More windows hardly move an order statistic, but cost memory: that of as many numbers as they forecast.
_MOST_WINDOWS = 20_000
_MOST_NUMBERS = 10_000_000
_ENOUGH_WINDOWS = 1_000


def calibrate_on(
    panel: ScaledPanel, windows: Windows, config: ForecasterConfig, state: Mapping[str, Tensor]
) -> Calibration:
    """How to stretch the quantiles of a configuration's forecasts, by its errors on some windows.

    On the CPU: where other trials train on a device, it has no memory to spare.

    Args:
        panel: in the units that the weights were trained in.
        windows: whose targets the weights have not learned from; of very many, a fixed draw.
        config: the network, whose horizon and quantiles the calibration has.
        state: its weights.

    Raises:
        RuntimeError: the state is not of this configuration.
    """
    chosen = affordable(windows, config)
    return calibrate(
        observed_targets(panel, chosen, config.horizon),
        predict(config, state, panel, chosen, torch.device("cpu")),
        spread(panel.values[:, 0], chosen.origins, config.lookback),
        config.quantiles,
    )


def affordable(windows: Windows, config: ForecasterConfig) -> Windows:
    """All of some windows, or of very many a fixed draw, so that their forecasts fit into memory."""
    numbers = config.horizon * len(config.quantiles)
    return windows.at_most(min(_MOST_WINDOWS, max(_MOST_NUMBERS // numbers, _ENOUGH_WINDOWS)))


def observed_targets(panel: ScaledPanel, windows: Windows, horizon: int) -> Floats:
    """(W, H) the windows' targets, standardised; NaN where unobserved."""
    rows_WH = windows.origins[:, np.newaxis] + 1 + np.arange(horizon)
    return np.where(panel.observed[rows_WH, 0], panel.values[rows_WH, 0].astype(np.float64), np.nan)
