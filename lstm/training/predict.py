"""Forecasts of trained weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm.models.forecaster import Forecaster, ForecasterConfig, build
from lstm.scaling import ScaledPanel
from lstm.training.batches import Batches
from lstm.training.initial import seeded
from lstm.windows import Windows


def predict(
    config: ForecasterConfig,
    state: Mapping[str, Tensor],
    panel: ScaledPanel,
    windows: Windows,
    device: torch.device,
    batch_size: int = 1024,
) -> NDArray[np.float32]:
    """(W, H, Q) quantiles in standardised units, always in full precision.

    Raises:
        RuntimeError: the state is not of this configuration.
    """
    model = network(config, state).to(device)
    batches = Batches(panel, windows, config.lookback, config.horizon, device)
    parts = [np.empty((0, config.horizon, len(config.quantiles)), dtype=np.float32)]
    with torch.inference_mode():
        for chosen_B in batches.in_order(batch_size):
            y_BHQ: Tensor = model(*batches.inputs(chosen_B))
            parts.append(y_BHQ.float().cpu().numpy())
    return np.concatenate(parts)


def network(config: ForecasterConfig, state: Mapping[str, Tensor]) -> Forecaster:
    """The trained network, on the CPU, ready to forecast. Torch's stream of random numbers stays as it was.

    Raises:
        RuntimeError: the state is not of this configuration.
    """
    with seeded(0):
        model = build(config)
    model.load_state_dict(dict(state))
    return model.eval()
