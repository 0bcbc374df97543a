"""Recurrent layers, and the weights that they start from."""

from __future__ import annotations

import torch
from torch import nn

from data.retrain import Cell
from lstm.kernels import GRU, LSTM, RNN

_CELLS: dict[Cell, type[LSTM] | type[GRU] | type[RNN]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}


def recurrent_layer(
    cell: Cell, inputs: int, hidden_size: int, bidirectional: bool = False
) -> LSTM | GRU | RNN:
    """One layer of a cell, initialised; batches come first."""
    layer = _CELLS[cell](inputs, hidden_size, batch_first=True, bidirectional=bidirectional)
    initialise(layer)
    return layer


def initialise(recurrent: nn.RNNBase) -> None:
    """Xavier input and orthogonal recurrent weights a gate, zero biases, but 1 for the forget gate.

    The forget bias is from Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent Network
    Architectures".
    """
    size = recurrent.hidden_size
    with torch.no_grad():
        for name, parameter in recurrent.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
                if isinstance(recurrent, nn.LSTM) and name.startswith("bias_ih"):
                    # torch orders the gates: input, forget, cell, output.
                    parameter[size : 2 * size] = 1.0
                continue
            for gate in torch.split(parameter, size):
                nn.init.orthogonal_(gate) if name.startswith("weight_hh") else nn.init.xavier_uniform_(gate)
