"""Transformer encoder over segments of a window.

Axes: B batch, L lookback steps, G segments, D features a step, K hidden size, A attention heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from data.retrain import HEAD_SIZE, Pooling, Positions
from lstm.models.dropout import Dropout, Place
from lstm.models.segments import AttentionPooling, SegmentEmbedding

_WIDENING = 2
"""Units of a block's feed-forward layer for each hidden unit."""


class TransformerEncoder(nn.Module):
    """Self-attention over segments (Vaswani et al. 2017, arXiv:1706.03762; of a series: Nie et al. 2023,
    arXiv:2211.14730), normalised before each sub-layer (Xiong et al. 2020, arXiv:2002.04745).

    The newest segment's state, which has attended to all others, is the memory.

    Args:
        inputs: D.
        hidden_size: K, a multiple of `data.retrain.HEAD_SIZE`, the units of one attention head.
        num_layers: blocks.
        segments: G.
        positions: ``learned`` or ``sinusoidal``.
        pooling: ``last``, the newest state; ``attention``, see `AttentionPooling`.
    """

    position_GK: Tensor

    def __init__(
        self,
        inputs: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        segment_length: int,
        segments: int,
        positions: Positions = "learned",
        pooling: Pooling = "last",
    ) -> None:
        super().__init__()
        self.embed = SegmentEmbedding(inputs, hidden_size, segment_length)
        if positions == "learned":
            self.position_GK = nn.Parameter(0.02 * torch.randn(segments, hidden_size))
        else:
            self.register_buffer("position_GK", sinusoids(segments, hidden_size), persistent=False)
        places = range(Place.LAYERS, Place.LAYERS + 2 * num_layers, 2)
        self.blocks = nn.ModuleList(_Block(hidden_size, dropout, place) for place in places)
        self.norm = nn.LayerNorm(hidden_size)
        self.pool = AttentionPooling(hidden_size) if pooling == "attention" else None

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, K) the memory. L is G segments."""
        h_BGK = self.states(self.segments(x_BLD))
        h_BK = h_BGK[:, -1]
        return h_BK if self.pool is None else self.pool(h_BK, h_BGK)

    def segments(self, x_BLD: Tensor) -> Tensor:
        """(B, G, K) segments, without their positions."""
        h_BGK: Tensor = self.embed(x_BLD)
        return h_BGK

    def states(self, h_BGK: Tensor) -> Tensor:
        """(B, G, K) the last block's states, of segments without their positions."""
        h_BGK = h_BGK + self.position_GK
        for block in self.blocks:
            h_BGK = block(h_BGK)
        states_BGK: Tensor = self.norm(h_BGK)
        return states_BGK


class _Block(nn.Module):
    """Self-attention, then a feed-forward layer, each added to what it read."""

    def __init__(self, hidden_size: int, dropout: float, place: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.attended = nn.Linear(hidden_size, hidden_size)
        self.drop_attended = Dropout(dropout, place)
        self.norm_forward = nn.LayerNorm(hidden_size)
        self.widen = nn.Linear(hidden_size, _WIDENING * hidden_size)
        self.narrow = nn.Linear(_WIDENING * hidden_size, hidden_size)
        self.drop_forward = Dropout(dropout, place + 1)

    def forward(self, h_BGK: Tensor) -> Tensor:
        """(B, G, K)."""
        h_BGK = h_BGK + self.drop_attended(self.attended(self._attend(self.norm_attention(h_BGK))))
        wide_BGK = nn.functional.gelu(self.widen(self.norm_forward(h_BGK)))
        out_BGK: Tensor = h_BGK + self.drop_forward(self.narrow(wide_BGK))
        return out_BGK

    def _attend(self, h_BGK: Tensor) -> Tensor:
        """softmax(Q K^T / sqrt(head size)) V in each head. Written out: windows have tens of segments, not
        thousands, and `torch.vmap` has no rule for the fused one."""
        batch, segments, size = h_BGK.shape
        # (3, B, A, G, head size)
        parts = self.query_key_value(h_BGK).view(batch, segments, 3, -1, HEAD_SIZE).permute(2, 0, 3, 1, 4)
        query, key, value = parts
        weights_BAGG = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(HEAD_SIZE), dim=-1)
        attended_BGK: Tensor = (weights_BAGG @ value).transpose(1, 2).reshape(batch, segments, size)
        return attended_BGK


def sinusoids(segments: int, hidden_size: int) -> Tensor:
    """(G, K) sines and cosines of wavelengths from 2 pi to 20,000 pi (Vaswani et al. 2017, section 3.5)."""
    place_G1 = torch.arange(segments)[:, None]
    rate_K = 10_000 ** -(torch.arange(0, hidden_size, 2) / hidden_size)
    return torch.cat([torch.sin(place_G1 * rate_K), torch.cos(place_G1 * rate_K)], dim=1)
