"""Segments (patches) of a window, and what remains of them: shared by recurrent and attending encoders.

Axes: B batch, L lookback steps, G segments, D features a step, K hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SegmentEmbedding(nn.Module):
    """Consecutive segments of a window, each flattened and projected to the hidden size.

    What follows takes L / segment steps instead of L (Nie et al. 2023, arXiv:2211.14730; Lin et al. 2023,
    arXiv:2308.11200). With segments of a season, the same weight always meets the same phase.
    """

    def __init__(self, inputs: int, hidden_size: int, segment_length: int) -> None:
        super().__init__()
        self.segment_length = segment_length
        self.project = nn.Linear(segment_length * inputs, hidden_size)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, G, K). L is a multiple of the segment's length."""
        batch, steps, features = x_BLD.shape
        segments = steps // self.segment_length
        x_BGD = x_BLD.reshape(batch, segments, self.segment_length * features)
        h_BGK: Tensor = self.project(x_BGD)
        return h_BGK


class AttentionPooling(nn.Module):
    """The newest state, and beside it what it finds worth remembering among all of them.

    Scaled dot-product attention with the newest state as its one query (Luong et al. 2015,
    arXiv:1508.04025).
    """

    scale: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        # A buffer: among lanes, where the hidden size is padded, each network keeps its own.
        self.register_buffer("scale", torch.tensor(hidden_size**-0.5), persistent=False)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.context = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, newest_BK: Tensor, h_BGK: Tensor) -> Tensor:
        """(B, K)."""
        scores_BG = (h_BGK * self.query(newest_BK)[:, None]).sum(-1) * self.scale
        context_BK = (torch.softmax(scores_BG, dim=-1)[..., None] * h_BGK).sum(-2)
        memory_BK: Tensor = newest_BK + self.context(context_BK)
        return memory_BK
