"""What a trial leaves of the validation windows: losses on groups of them, and how to stretch its quantiles.

Its weights have not learned from these windows, and are at hand where it ran alone.

Axes: W windows, H horizon steps, Q quantile levels, G groups of windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lstm.evaluation.conformal import Calibration, calibrate, spread
from lstm.evaluation.significance import group_means
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel
from lstm.training.predict import predict
from lstm.windows import Windows

# More windows hardly move an order statistic, but cost memory: that of as many numbers as they forecast.
_MOST_WINDOWS = 20_000
_MOST_NUMBERS = 10_000_000
_ENOUGH_WINDOWS = 1_000


@dataclass(frozen=True)
class Validation:
    """How a configuration's forecasts did on windows that its weights have not learned from.

    Attributes:
        loss_G: (G,) mean pinball losses on groups of neighbouring windows.
        calibration: how to stretch the quantiles, by the errors.
    """

    loss_G: tuple[float, ...]
    calibration: Calibration


def validate(
    panel: ScaledPanel, windows: Windows, config: ForecasterConfig, state: Mapping[str, Tensor]
) -> Validation:
    """Forecast some windows, and see.

    On the CPU: where other trials train on a device, it has no memory to spare.

    Args:
        panel: in the units that the weights were trained in.
        windows: each with an observed target; of very many, a fixed draw.
        config: the network, whose horizon and quantiles the calibration has.
        state: its weights.

    Raises:
        RuntimeError: the state is not of this configuration.
        ValueError: there is no window.
    """
    numbers = config.horizon * len(config.quantiles)
    chosen = windows.at_most(min(_MOST_WINDOWS, max(_MOST_NUMBERS // numbers, _ENOUGH_WINDOWS)))
    rows_WH = chosen.origins[:, np.newaxis] + 1 + np.arange(config.horizon)
    y_WH = np.where(panel.observed[rows_WH, 0], panel.values[rows_WH, 0].astype(np.float64), np.nan)
    forecast_WHQ = predict(config, state, panel, chosen, torch.device("cpu"))
    levels_Q = np.array(config.quantiles)
    error_WHQ = y_WH[..., np.newaxis] - forecast_WHQ
    loss_W = np.nanmean(np.maximum(levels_Q * error_WHQ, (levels_Q - 1) * error_WHQ), axis=(1, 2))
    return Validation(
        tuple(group_means(loss_W, chosen.steps, config.horizon).tolist()),
        calibrate(
            y_WH, forecast_WHQ, spread(panel.values[:, 0], chosen.origins, config.lookback), config.quantiles
        ),
    )
