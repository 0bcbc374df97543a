"""Batches, gathered by index from a panel that lies on the training device.

Axes: B batch, L lookback steps, H horizon steps, C columns, K future covariates, F features of a horizon step
(calendar and future covariates), D numbers of static features, S series, N rows of the panel, M those and the
rows ahead, R runs of windows or of steps, U times of day.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm.kernels import elementwise
from lstm.scaling import ScaledPanel
from lstm.training.device import send
from lstm.windows import Windows


class Inputs(NamedTuple):
    """What a forecaster reads, in the order of its arguments."""

    x_BLC: Tensor
    observed_BLC: Tensor
    future_BHF: Tensor
    known_BLK: Tensor
    static_BD: Tensor
    series_B: Tensor


class Batches:
    """The windows of one panel on one device.

    Every batch is gathered into the same memory, so it is valid until the next one. Indices may have
    leading axes, which the batch then has as well.

    Attributes:
        device: where they lie.

    Raises:
        ValueError: the panel's calendar, or what is known ahead, is too short for the horizon at a window's
            origin.
    """

    def __init__(
        self, panel: ScaledPanel, windows: Windows, lookback: int, horizon: int, device: torch.device
    ) -> None:
        calendar = panel.calendar
        if len(windows) and windows.last_step + horizon >= calendar.n_steps:
            raise ValueError(f"the panel was scaled for a shorter horizon than {horizon}")
        has_future = panel.future.shape[1] > 0
        if has_future and len(windows) and windows.last_step + horizon >= panel.n_steps + panel.n_ahead:
            raise ValueError(f"future covariates are not known for a horizon of {horizon}")
        self._values_NC = send(panel.values, device)
        self._observed_NC = send(panel.observed, device)
        self._future_MK = send(panel.future, device)
        self._n_ahead = panel.n_ahead
        self._static_SD = send(panel.static, device)
        self._number_S = send(panel.numbers, device)
        self._count, self._stride = len(windows), windows.stride
        # Where a run's origins would begin if it went back to the first window.
        behind_R = windows.stride * windows.begins
        self._begin_R = send(windows.begins, device)
        self._origin_R = send(windows.origin_R - behind_R, device)
        self._step_R = send(windows.step_R - behind_R, device)
        self._series_R = send(windows.series_R, device)
        self._advance = calendar.advance
        self._first_R = send(calendar.advance * calendar.first_R, device)
        self._base_R = send(calendar.base_R, device)
        self._time_UF = send(calendar.time_UF, device)
        self._day_DF = send(calendar.day_DF, device)
        self._lookback = lookback
        self._ahead_H = torch.arange(1, horizon + 1, device=device)
        self.device = device
        self._memory: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return self._count

    def apart(self) -> Batches:
        """The same windows, gathered into memory of their own."""
        other = copy.copy(self)
        other._memory = {}
        return other

    def inputs(self, chosen_B: Tensor) -> Inputs:
        """The inputs of these windows (indices below their number: not all of what they say is checked)."""
        run_B = _run(self._begin_R, chosen_B)
        after_B = self._stride * chosen_B
        oldest_B = self._origin_R[run_B] + after_B + 1 - self._lookback
        steps_B1 = (self._step_R[run_B] + after_B)[..., None]
        series_B = self._series_R[run_B]
        # Each series before has as many rows more as are known ahead.
        known_B = oldest_B + self._n_ahead * series_B
        return Inputs(
            self._rows("x", self._values_NC, oldest_B, self._lookback),
            self._rows("observed", self._observed_NC, oldest_B, self._lookback),
            self._ahead(steps_B1, known_B + self._lookback),
            self._known("known", known_B, self._lookback),
            self._gather("static", self._static_SD, series_B),
            self._gather("series", self._number_S, series_B),
        )

    def targets(self, chosen_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H) the targets of these windows (indices), and whether each was observed."""
        next_B = self._origin_R[_run(self._begin_R, chosen_B)] + self._stride * chosen_B + 1
        horizon = len(self._ahead_H)
        return (
            self._rows("target", self._values_NC[:, 0], next_B, horizon),
            self._rows("target is observed", self._observed_NC[:, 0], next_B, horizon),
        )

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """Indices of all windows, in order."""
        return self.split(np.arange(len(self)), batch_size)

    def split(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        """These indices, a batch of the last axis at a time, on the device."""
        if order.size:
            yield from torch.split(send(order, self.device), batch_size, dim=-1)

    def _ahead(self, steps_B1: Tensor, next_B: Tensor) -> Tensor:
        """Calendar features of the horizon after these grid steps, and future covariates from these rows."""
        features = self._features("calendar", steps_B1)
        covariates = self._known("covariates", next_B, len(self._ahead_H))
        if not covariates.shape[-1]:
            return features
        size = features.shape[-1] + covariates.shape[-1]
        room = self._room("future", features, (*features.shape[:-1], size))
        return torch.cat([features, covariates], dim=-1, out=room)

    def _known(self, name: str, first_B: Tensor, count: int) -> Tensor:
        """(..., count, K) future covariates of so many rows from these on, in the memory of this name."""
        if not self._future_MK.shape[1]:
            return self._future_MK.new_empty(*first_B.shape, count, 0)
        return self._rows(name, self._future_MK, first_B, count)

    def _features(self, name: str, steps_B1: Tensor) -> Tensor:
        """Calendar features of the horizon after these grid steps: those of each step's day plus those of its
        time of day."""
        if elementwise.fits(steps_B1):
            shape = *steps_B1.shape[:-1], len(self._ahead_H), self._day_DF.shape[1]
            features = self._room(name, self._day_DF, shape)
            tables = self._first_R, self._base_R, self._day_DF, self._time_UF
            elementwise.clock_features(steps_B1, *tables, self._advance, features)
            return features
        time = self._advance * steps_B1 + self._advance * self._ahead_H
        time += self._gather("base", self._base_R, _run(self._first_R, time))
        day = time // len(self._time_UF)
        features = self._gather(name, self._day_DF, day)
        return features.add_(self._gather("time", self._time_UF, time.remainder_(len(self._time_UF))))

    def _rows(self, name: str, table: Tensor, first: Tensor, count: int) -> Tensor:
        """(..., count, *) so many rows of a table from these on, in the memory of this name."""
        sizes, strides = table.shape, table.stride()
        # A view whose row i is rows i to i + count - 1 of the table: then a window is one copy.
        overlapping = table.as_strided(
            (max(sizes[0] - count + 1, 0), count, *sizes[1:]), (strides[0], *strides), table.storage_offset()
        )
        return self._gather(name, overlapping, first)

    def _gather(self, name: str, table: Tensor, rows: Tensor) -> Tensor:
        """Rows of a table, in the memory of this name."""
        # Torch gathers numbers faster than rows of one number.
        narrow = table.squeeze(1) if table.dim() == 2 else table
        room = self._room(name, table, (rows.numel(), *narrow.shape[1:]))
        torch.index_select(narrow, 0, rows.reshape(-1), out=room)
        return room.view(*rows.shape, *table.shape[1:])

    def _room(self, name: str, like: Tensor, shape: Sequence[int]) -> Tensor:
        """An empty tensor of another one's type, in memory that the next call of this name takes again."""
        size, memory = prod(shape), self._memory.get(name)
        if memory is None or len(memory) < size:
            # Not of inference mode, which autograd could not read.
            with torch.inference_mode(False):
                memory = self._memory[name] = like.new_empty(size)
        return memory[:size].view(*shape)


def _run(first_R: Tensor, places: Tensor) -> Tensor:
    """The run in which each place lies, of runs with these first places, rising from 0."""
    return torch.searchsorted(first_R[1:], places.contiguous(), right=True)
