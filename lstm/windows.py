"""Windows: which origins of a panel make a sample. Runs of indices only; no window is ever materialised.

Axes: W windows, R runs, H horizon steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np

from data.errors import DataRefused
from data.panel import Booleans, Floats, Integers, Panel
from data.splits import Span

# Rows that are looked at at once: counts in between cost memory for so many only.
_PIECE = 65_536


# Arrays have no single truth value, so windows compare by identity.
@dataclass(frozen=True, eq=False)
class Windows:
    """Samples of a panel by their origin, the last step that a forecast may see.

    They are kept as runs, in which one origin follows the other `stride` steps later. A series without
    gaps is one run, so millions of windows take no more memory than a few.

    Args:
        origin_R: (R,) flat row of the first origin of each run.
        series_R: (R,) index of its series.
        step_R: (R,) grid step of its first origin.
        count_R: (R,) its windows, at least 1.
        stride: grid steps from an origin to the next one of its run.
    """

    origin_R: Integers
    series_R: Integers
    step_R: Integers
    count_R: Integers
    stride: int = 1

    @classmethod
    def of(cls, origins: Integers, series: Integers, steps: Integers) -> Windows:
        """Windows one by one, in this order: their flat rows, series and grid steps, (W,) each."""
        rows = np.stack([origins, series, steps])
        goes_on = (np.diff(rows) == np.array([[1], [0], [1]])).all(axis=0)
        begin_R = np.flatnonzero(np.concatenate([np.ones(min(len(origins), 1), dtype=np.bool_), ~goes_on]))
        origin_R, series_R, step_R = rows[:, begin_R]
        return cls(origin_R, series_R, step_R, np.diff(begin_R, append=len(origins)))

    def __len__(self) -> int:
        return int(self.count_R.sum())

    @property
    def begins(self) -> Integers:
        """(R,) the index of each run's first window."""
        return np.cumsum(self.count_R) - self.count_R

    @property
    def last_step(self) -> int:
        """The newest grid step of an origin; there must be one."""
        return int((self.step_R + self.stride * (self.count_R - 1)).max())

    @cached_property
    def origins(self) -> Integers:
        """(W,) flat row of each origin, made when first asked for."""
        return np.repeat(self.origin_R, self.count_R) + self._after_first

    @cached_property
    def series(self) -> Integers:
        """(W,) index of each series, made when first asked for."""
        return np.repeat(self.series_R, self.count_R)

    @cached_property
    def steps(self) -> Integers:
        """(W,) grid step of each origin, made when first asked for."""
        return np.repeat(self.step_R, self.count_R) + self._after_first

    def select(self, indices: Integers) -> Windows:
        """Some of the windows, in the order given."""
        run = np.searchsorted(np.cumsum(self.count_R), indices, side="right")
        after = self.stride * (indices - self.begins[run])
        return Windows.of(self.origin_R[run] + after, self.series_R[run], self.step_R[run] + after)

    def at_most(self, count: int) -> Windows:
        """All of them, or so many in the same order, drawn by chance and always the same ones.

        Every n-th origin could be the same hour of each day.
        """
        if len(self) <= count:
            return self
        generator = np.random.default_rng(0)
        return self.select(np.sort(generator.choice(len(self), count, replace=False)))

    @property
    def _after_first(self) -> Integers:
        """(W,) steps from the first origin of the run to each origin."""
        return self.stride * (np.arange(len(self)) - np.repeat(self.begins, self.count_R))


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
    steps = range(span.first - 1, min(span.last, panel.n_steps - 1) - horizon + 1, stride)
    runs = [_runs(panel, number, steps, lookback, horizon) for number in chosen]
    origin_R, series_R, step_R, count_R = np.concatenate([np.empty((4, 0), dtype=np.int64), *runs], axis=1)
    return Windows(origin_R, series_R, step_R, count_R, stride)


def shared_windows(panel: Panel, span: Span, lookbacks: Sequence[int], horizon: int) -> Windows:
    """The windows of a span at origins that make one for each of these lookbacks: who reads less is compared
    with who reads more on the same targets."""
    each = [windows(panel, span, lookback, horizon) for lookback in lookbacks]
    origins = reduce(np.intersect1d, [one.origins for one in each])
    return each[0].select(np.flatnonzero(np.isin(each[0].origins, origins)))


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
            series=panel.series[short] or None,
            column=panel.target,
            remedy=f"give at least {lookback} steps, or exclude the series.",
        )
    number = np.arange(len(panel.series), dtype=np.int64)
    return Windows.of(panel.offsets[1:] - 1, number, np.full_like(number, panel.n_steps - 1))


def targets(panel: Panel, windows: Windows, horizon: int) -> Floats:
    """(W, H) the target after each origin, in its own units; NaN where nothing was observed."""
    values: Floats = panel.values[windows.origins[:, None] + 1 + np.arange(horizon), 0]
    return values


def _runs(panel: Panel, number: int, steps: range, lookback: int, horizon: int) -> Integers:
    """(4, R) the runs of a series among these origins: origin, series, step and count of each."""
    first_step, offset = int(panel.first_steps[number]), int(panel.offsets[number])
    # From the first origin whose lookback lies within the series.
    steps = steps[max(0, -(-(first_step + lookback - 1 - steps.start) // steps.step)) :]
    rows = range(steps.start - first_step, steps.stop - first_step, steps.step)
    target_N, size = panel.values[panel.rows(number), 0], max(1, _PIECE // rows.step)
    pieces = (rows[place : place + size] for place in range(0, len(rows), size))
    edges = _edges(_usable(target_N, piece, lookback, horizon) for piece in pieces)
    begin_R, end_R = edges[::2], edges[1::2]
    row_R = rows.start + rows.step * begin_R
    return np.stack([offset + row_R, np.full_like(row_R, number), first_step + row_R, end_R - begin_R])


def _edges(pieces: Iterable[Booleans]) -> Integers:
    """Where True begins and where it ends, in turn, in booleans that come piece by piece."""
    edges, place, was = [], 0, False
    for piece in pieces:
        edges.append(place + np.flatnonzero(np.diff(piece, prepend=was)))
        place, was = place + len(piece), bool(piece[-1])
    return np.concatenate([*edges, np.full(int(was), place)])


def _usable(target_N: Floats, origins: range, lookback: int, horizon: int) -> Booleans:
    """(W,) whether enough was observed around each of these rows of a series."""
    first = origins[0] - lookback + 1
    # seen[i]: observed targets among the first i rows that these windows touch.
    seen = np.concatenate([[0], np.cumsum(~np.isnan(target_N[first : origins[-1] + 1 + horizon]))])
    after = np.arange(len(origins)) * origins.step + lookback
    inputs = seen[after] - seen[after - lookback]
    outputs = seen[after + horizon] - seen[after]
    usable: Booleans = (2 * inputs >= lookback) & (outputs >= 1)
    return usable
