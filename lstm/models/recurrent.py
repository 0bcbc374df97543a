"""LSTM, GRU and RNN over segments of a window: one class; segment length 1 is the plain network.

Axes: B batch, L lookback steps, G segments, D features a step, K hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.retrain import Cell
from lstm.kernels import GRU, LSTM, RNN
from lstm.models.dropout import Dropout

_CELLS: dict[Cell, type[LSTM] | type[GRU] | type[RNN]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}

# Of the dropout after each layer but the last: `lstm.models.heads` has the places below.
_FIRST_PLACE = 2


class SegmentRecurrent(nn.Module):
    """Reads a window as consecutive segments and returns the last hidden state.

    A segment's steps are flattened and projected to the hidden size, so the recurrence takes L / segment
    steps instead of L (SegRNN: Lin et al. 2023, arXiv:2308.11200). With segments of a season, the same
    input weight always meets the same phase. Segments of one step enter as they are.

    Each layer is a module of its own, with our dropout between two of them: torch's own, inside a module of
    several layers, draws from the stream of random numbers.
    """

    def __init__(
        self, cell: Cell, inputs: int, hidden_size: int, num_layers: int, dropout: float, segment_length: int
    ) -> None:
        super().__init__()
        self.segment_length = segment_length
        is_plain = segment_length == 1
        self.embed = None if is_plain else nn.Linear(segment_length * inputs, hidden_size)
        sizes = [inputs if is_plain else hidden_size] + [hidden_size] * (num_layers - 1)
        layers = [_CELLS[cell](size, hidden_size, batch_first=True) for size in sizes]
        for layer in layers:
            initialise(layer)
        self.layers = nn.ModuleList(layers)
        places = range(_FIRST_PLACE, _FIRST_PLACE + num_layers - 1)
        self.between = nn.ModuleList(Dropout(dropout, place) for place in places)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, K) the top layer's hidden state after the last segment. L is a multiple of the segment."""
        if self.embed is not None:
            batch, steps, features = x_BLD.shape
            segments = steps // self.segment_length
            x_BGD = x_BLD.reshape(batch, segments, self.segment_length * features)
            h_BGK = nn.functional.relu(self.embed(x_BGD))
        else:
            h_BGK = x_BLD
        *lower, top = self.layers
        for layer, drop in zip(lower, self.between, strict=True):
            h_BGK = drop(layer(h_BGK)[0])
        h_BK: Tensor = top.last(h_BGK)  # type: ignore[operator]
        return h_BK


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
