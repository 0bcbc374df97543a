"""Batches, gathered by index from a panel that lies on the training device.

Axes: B batch, L lookback steps, H horizon steps, C columns, F calendar features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm.scaling import ScaledPanel
from lstm.windows import Windows


class Inputs(NamedTuple):
    """What a forecaster reads, in the order of its arguments."""

    x_BLC: Tensor
    observed_BLC: Tensor
    calendar_BLF: Tensor
    future_BHF: Tensor


class Batches:
    """The windows of one panel on one device.

    Raises:
        ValueError: the panel's calendar is too short for the horizon at a window's origin.
    """

    def __init__(
        self, panel: ScaledPanel, windows: Windows, lookback: int, horizon: int, device: torch.device
    ) -> None:
        if len(windows) and windows.steps.max() + horizon >= len(panel.calendar):
            raise ValueError(f"the panel was scaled for a shorter horizon than {horizon}")
        self._values_NC = torch.from_numpy(panel.values).to(device)
        self._observed_NC = torch.from_numpy(panel.observed).to(device)
        self._calendar_TF = torch.from_numpy(panel.calendar).to(device)
        self._origins_W = torch.from_numpy(windows.origins).to(device)
        self._steps_W = torch.from_numpy(windows.steps).to(device)
        self._past_L = torch.arange(1 - lookback, 1, device=device)
        self._ahead_H = torch.arange(1, horizon + 1, device=device)
        self._device = device

    def __len__(self) -> int:
        return len(self._origins_W)

    def inputs(self, chosen_B: Tensor) -> Inputs:
        """The inputs of these windows (indices)."""
        rows_BL = self._origins_W[chosen_B, None] + self._past_L
        steps_B1 = self._steps_W[chosen_B, None]
        return Inputs(
            self._values_NC[rows_BL],
            self._observed_NC[rows_BL].to(self._values_NC.dtype),
            self._calendar_TF[steps_B1 + self._past_L],
            self._calendar_TF[steps_B1 + self._ahead_H],
        )

    def targets(self, chosen_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H) the targets of these windows (indices), and whether each was observed."""
        rows_BH = self._origins_W[chosen_B, None] + self._ahead_H
        return self._values_NC[rows_BH, 0], self._observed_NC[rows_BH, 0]

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """Indices of all windows, in order."""
        return self.split(np.arange(len(self)), batch_size)

    def split(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        """These indices, a batch at a time, on the device."""
        if len(order):
            yield from torch.split(torch.from_numpy(order).to(self._device), batch_size)
