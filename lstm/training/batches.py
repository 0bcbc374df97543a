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
from lstm.training.device import send
from lstm.windows import Windows


class Inputs(NamedTuple):
    """What a forecaster reads, in the order of its arguments."""

    x_BLC: Tensor
    observed_BLC: Tensor
    calendar_BLF: Tensor
    future_BHF: Tensor


class Batches:
    """The windows of one panel on one device.

    Every batch is gathered into the same memory, so it is valid until the next one. Indices may have
    leading axes, which the batch then has as well.

    Raises:
        ValueError: the panel's calendar is too short for the horizon at a window's origin.
    """

    def __init__(
        self, panel: ScaledPanel, windows: Windows, lookback: int, horizon: int, device: torch.device
    ) -> None:
        if len(windows) and windows.steps.max() + horizon >= len(panel.calendar):
            raise ValueError(f"the panel was scaled for a shorter horizon than {horizon}")
        self._values_NC = send(panel.values, device)
        self._observed_NC = send(panel.observed.astype(np.float32), device)
        self._target_N = send(panel.values[:, 0], device)
        self._is_observed_N = send(panel.observed[:, 0], device)
        self._calendar_TF = send(panel.calendar, device)
        self._origins_W = send(windows.origins, device)
        self._steps_W = send(windows.steps, device)
        self._past_L = torch.arange(1 - lookback, 1, device=device)
        self._ahead_H = torch.arange(1, horizon + 1, device=device)
        self._device = device
        self._memory: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self._origins_W)

    def inputs(self, chosen_B: Tensor) -> Inputs:
        """The inputs of these windows (indices)."""
        rows_BL = self._origins_W[chosen_B][..., None] + self._past_L
        steps_B1 = self._steps_W[chosen_B][..., None]
        return Inputs(
            self._gather("x", self._values_NC, rows_BL),
            self._gather("observed", self._observed_NC, rows_BL),
            self._gather("calendar", self._calendar_TF, steps_B1 + self._past_L),
            self._gather("future", self._calendar_TF, steps_B1 + self._ahead_H),
        )

    def targets(self, chosen_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H) the targets of these windows (indices), and whether each was observed."""
        rows_BH = self._origins_W[chosen_B][..., None] + self._ahead_H
        return (
            self._gather("target", self._target_N, rows_BH),
            self._gather("is_observed", self._is_observed_N, rows_BH),
        )

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """Indices of all windows, in order."""
        return self.split(np.arange(len(self)), batch_size)

    def split(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        """These indices, a batch of the last axis at a time, on the device."""
        if order.size:
            yield from torch.split(send(order, self._device), batch_size, dim=-1)

    def _gather(self, name: str, table: Tensor, rows: Tensor) -> Tensor:
        """Rows of a table, in memory that the next call of this name takes again."""
        size, memory = rows.numel(), self._memory.get(name)
        if memory is None or len(memory) < size:
            # Not of inference mode, which autograd could not read.
            with torch.inference_mode(False):
                memory = self._memory[name] = table.new_empty(size, *table.shape[1:])
        part = memory[:size]
        torch.index_select(table, 0, rows.reshape(-1), out=part)
        return part.view(*rows.shape, *table.shape[1:])
