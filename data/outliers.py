"""Values absurdly far from the rest of their series and column, which may be errors of the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.findings import Finding
from data.panel import Booleans, Floats, Panel

FEWEST = 50
"""Values from which on there is a rest to be far from."""
MOST = 0.2
"""Share of values that may lie far from the others."""
APART = 10
"""How many times farther from the median than any other value those lie that may be reported."""
REPEATS, SCALE = 5, 3
"""How often a value that stands for a missing one occurs, and how many times larger than any other it is."""
LONE_APART, LONE_SCALE = 100, 20
"""How much farther and larger a value is that occurs less often; a quiet series may shift its level."""
LONE_MOST, TELLING = 0.01, 20
"""How many such values there may be, as a share of the others off the median, and fewest of those."""


@dataclass(frozen=True)
class _Far:
    """Outliers of one series and column: their first row in it, its value, and the range of all others."""

    row: int
    value: float
    low: float
    high: float
    count: int


def outliers(panel: Panel) -> list[Finding]:
    """A finding for each column with values that lie absurdly far from the others of their series.

    Nobody can be sure of an error, so nothing is refused. Large rare values are what there is to forecast of
    sparse and of heavy-tailed demand: what counts is an empty space between them and all others.
    """
    findings = []
    for column, name in enumerate(panel.columns):
        found = {}
        for number in range(len(panel.series)):
            far = _far(panel.values[panel.rows(number), column])
            if far:
                found[number] = far
        if found:
            number, first = next(iter(found.items()))
            step = int(panel.first_steps[number]) + first.row
            also = f", as do values of {len(found) - 1} more series" if len(found) > 1 else ""
            findings.append(
                Finding(
                    f"{first.value:.10g} lies far outside the usual {first.low:.4g} to {first.high:.4g}{also}"
                    "; leave it empty in the source if it is an error",
                    series=panel.series[number] or None,
                    column=name,
                    time=panel.frequency.format(panel.frequency.shift(panel.start, step)),
                    count=sum(far.count for far in found.values()),
                )
            )
    return findings


def _far(column: Floats) -> _Far | None:
    """The outliers of one column of one series, if there are any."""
    rows = np.flatnonzero(~np.isnan(column))
    values = column[rows]
    if values.size < FEWEST:
        return None
    outside = _outside(values)
    if not outside.any():
        return None
    first, others = int(outside.argmax()), values[~outside]
    low, high = float(others.min()), float(others.max())
    return _Far(int(rows[first]), float(values[first]), low, high, int(outside.sum()))


def _outside(values: Floats) -> Booleans:
    """Where values lie beyond an empty space that begins where all others end, and look like errors."""
    median = float(np.median(values))
    distances = np.abs(values - median)
    most = int(MOST * values.size)
    farthest = np.sort(np.partition(distances, -most - 1)[-most - 1 :])
    ends = farthest[:-1][(farthest[1:] / APART >= farthest[:-1]) & (farthest[:-1] > 0)]
    for end in ends:
        outside: Booleans = distances > end
        if _look_like_errors(values[outside], values[~outside], median):
            return outside
    return np.zeros(values.size, dtype=bool)


def _look_like_errors(far: Floats, others: Floats, median: float) -> bool:
    """Whether each stands for a missing value, as -9999 again and again, or is one of very few wild ones."""
    distances, scale = np.abs(others - median), np.abs(others).max()
    kinds, counts = np.unique(far, return_counts=True)
    # Of sparse values, only those off the median say how far the usual ones reach; where most are alike,
    # large orders of one size are rare as well.
    telling = np.count_nonzero(distances)
    is_large = (np.abs(kinds) >= SCALE * scale) & (2 * telling > others.size)
    is_placeholder = (counts >= REPEATS) & (is_large | ((kinds < 0) & (others.min() >= 0)))
    is_wild = np.abs(kinds - median) >= LONE_APART * distances.max()
    is_wild &= np.abs(kinds) >= LONE_SCALE * scale
    wild = counts[~is_placeholder].sum()
    are_few = wild <= max(1, LONE_MOST * telling) and telling >= TELLING
    return bool(np.all(is_placeholder | is_wild) and (are_few or wild == 0))
