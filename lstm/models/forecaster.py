"""The forecaster: a configuration, and the network it describes.

Axes: B batch, L lookback steps, H horizon steps, C columns (the target first), K future covariates, F
features of a horizon step (calendar and future covariates), D numbers of static features, E size of a series
embedding, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data.retrain import Channels, Encoder, Head, Normalisation, Pooling, Positions, check_network
from lstm.kernels import quantiles
from lstm.models.heads import CalendarHead, LinearHead, SegmentHead, median_index, rising
from lstm.models.normalise import Normaliser
from lstm.models.recurrent import RecurrentEncoder
from lstm.models.transformer import TransformerEncoder


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
        calendar_features: F without the future covariates.
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
        future_covariates: K.
        static_features: D.
        series: how many there are.
        series_embedding: E, how much is learned of each series; 0 for nothing.

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
    future_covariates: int = 0
    static_features: int = 0
    series: int = 1
    series_embedding: int = 0

    def __post_init__(self) -> None:
        check_network(self.cell, self.hidden_size, self.lookback, self.segment_length)
        median_index(self.quantiles)

    @property
    def channels_read(self) -> int:
        """Of the `columns`, how many the encoder reads."""
        return 1 if self.channels == "independent" else self.columns

    @property
    def known(self) -> int:
        """What encoder and head both know of a step: its future covariates, and whose step it is."""
        return self.future_covariates + self.series_embedding

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
        self.identity = SeriesEmbedding(config) if config.series_embedding else None
        self.normalise = Normaliser(config.normalisation)
        self.encoder = _encoder(config)
        self.head = _head(config)
        self.shortcut = nn.Linear(config.lookback, config.horizon) if config.linear else None
        if self.shortcut is not None:
            nn.init.zeros_(self.shortcut.weight)
            nn.init.zeros_(self.shortcut.bias)

    def forward(
        self,
        x_BLC: Tensor,
        observed_BLC: Tensor,
        future_BHF: Tensor,
        known_BLK: Tensor | None = None,
        static_BD: Tensor | None = None,
        series_B: Tensor | None = None,
    ) -> Tensor:
        """(B, H, Q) rising quantiles in the units of x.

        With ``instance`` normalisation a window without variation is forecast to stay as it is.

        Args:
            x_BLC: standardised values, missing ones filled from the past.
            observed_BLC: True where observed; or numbers, 1 and 0.
            future_BHF: features of the horizon's steps, the future covariates last. The head alone reads the
                calendar: the encoder sees what happened, the head when it is asked for.
            known_BLK: future covariates of the lookback's steps; needed where there are any.
            static_BD: static features of each window's series; needed where there are any.
            series_B: numbers of the series, from 0; needed where they have an embedding.
        """
        identity_BE = None if self.identity is None else self.identity(static_BD, series_B)
        x_BLD, loc_B1, scale_B1 = self.encoder_inputs(x_BLC, observed_BLC, known_BLK, identity_BE)
        if identity_BE is not None:
            future_BHF = torch.cat([future_BHF, _at_every_step(identity_BE, future_BHF)], dim=-1)
        raw_BHQ = self.head(self.encoder(x_BLD), future_BHF)
        # One copy, for the product and for its gradient.
        base_BH = None if self.shortcut is None else self.shortcut(x_BLD[..., 0].contiguous())
        if quantiles.fits(raw_BHQ, base_BH, loc_B1, scale_B1):
            return quantiles.rising(raw_BHQ, base_BH, loc_B1, scale_B1, self.median)
        y_BHQ = rising(raw_BHQ, self.median)
        if base_BH is not None:
            y_BHQ = y_BHQ + base_BH[..., None]
        return y_BHQ * scale_B1[..., None] + loc_B1[..., None]

    def encoder_inputs(
        self,
        x_BLC: Tensor,
        observed_BLC: Tensor,
        known_BLK: Tensor | None = None,
        identity_BE: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the encoder reads of windows, and the location and scale that were taken off their target.

        Args:
            x_BLC, observed_BLC, known_BLK: as of `forward`.
            identity_BE: embeddings of the windows' series.

        Returns:
            What it reads of each step of the lookback: normalised columns, the target's first, then their
            masks, then what is known; (B, 1) and (B, 1).
        """
        if identity_BE is not None:
            own_BLE = _at_every_step(identity_BE, x_BLC)
            known_BLK = own_BLE if known_BLK is None else torch.cat([known_BLK, own_BLE], dim=-1)
        count = self.config.channels_read
        x_BLD, loc_B1C, scale_B1C = self.normalise(x_BLC, observed_BLC, known_BLK, count)
        return x_BLD, loc_B1C[..., 0], scale_B1C[..., 0]


class SeriesEmbedding(nn.Module):
    """What is learned of a series: of itself, and of what its static features share with others."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.own = nn.Embedding(config.series, config.series_embedding)
        # Small, so that at first all series are alike: what they share is learned first.
        nn.init.normal_(self.own.weight, std=0.1)
        features = config.static_features
        self.shared = nn.Linear(features, config.series_embedding, bias=False) if features else None

    def forward(self, static_BD: Tensor, series_B: Tensor) -> Tensor:
        """(B, E)."""
        own_BE: Tensor = self.own(series_B)
        return own_BE if self.shared is None else own_BE + self.shared(static_BD)


def build(config: ForecasterConfig) -> Forecaster:
    """The network of a configuration; its weights come from torch's current seed."""
    return Forecaster(config)


def _at_every_step(identity_BE: Tensor, like_BTF: Tensor) -> Tensor:
    """(B, T, E) the identity at each of so many steps."""
    return identity_BE[:, None].expand(-1, like_BTF.shape[1], -1).to(like_BTF.dtype)


def _encoder(config: ForecasterConfig) -> RecurrentEncoder | TransformerEncoder:
    inputs = 2 * config.channels_read + config.known
    sizes = inputs, config.hidden_size, config.num_layers, config.dropout, config.segment_length
    if config.cell == "transformer":
        segments = config.lookback // config.segment_length
        return TransformerEncoder(*sizes, segments, config.positions, config.pooling)
    return RecurrentEncoder(config.cell, *sizes, config.bidirectional, config.pooling)


def _head(config: ForecasterConfig) -> CalendarHead | SegmentHead | LinearHead:
    size, horizon, features = config.hidden_size, config.horizon, config.calendar_features + config.known
    dropout, outputs = config.dropout, len(config.quantiles)
    if config.head == "calendar":
        return CalendarHead(size, horizon, features, dropout, outputs)
    if config.head == "linear":
        return LinearHead(size, horizon, dropout, outputs)
    # A transformer has no cell to decode with; the GRU is the published choice.
    cell = "gru" if config.cell == "transformer" else config.cell
    return SegmentHead(cell, size, horizon, config.segment_length, features, dropout, outputs)
