"""Heads: from what an encoder remembers to quantiles of every horizon step at once.

Axes: B batch, H horizon steps, M segments of the horizon, K hidden size, F calendar features, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from data.retrain import Cell
from lstm.kernels import head
from lstm.models.dropout import Dropout, Place
from lstm.models.layers import recurrent_layer


class CalendarHead(nn.Module):
    """Each horizon step sees the memory, its own place and its own calendar."""

    def __init__(
        self, hidden_size: int, horizon: int, calendar_features: int, dropout: float, outputs: int
    ) -> None:
        super().__init__()
        self.memory = nn.Linear(hidden_size, hidden_size)
        self.calendar = nn.Linear(calendar_features, hidden_size, bias=False)
        self.place_HK = nn.Parameter(torch.randn(horizon, hidden_size) / hidden_size**0.5)
        self.drop_memory = Dropout(dropout, Place.MEMORY)
        self.drop_units = Dropout(dropout, Place.UNITS)
        self.mix = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, outputs)

    def forward(self, h_BK: Tensor, future_BHF: Tensor) -> Tensor:
        """(B, H, Q) raw outputs."""
        h_BK = self.drop_memory(h_BK)
        if head.fits(h_BK, future_BHF, self.weights):
            mask = self.drop_units.mask() if self.drop_units.drops else None
            return head.calendar_head(h_BK, future_BHF, self.weights, mask)
        h_BHK = self.memory(h_BK)[:, None] + self.calendar(future_BHF) + self.place_HK
        h_BHK = self.drop_units(nn.functional.gelu(h_BHK))
        h_BHK = nn.functional.gelu(self.mix(h_BHK))
        out_BHQ: Tensor = self.out(h_BHK)
        return out_BHQ

    @property
    def weights(self) -> head.Weights:
        """Its parameters."""
        memory, mix, out = self.memory, self.mix, self.out
        return head.Weights(
            memory.weight, memory.bias, self.calendar.weight, self.place_HK, mix.weight, mix.bias,
            out.weight, out.bias,
        )  # fmt: skip


class SegmentHead(nn.Module):
    """Recurrent decoding of horizon segments in parallel: one step of a cell each, from the memory.

    Every segment starts from the same memory and reads its own place and calendar, so no forecast is fed
    back and none waits for another (SegRNN: Lin et al. 2023, arXiv:2308.11200).
    """

    def __init__(
        self,
        cell: Cell,
        hidden_size: int,
        horizon: int,
        segment_length: int,
        calendar_features: int,
        dropout: float,
        outputs: int,
    ) -> None:
        super().__init__()
        self.horizon = horizon
        self.segment_length = segment_length
        self.segments = -(-horizon // segment_length)
        self.outputs = outputs
        self.calendar = nn.Linear(segment_length * calendar_features, hidden_size, bias=False)
        self.place_MK = nn.Parameter(torch.randn(self.segments, hidden_size) / hidden_size**0.5)
        self.layer = recurrent_layer(cell, hidden_size, hidden_size)
        self.drop_units = Dropout(dropout, Place.UNITS)
        self.out = nn.Linear(hidden_size, segment_length * outputs)

    def forward(self, h_BK: Tensor, future_BHF: Tensor) -> Tensor:
        """(B, H, Q) raw outputs."""
        batch, size = h_BK.shape
        rest = self.segments * self.segment_length - self.horizon
        future_BHF = nn.functional.pad(future_BHF, (0, 0, 0, rest))
        future_BMF = future_BHF.reshape(batch, self.segments, -1)
        x_BMK = self.calendar(future_BMF) + self.place_MK
        state = h_BK[:, None].expand(batch, self.segments, size).reshape(1, -1, size)
        # The memory is all that an LSTM starts from: its cell state too.
        states = (state, state) if isinstance(self.layer, nn.LSTM) else state
        h_BMK = self.layer.last(x_BMK.reshape(-1, 1, size), states).reshape(batch, self.segments, size)
        out_BHQ: Tensor = self.out(self.drop_units(h_BMK)).reshape(batch, -1, self.outputs)
        return out_BHQ[:, : self.horizon]


class LinearHead(nn.Module):
    """A linear map from the memory to every horizon step; it reads no calendar."""

    def __init__(self, hidden_size: int, horizon: int, dropout: float, outputs: int) -> None:
        super().__init__()
        self.shape = horizon, outputs
        self.drop_memory = Dropout(dropout, Place.MEMORY)
        self.out = nn.Linear(hidden_size, horizon * outputs)

    def forward(self, h_BK: Tensor, future_BHF: Tensor) -> Tensor:
        """(B, H, Q) raw outputs."""
        out_BHQ: Tensor = self.out(self.drop_memory(h_BK)).reshape(len(h_BK), *self.shape)
        return out_BHQ


def rising(raw_BHQ: Tensor, median: int) -> Tensor:
    """Quantiles that cannot cross: the median, and softplus distances outwards from it.

    Args:
        raw_BHQ: one raw output a quantile; the one at `median` is the median itself.
        median: index of the .5 quantile.
    """
    middle_BH = raw_BHQ[..., median]
    gaps = nn.functional.softplus(raw_BHQ).unbind(-1)
    # One after the other: torch's cumulative sum is slow along so short an axis, on a GPU above all.
    below = [middle_BH - distance_BH for distance_BH in accumulate(gaps[:median][::-1])]
    above = [middle_BH + distance_BH for distance_BH in accumulate(gaps[median + 1 :])]
    return torch.stack([*below[::-1], middle_BH, *above], dim=-1)


def median_index(quantiles: Sequence[float]) -> int:
    """Where .5 stands among the quantile levels.

    Raises:
        ValueError: it does not.
    """
    return list(quantiles).index(0.5)
