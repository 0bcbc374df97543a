"""A panel: several series on one time grid, as flat rows. No torch, no frames.

Axes: N rows over all series, C columns (the target first), S series, T grid steps, A steps ahead of the
last one, K future covariates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from data.calendar import Frequency

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Times = NDArray[np.datetime64]


# Arrays have no single truth value, so panels compare by identity; `data.snapshot.digest` compares contents.
@dataclass(frozen=True, eq=False)
class Panel:
    """Checked data on one grid. Series may start late (ragged starts); all end at the last step.

    Only future covariates reach beyond that step: they are known ahead of it.

    Rows of series ``s`` are ``offsets[s]:offsets[s + 1]`` and stand for the grid steps
    ``first_steps[s] .. n_steps - 1``, one row a step.

    Args:
        data_set: the catalog name.
        frequency: the grid's step and time zone.
        target: the name of column 0.
        covariates: the names of the past covariates, the columns after the target.
        series: the ids; ``("",)`` for a data set without a series column.
        start: the UTC time of grid step 0 (``datetime64[us]``).
        first_steps: (S,) the grid step of each series' first row.
        offsets: (S + 1,) the first row of each series, then N.
        values: (N, C) in the data's own units; NaN where nothing was observed.
        future: the names of the future covariates, the last K columns.
        ahead: (S, A, K) their values in the steps after the last; NaN where they are not given.
        static: static features by name, a number or a category for each of the S series.
        holidays: whose holidays the calendar knows (`data.holidays`).

    Raises:
        ValueError: the arrays do not fit together.
    """

    data_set: str
    frequency: Frequency
    target: str
    covariates: tuple[str, ...]
    series: tuple[str, ...]
    start: np.datetime64
    first_steps: Integers
    offsets: Integers
    values: Floats
    future: tuple[str, ...] = ()
    ahead: Floats = field(default_factory=lambda: np.empty((0, 0, 0)))
    static: Mapping[str, tuple[float | str, ...]] = field(default_factory=dict)
    holidays: str | None = None

    def __post_init__(self) -> None:
        lengths = np.diff(self.offsets)
        if not len(self.series) == len(self.first_steps) == len(lengths) > 0:
            raise ValueError("a panel needs one first step, and an offset before and after, for each series")
        if self.values.shape != (self.offsets[-1], len(self.columns)) or self.offsets[0] != 0:
            raise ValueError(
                f"values {self.values.shape} do not fit the offsets and {len(self.columns)} columns"
            )
        if (lengths < 1).any() or np.unique(self.first_steps + lengths).size != 1:
            raise ValueError("every series needs a row, and its last row at the panel's last step")
        if self.ahead.size and self.ahead.shape[::2] != (len(self.series), len(self.future)):
            raise ValueError(
                f"values ahead {self.ahead.shape} do not fit {len(self.future)} future covariates"
            )
        if any(len(values) != len(self.series) for values in self.static.values()):
            raise ValueError("a static feature needs a value for each series")

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names: target, past covariates, future covariates."""
        return (self.target, *self.covariates, *self.future)

    @property
    def observed(self) -> Booleans:
        """(N, C) True where a value was observed."""
        return ~np.isnan(self.values)

    @property
    def n_ahead(self) -> int:
        """A: steps after the last one for which future covariates may be given."""
        return int(self.ahead.shape[1])

    @property
    def n_steps(self) -> int:
        """T: grid steps from `start` to the last step, both included."""
        return int(self.first_steps[0] + self.offsets[1] - self.offsets[0])

    @property
    def as_of(self) -> np.datetime64:
        """The UTC time of the last step."""
        return self.frequency.shift(self.start, self.n_steps - 1)

    def times(self) -> Times:
        """(T,) the UTC time of every grid step."""
        return self.frequency.times(self.start, self.n_steps)

    def rows(self, series: int) -> slice:
        """The flat rows of a series, oldest first."""
        return slice(int(self.offsets[series]), int(self.offsets[series + 1]))

    def row(self, series: int, step: int) -> int:
        """The flat row of a series at a grid step.

        Raises:
            IndexError: the series has no row at that step.
        """
        first = int(self.first_steps[series])
        if not first <= step < self.n_steps:
            raise IndexError(f"series {self.series[series]!r} has no row at grid step {step}")
        return int(self.offsets[series]) + step - first

    def select(self, names: Sequence[str]) -> Panel:
        """The panel of some of its series, in the order given, on the same grid.

        Raises:
            ValueError: an unknown series, or none.
        """
        numbers = [self.series.index(name) for name in names]
        selected = self._of([self.values[self.rows(number)] for number in numbers], numbers)
        return replace(selected, ahead=self.ahead[numbers]) if self.ahead.size else selected

    def until(self, step: int) -> Panel:
        """The panel cut after a grid step, with nothing ahead; series that have not begun are left out.

        Raises:
            ValueError: no series has begun.
        """
        numbers = [number for number, first in enumerate(self.first_steps) if first <= step]
        parts = [self.values[self.rows(number)] for number in numbers]
        return self._of(
            [part[: step + 1 - int(self.first_steps[n])] for n, part in zip(numbers, parts, strict=True)],
            numbers,
        )

    def _of(self, parts: Sequence[Floats], numbers: Sequence[int]) -> Panel:
        """A panel of these rows, which belong to these series of this one."""
        lengths = [0, *(len(part) for part in parts)]
        return replace(
            self,
            series=tuple(self.series[number] for number in numbers),
            first_steps=self.first_steps[list(numbers)],
            offsets=np.cumsum(lengths, dtype=np.int64),
            values=np.concatenate([np.empty((0, len(self.columns))), *parts]),
            ahead=np.empty((0, 0, 0)),
            static={
                name: tuple(values[number] for number in numbers) for name, values in self.static.items()
            },
        )
