"""Time is the only split: train | embargo | validation | embargo | judge, the judge span ending at as-of.

Spans hold the TARGET steps of windows, in grid steps of a panel. A window's lookback may reach back into an
earlier span: those steps are the past at its origin. Its targets never leave the span.
"""

from __future__ import annotations

from dataclasses import dataclass

from data.errors import DataRefused
from data.panel import Panel
from data.retrain import Retrain


@dataclass(frozen=True)
class Span:
    """Grid steps `first` to `last`, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Splits:
    """Search and early stopping see `train` and `validation`; only the gate sees `judge`."""

    train: Span
    validation: Span
    judge: Span


def split(panel: Panel, retrain: Retrain) -> Splits:
    """The spans of one night, counted back from the panel's last step.

    `train` begins at the panel's first step, or `retrain.train` before its own end where that is set.

    Raises:
        DataRefused: the training span holds no window of the longest lookback and one horizon.
    """
    grid, embargo = panel.frequency, retrain.embargo
    judge = _ending(panel.n_steps - 1, grid.steps(retrain.judge))
    validation = _ending(judge.first - 1 - embargo, grid.steps(retrain.validation))
    last = validation.first - 1 - embargo
    first = 0 if retrain.train is None else max(0, last - grid.steps(retrain.train) + 1)
    lookback = max(retrain.search_space.lookback)
    if last + 1 < lookback + retrain.horizon:
        needed = panel.n_steps - (last + 1) + lookback + retrain.horizon
        raise DataRefused(
            f"Too short: {panel.n_steps} steps of {grid.text}, a night needs {needed}: lookback {lookback}, "
            f"horizon {retrain.horizon}, validation {len(validation)}, judge {len(judge)}, "
            f"embargo 2 x {embargo}.",
            data_set=panel.data_set,
            time=grid.format(panel.start),
            remedy=f"add {needed - panel.n_steps} earlier steps, or shorten retrain.validation, "
            "retrain.judge or retrain.search_space.lookback in the catalog.",
        )
    if last - first + 1 < retrain.horizon:
        raise DataRefused(
            f"retrain.train of {retrain.train} is shorter than the horizon of {retrain.horizon} steps.",
            data_set=panel.data_set,
            remedy="lengthen retrain.train in the catalog, or leave it out to train on everything.",
        )
    return Splits(Span(first, last), validation, judge)


def _ending(last: int, steps: int) -> Span:
    """The span of `steps` steps that ends at `last`."""
    return Span(last - steps + 1, last)
