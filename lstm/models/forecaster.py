"""The forecaster: a configuration, and the network it describes.

Axes: B batch, L lookback steps, H horizon steps, C columns (the target first), F features known ahead
(calendar and future covariates), D numbers of static features, E size of a series embedding, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data.retrain import Cell, Normalisation
from lstm.models.heads import HorizonHead, median_index, rising
from lstm.models.recurrent import SegmentRecurrent

# Keeps a window without variation from being divided by nothing; standardised units.
_LEAST_SCALE = 0.1


@dataclass(frozen=True)
class ForecasterConfig:
    """What makes the network; with a state dict, the whole model.

    Args:
        cell: ``lstm``, ``gru`` or ``rnn``.
        hidden_size: units of each recurrent layer, and of the head.
        num_layers: recurrent layers.
        dropout: between recurrent layers and in the head.
        segment_length: steps that enter the recurrence as one; divides `lookback`.
        lookback: L, steps in.
        horizon: H, steps out.
        quantiles: Q rising levels, .5 among them.
        columns: C, the target and its past covariates.
        calendar_features: F, of the calendar and future covariates.
        normalisation: what is taken off each window and put back on its forecast, column by column:
            ``none``; ``last_value``, the value at the origin; ``instance``, the window's mean and
            spread (RevIN without its affine part: Kim et al. 2022).
        linear: adds a linear map of the target's lookback to the median.
        static_features: D.
        series: how many, where they have an embedding.
        series_embedding: E, what is learned of each series; 0 for none.
    """

    cell: Cell
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
    static_features: int = 0
    series: int = 1
    series_embedding: int = 0

    def __post_init__(self) -> None:
        if self.lookback % self.segment_length:
            raise ValueError(
                f"lookback {self.lookback} is not a multiple of segment_length {self.segment_length}"
            )
        median_index(self.quantiles)

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
    """Recurrent network over segments, a head over the horizon's calendar, and a linear shortcut."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.config = config
        self.median = median_index(config.quantiles)
        known_features = config.calendar_features + config.series_embedding
        self.identity = SeriesEmbedding(config) if config.series_embedding else None
        self.encoder = SegmentRecurrent(
            config.cell,
            2 * config.columns + known_features,
            config.hidden_size,
            config.num_layers,
            config.dropout,
            config.segment_length,
        )
        self.head = HorizonHead(
            config.hidden_size,
            config.horizon,
            known_features,
            config.dropout,
            len(config.quantiles),
        )
        self.shortcut = nn.Linear(config.lookback, config.horizon) if config.linear else None
        if self.shortcut is not None:
            nn.init.zeros_(self.shortcut.weight)
            nn.init.zeros_(self.shortcut.bias)

    def forward(
        self,
        x_BLC: Tensor,
        observed_BLC: Tensor,
        calendar_BLF: Tensor,
        future_BHF: Tensor,
        static_BD: Tensor,
        series_B: Tensor,
    ) -> Tensor:
        """(B, H, Q) rising quantiles in the units of x.

        Args:
            x_BLC: standardised values, missing ones filled from the past.
            observed_BLC: 1 where observed, else 0; the type of x.
            calendar_BLF: features of the lookback's steps, calendar and future covariates.
            future_BHF: the same features of the horizon's steps.
            static_BD: static features of each window's series.
            series_B: numbers of the series, from 0.
        """
        if self.identity is not None:
            identity_BE = self.identity(static_BD, series_B)
            calendar_BLF, future_BHF = _beside(calendar_BLF, identity_BE), _beside(future_BHF, identity_BE)
        loc_B1C, scale_B1C = self._location_and_scale(x_BLC)
        x_BLC = (x_BLC - loc_B1C) / scale_B1C
        h_BK = self.encoder(torch.cat([x_BLC, observed_BLC, calendar_BLF], dim=-1))
        raw_BHQ = self.head(h_BK, future_BHF)
        y_BHQ = rising(raw_BHQ, self.median)
        if self.shortcut is not None:
            y_BHQ = y_BHQ + self.shortcut(x_BLC[..., 0])[..., None]
        return y_BHQ * scale_B1C[..., :1] + loc_B1C[..., :1]

    def _location_and_scale(self, x_BLC: Tensor) -> tuple[Tensor, Tensor]:
        one_B1C = torch.ones_like(x_BLC[:, :1])
        if self.config.normalisation == "none":
            return torch.zeros_like(one_B1C), one_B1C
        if self.config.normalisation == "last_value":
            return x_BLC[:, -1:], one_B1C
        scale_B1C = x_BLC.std(dim=1, keepdim=True, unbiased=False)
        return x_BLC.mean(dim=1, keepdim=True), scale_B1C.clamp_min(_LEAST_SCALE)


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


def _beside(x_BTF: Tensor, identity_BE: Tensor) -> Tensor:
    """(B, T, F + E) the identity beside every step."""
    identity_BTE = identity_BE[:, None].expand(-1, x_BTF.shape[1], -1)
    return torch.cat([x_BTF, identity_BTE.to(x_BTF.dtype)], dim=-1)


def build(config: ForecasterConfig) -> Forecaster:
    """The network of a configuration; its weights come from torch's current seed."""
    return Forecaster(config)
