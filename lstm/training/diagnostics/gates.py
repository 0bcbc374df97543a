"""Gates and cell state of a forecaster's recurrent encoder over one window.

Axes: T recurrent steps, U units (the hidden size).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm import kernels
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel
from lstm.training.batches import Batches
from lstm.training.predict import network
from lstm.windows import Windows

# Keeps the logarithm of a closed gate finite.
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Gates:
    """What the top recurrent layer did over one window.

    Args:
        cell: ``lstm``, ``gru`` or ``rnn``.
        layers: recurrent layers of the encoder, of which this is the last.
        segment: lookback steps that each recurrent step reads.
        parts_TU: by name: gates in [0, 1] (``input_gate``, ``forget_gate``, ``output_gate`` of an LSTM,
            ``reset_gate``, ``update_gate`` of a GRU, none of an RNN), ``candidate``, ``cell_state`` (of an
            LSTM) and ``hidden_state``.
    """

    cell: str
    layers: int
    segment: int
    parts_TU: Mapping[str, NDArray[np.float32]]

    @property
    def gates(self) -> dict[str, NDArray[np.float32]]:
        """The gates alone, (T, U) each."""
        return {name: part for name, part in self.parts_TU.items() if name.endswith("_gate")}

    @property
    def state_name(self) -> str:
        """What the layer remembers in: the cell state, or the hidden state where that is all there is."""
        return "cell_state" if "cell_state" in self.parts_TU else "hidden_state"

    @property
    def kept(self) -> NDArray[np.float64] | None:
        """(U,) the share of its state that each unit keeps from one step to the next, a mean over the window:
        the forget gate of an LSTM, the update gate of a GRU; None where the cell has neither."""
        for name in ("forget_gate", "update_gate"):
            if name in self.parts_TU:
                # The geometric mean: over T steps the product of the gate's T values is kept.
                logs_TU = np.log(np.maximum(self.parts_TU[name].astype(np.float64), _LEAST))
                kept: NDArray[np.float64] = np.exp(logs_TU.mean(axis=0))
                return kept
        return None


def trace_gates(
    config: ForecasterConfig, state: Mapping[str, Tensor], panel: ScaledPanel, window: Windows
) -> Gates | None:
    """The gates over one window; None where the encoder has no recurrent layer, as a transformer's.

    With two directions the forward one is shown.

    Raises:
        ValueError: not exactly one window.
    """
    if len(window) != 1:
        raise ValueError(f"{len(window)} windows, not one")
    model = network(config, state)
    batches = Batches(panel, window, config.lookback, config.horizon, torch.device("cpu"))
    with torch.inference_mode(), kernels.tracing() as traces:
        for chosen_B in batches.in_order(1):
            model(*batches.inputs(chosen_B))
    encoder = set(model.encoder.modules())
    seen = [trace for trace in traces if trace.module in encoder and not trace.is_reverse]
    if not seen:
        return None
    parts_TU = {name: part[0].numpy() for name, part in seen[-1].parts.items()}
    steps = len(parts_TU["hidden_state"])
    return Gates(config.cell, len(seen), config.lookback // steps, parts_TU)
