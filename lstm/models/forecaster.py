"""The forecaster: a configuration, and the network it describes.

Axes: B batch, L lookback steps, H horizon steps, C columns (the target first), F calendar features,
Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data.retrain import Channels, Encoder, Head, Normalisation, Pooling, Positions, check_network
from lstm.models.heads import CalendarHead, LinearHead, SegmentHead, median_index, rising
from lstm.models.recurrent import RecurrentEncoder
from lstm.models.transformer import TransformerEncoder

# Keeps a window without variation from being divided by nothing; standardised units.
_LEAST_DIVISOR = 1e-4


@dataclass(frozen=True)
class ForecasterConfig:
    """What makes the network; with a state dict, the whole model.

    Args:
        cell: what carries information along the window: ``lstm``, ``gru`` or ``rnn``; or ``transformer``,
            which attends instead.
        hidden_size: units of each layer, and of the head.
        num_layers: recurrent layers, or blocks of the transformer.
        dropout: between layers and in the head.
        segment_length: steps that enter the encoder as one; divides `lookback`.
        lookback: L, steps in.
        horizon: H, steps out.
        quantiles: Q rising levels, .5 among them.
        columns: C, the target and its past covariates.
        calendar_features: F.
        normalisation: what is taken off each window and put back on its forecast, column by column:
            ``none``; ``last_value``, the value at the origin; ``instance``, the window's mean and
            spread (RevIN without its affine part: Kim et al. 2022).
        linear: adds a linear map of the target's lookback to the median.
        head: from the encoder's memory to the horizon: ``calendar``, every step by its own calendar;
            ``segments``, recurrent decoding of horizon segments in parallel; ``linear``.
        pooling: what the memory is: ``last``, the newest state; ``attention``, and what that attends to.
        bidirectional: the recurrence reads the window backwards too.
        channels: ``joint`` reads the past covariates beside the target; ``independent``, the target alone.
        positions: how the transformer tells segments apart: ``learned`` or ``sinusoidal``.

    Raises:
        ValueError: two of these do not go together.
    """

    cell: Encoder
    hidden_size: int
    num_layers: int
    dropout: float
    segment_length: int
    lookback: int
    horizon: int
    quantiles: tuple[float, ...]
    columns: int
    calendar_features: int
    normalisation: Normalisation = "instance"
    linear: bool = True
    head: Head = "calendar"
    pooling: Pooling = "last"
    bidirectional: bool = False
    channels: Channels = "joint"
    positions: Positions = "learned"

    def __post_init__(self) -> None:
        check_network(self.cell, self.hidden_size, self.lookback, self.segment_length)
        median_index(self.quantiles)

    @property
    def channels_read(self) -> int:
        """Of the `columns`, how many the encoder reads."""
        return 1 if self.channels == "independent" else self.columns

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {**asdict(self), "quantiles": list(self.quantiles)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ForecasterConfig:
        """The inverse of `to_dict`.

        Raises:
            TypeError: a key is missing or unknown.
        """
        return cls(**{**raw, "quantiles": tuple(raw["quantiles"])})


class Forecaster(nn.Module):
    """An encoder over segments, a head over the horizon, and a linear shortcut."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.config = config
        self.median = median_index(config.quantiles)
        self.encoder = _encoder(config)
        self.head = _head(config)
        self.shortcut = nn.Linear(config.lookback, config.horizon) if config.linear else None
        if self.shortcut is not None:
            nn.init.zeros_(self.shortcut.weight)
            nn.init.zeros_(self.shortcut.bias)

    def forward(self, x_BLC: Tensor, observed_BLC: Tensor, future_BHF: Tensor) -> Tensor:
        """(B, H, Q) rising quantiles in the units of x.

        With ``instance`` normalisation a window without variation is forecast to stay as it is.

        Args:
            x_BLC: standardised values, missing ones filled from the past.
            observed_BLC: 1 where observed, else 0; the type of x.
            future_BHF: calendar features of the horizon's steps. The head alone reads the calendar: the
                encoder sees what happened, the head when it is asked for.
        """
        x_BLD, loc_B1, scale_B1 = self.encoder_inputs(x_BLC, observed_BLC)
        raw_BHQ = self.head(self.encoder(x_BLD), future_BHF)
        y_BHQ = rising(raw_BHQ, self.median)
        if self.shortcut is not None:
            y_BHQ = y_BHQ + self.shortcut(x_BLD[..., 0])[..., None]
        return y_BHQ * scale_B1[..., None] + loc_B1[..., None]

    def encoder_inputs(self, x_BLC: Tensor, observed_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the encoder reads of windows, and the location and scale that were taken off their target.

        Returns:
            (B, L, D) normalised columns, the target first, then their masks; (B, 1) and (B, 1).
        """
        count = self.config.channels_read
        x_BLC, observed_BLC = x_BLC[..., :count], observed_BLC[..., :count]
        loc_B1C, scale_B1C = self._location_and_scale(x_BLC)
        x_BLC = (x_BLC - loc_B1C) / scale_B1C.clamp_min(_LEAST_DIVISOR)
        return torch.cat([x_BLC, observed_BLC], dim=-1), loc_B1C[..., 0], scale_B1C[..., 0]

    def _location_and_scale(self, x_BLC: Tensor) -> tuple[Tensor, Tensor]:
        one_B1C = torch.ones_like(x_BLC[:, :1])
        if self.config.normalisation == "none":
            return torch.zeros_like(one_B1C), one_B1C
        if self.config.normalisation == "last_value":
            return x_BLC[:, -1:], one_B1C
        return x_BLC.mean(dim=1, keepdim=True), x_BLC.std(dim=1, keepdim=True, unbiased=False)


def build(config: ForecasterConfig) -> Forecaster:
    """The network of a configuration; its weights come from torch's current seed."""
    return Forecaster(config)


def _encoder(config: ForecasterConfig) -> RecurrentEncoder | TransformerEncoder:
    inputs = 2 * config.channels_read
    sizes = inputs, config.hidden_size, config.num_layers, config.dropout, config.segment_length
    if config.cell == "transformer":
        segments = config.lookback // config.segment_length
        return TransformerEncoder(*sizes, segments, config.positions, config.pooling)
    return RecurrentEncoder(config.cell, *sizes, config.bidirectional, config.pooling)


def _head(config: ForecasterConfig) -> CalendarHead | SegmentHead | LinearHead:
    size, horizon, features = config.hidden_size, config.horizon, config.calendar_features
    dropout, outputs = config.dropout, len(config.quantiles)
    if config.head == "calendar":
        return CalendarHead(size, horizon, features, dropout, outputs)
    if config.head == "linear":
        return LinearHead(size, horizon, dropout, outputs)
    # A transformer has no cell to decode with; the GRU is the published choice.
    cell = "gru" if config.cell == "transformer" else config.cell
    return SegmentHead(cell, size, horizon, config.segment_length, features, dropout, outputs)
