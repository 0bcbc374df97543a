"""Heads: from what a network remembers to quantiles of every horizon step at once.

Axes: B batch, H horizon steps, K hidden size, F calendar features, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lstm.models.dropout import Dropout


class HorizonHead(nn.Module):
    """Direct multi-step head: each horizon step sees the hidden state, its own place and its calendar."""

    def __init__(
        self, hidden_size: int, horizon: int, calendar_features: int, dropout: float, outputs: int
    ) -> None:
        super().__init__()
        self.memory = nn.Linear(hidden_size, hidden_size)
        self.calendar = nn.Linear(calendar_features, hidden_size, bias=False)
        self.place_HK = nn.Parameter(torch.randn(horizon, hidden_size) / hidden_size**0.5)
        self.drop_memory = Dropout(dropout, 0)
        self.drop_units = Dropout(dropout, 1)
        self.mix = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, outputs)

    def forward(self, h_BK: Tensor, future_BHF: Tensor) -> Tensor:
        """(B, H, Q) raw outputs."""
        h_BHK = self.memory(self.drop_memory(h_BK))[:, None] + self.calendar(future_BHF) + self.place_HK
        h_BHK = self.drop_units(nn.functional.gelu(h_BHK))
        h_BHK = nn.functional.gelu(self.mix(h_BHK))
        out_BHQ: Tensor = self.out(h_BHK)
        return out_BHQ


def rising(raw_BHQ: Tensor, median: int) -> Tensor:
    """Quantiles that cannot cross: the median, and softplus distances outwards from it.

    Args:
        raw_BHQ: one raw output a quantile; the one at `median` is the median itself.
        median: index of the .5 quantile.
    """
    gaps_BHQ = nn.functional.softplus(raw_BHQ)
    middle_BHQ = raw_BHQ[..., median : median + 1]
    below_BHQ = middle_BHQ - gaps_BHQ[..., :median].flip(-1).cumsum(-1).flip(-1)
    above_BHQ = middle_BHQ + gaps_BHQ[..., median + 1 :].cumsum(-1)
    return torch.cat([below_BHQ, middle_BHQ, above_BHQ], dim=-1)


def median_index(quantiles: Sequence[float]) -> int:
    """Where .5 stands among the quantile levels.

    Raises:
        ValueError: it does not.
    """
    return list(quantiles).index(0.5)
