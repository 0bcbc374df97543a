"""LSTM, GRU and RNN over segments of a window: one class; segment length 1 is the plain network.

Axes: B batch, L lookback steps, G segments, D features a step, N directions, K hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.retrain import Cell, Pooling
from lstm.models.dropout import Dropout, Place
from lstm.models.layers import recurrent_layer
from lstm.models.segments import AttentionPooling, SegmentEmbedding


class RecurrentEncoder(nn.Module):
    """Reads a window segment by segment and returns what it remembers after the newest one.

    Each layer is a module of its own, with our dropout between two of them: torch's own, inside a module of
    several layers, draws from the stream of random numbers.

    Args:
        inputs: D. Segments of one step enter as they are.
        bidirectional: reads the window backwards too. Both directions' last states, of which one has just
            read the newest segment and the other the oldest, become one memory.
        pooling: ``last``, the newest state; ``attention``, see `AttentionPooling`.
    """

    def __init__(
        self,
        cell: Cell,
        inputs: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        segment_length: int,
        bidirectional: bool = False,
        pooling: Pooling = "last",
    ) -> None:
        super().__init__()
        is_plain = segment_length == 1
        self.embed = None if is_plain else SegmentEmbedding(inputs, hidden_size, segment_length)
        width = (2 if bidirectional else 1) * hidden_size
        sizes = [inputs if is_plain else hidden_size] + [width] * (num_layers - 1)
        self.layers = nn.ModuleList(recurrent_layer(cell, size, hidden_size, bidirectional) for size in sizes)
        places = range(Place.LAYERS, Place.LAYERS + num_layers - 1)
        self.between = nn.ModuleList(Dropout(dropout, place) for place in places)
        self.join = nn.Linear(width, hidden_size) if bidirectional else None
        self.pool = AttentionPooling(hidden_size) if pooling == "attention" else None

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, K) the memory. L is a multiple of the segment's length."""
        h_BGK = self._below_top(self.segments(x_BLD))
        top = self.layers[-1]
        if self.join is None and self.pool is None:
            h_BK: Tensor = top.last(h_BGK)  # type: ignore[operator]
            return h_BK
        h_BGK, state = top(h_BGK)
        h_NBK = state[0] if isinstance(state, tuple) else state
        h_BK = torch.cat(h_NBK.unbind(), dim=-1)
        if self.join is not None:
            h_BK, h_BGK = self.join(h_BK), self.join(h_BGK)
        return h_BK if self.pool is None else self.pool(h_BK, h_BGK)

    def segments(self, x_BLD: Tensor) -> Tensor:
        """(B, G, K) what enters the recurrence."""
        return x_BLD if self.embed is None else nn.functional.relu(self.embed(x_BLD))

    def states(self, h_BGK: Tensor) -> Tensor:
        """(B, G, K) the top layer's states, of what entered the recurrence."""
        h_BGK = self.layers[-1](self._below_top(h_BGK))[0]
        return h_BGK if self.join is None else self.join(h_BGK)

    def _below_top(self, h_BGK: Tensor) -> Tensor:
        """What the top layer reads."""
        for layer, drop in zip(self.layers, self.between, strict=False):
            # Units of a direction at a time: a mask counts them from the first.
            h_BGNK = layer(h_BGK)[0].unflatten(-1, (-1, layer.hidden_size))
            h_BGK = drop(h_BGNK).flatten(-2)
        return h_BGK
