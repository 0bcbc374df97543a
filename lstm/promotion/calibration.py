"""From weights that have not seen the validation windows to the calibration of a version's quantiles."""

from __future__ import annotations

import torch

from data.panel import Panel
from data.splits import Span
from lstm.evaluation.conformal import Calibration, calibrate, spread
from lstm.models.forecaster import ForecasterConfig
from lstm.training.predict import predict
from lstm.training.refit import Trained
from lstm.windows import targets, windows

# More windows than this do not move an order statistic, but cost memory.
_MOST_WINDOWS = 20_000


def calibrate_on(
    panel: Panel, span: Span, config: ForecasterConfig, trained: Trained, device: torch.device
) -> Calibration:
    """How to stretch the quantiles of a configuration's forecasts, from the windows of a span.

    Args:
        span: target steps; nothing after it is seen, and the training has seen nothing of it.
        config: the network, whose horizon and quantiles the calibration has.
        trained: its weights.
    """
    chosen = windows(panel, span, config.lookback, config.horizon).at_most(_MOST_WINDOWS)
    scaled = trained.scaler.scale(panel, config.horizon)
    return calibrate(
        trained.scaler.scale_target(targets(panel, chosen, config.horizon), chosen.series),
        predict(config, trained.state, scaled, chosen, device),
        spread(scaled.values[:, 0], chosen.origins, config.lookback),
        config.quantiles,
    )
