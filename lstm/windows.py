"""Windows: which origins of a panel make a sample. Indices only; no window is ever materialised.

Axes: W windows, L lookback steps, H horizon steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import DataRefused
from data.panel import Floats, Integers, Panel
from data.splits import Span


@dataclass(frozen=True)
class Windows:
    """Samples of a panel by their origin, the last step that a forecast may see.

    Args:
        origins: (W,) flat row of the origin.
        series: (W,) index of the series.
        steps: (W,) grid step of the origin.
    """

    origins: Integers
    series: Integers
    steps: Integers

    def __len__(self) -> int:
        return len(self.origins)


def windows(
    panel: Panel,
    span: Span,
    lookback: int,
    horizon: int,
    stride: int = 1,
    series: Sequence[int] | None = None,
) -> Windows:
    """Every window whose whole horizon lies inside a span of target steps, series by series.

    The lookback may reach back before the span, but not before the series' first row. A window also
    needs one observed target, and an observed target value in at least half of its lookback.
    Models of different lookbacks are compared on the origins that their windows share.

    Args:
        stride: grid steps between two origins, counted from the span's start: the same for all series.
        series: indices of the series to take; all of them by default.
    """
    chosen = range(len(panel.series)) if series is None else series
    parts = [_of_series(panel, number, span, lookback, horizon, stride) for number in chosen]
    return _join(parts)


def newest(panel: Panel, lookback: int) -> Windows:
    """One window a series, whose origin is the as-of step; its targets lie ahead of the data.

    Raises:
        DataRefused: a series has fewer rows than the lookback.
    """
    lengths = np.diff(panel.offsets)
    if (lengths < lookback).any():
        short = int(np.argmax(lengths < lookback))
        raise DataRefused(
            f"{lengths[short]} steps up to {panel.frequency.format(panel.as_of)}; a forecast reads {lookback}"
            " of them.",
            data_set=panel.data_set,
            series=panel.series[short],
            remedy=f"give at least {lookback} steps, or exclude the series.",
        )
    number = np.arange(len(panel.series), dtype=np.int64)
    return Windows(panel.offsets[1:] - 1, number, np.full_like(number, panel.n_steps - 1))


def targets(panel: Panel, windows: Windows, horizon: int) -> Floats:
    """(W, H) the target after each origin, in its own units; NaN where nothing was observed."""
    values: Floats = panel.values[windows.origins[:, None] + 1 + np.arange(horizon), 0]
    return values


def _of_series(panel: Panel, number: int, span: Span, lookback: int, horizon: int, stride: int) -> Windows:
    first_step, offset = int(panel.first_steps[number]), int(panel.offsets[number])
    steps = np.arange(span.first - 1, min(span.last, panel.n_steps - 1) - horizon + 1, stride, dtype=np.int64)
    steps = steps[steps >= first_step + lookback - 1]
    # seen[i]: observed targets among the series' first i rows.
    observed = ~np.isnan(panel.values[panel.rows(number), 0])
    seen = np.concatenate([[0], np.cumsum(observed)])
    after = steps - first_step + 1
    inputs = seen[after] - seen[after - lookback]
    outputs = seen[after + horizon] - seen[after]
    steps = steps[(2 * inputs >= lookback) & (outputs >= 1)]
    return Windows(offset + steps - first_step, np.full_like(steps, number), steps)


def _join(parts: Sequence[Windows]) -> Windows:
    none = np.empty(0, dtype=np.int64)
    return Windows(
        np.concatenate([none, *(part.origins for part in parts)]),
        np.concatenate([none, *(part.series for part in parts)]),
        np.concatenate([none, *(part.steps for part in parts)]),
    )
