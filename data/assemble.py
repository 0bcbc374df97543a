"""From normalised rows to a panel: each row goes to its series and grid step, the rest stays missing."""

from __future__ import annotations

import numpy as np
import polars as pl

from data.calendar import Frequency
from data.layout import Layout
from data.panel import Panel


def build_panel(
    layout: Layout,
    frequency: Frequency,
    frame: pl.DataFrame,
    as_of: np.datetime64,
    static: pl.DataFrame | None = None,
) -> Panel:
    """The panel of checked rows, series in the order of their ids, ending at `as_of`.

    A series begins at its first row. Steps without a row, up to `as_of`, are NaN. Later rows give what is
    known ahead: future covariates.

    Args:
        layout: the roles of the columns.
        frequency: the grid.
        frame: normalised rows (`series`, `time`, target, covariates), at most one a series and step.
        as_of: the last grid step.
        static: a row for each series, from `data.static.static_values`; unset where there are none.

    Raises:
        ValueError: a series has no row at or before `as_of`, or there is none; or a row is later and the
            layout has no future covariates.
    """
    if frame.is_empty():
        raise ValueError("a panel needs at least one row")
    times = frame["time"].dt.replace_time_zone(None).to_numpy()
    start = frequency.floor(times.min(keepdims=True))[0]
    n_steps = int(frequency.steps_between(start, np.array([as_of]))[0]) + 1
    steps = frequency.steps_between(start, times)
    if steps.max() >= n_steps and not layout.future:
        raise ValueError(f"a row at {frequency.format(times.max())} is later than {frequency.format(as_of)}")
    ids = frame["series"].unique().sort()
    # By number: as NumPy texts, the ids would take many times the memory of the values.
    series = frame["series"].cast(pl.Enum(ids)).to_physical().cast(pl.Int64).to_numpy()
    first_steps = np.full(len(ids), n_steps, dtype=np.int64)
    np.minimum.at(first_steps, series, steps)
    offsets = np.concatenate([[0], np.cumsum(n_steps - first_steps)]).astype(np.int64)
    values = np.full((int(offsets[-1]), len(layout.values)), np.nan)
    is_past, given = steps < n_steps, _matrix(frame, layout.values)
    values[(offsets[series] + steps - first_steps[series])[is_past]] = given[is_past]
    n_ahead = max(int(steps.max()) + 1 - n_steps, 0) if layout.future else 0
    ahead = np.full((len(ids), n_ahead, len(layout.future)), np.nan)
    known = given[~is_past, len(layout.values) - len(layout.future) :]
    ahead[series[~is_past], steps[~is_past] - n_steps] = known
    return Panel(
        data_set=layout.data_set,
        frequency=frequency,
        target=layout.target,
        covariates=layout.covariates,
        series=tuple(ids),
        start=start,
        first_steps=first_steps,
        offsets=offsets,
        values=values,
        future=layout.future,
        ahead=ahead,
        static=_features(ids, static),
        holidays=layout.holidays,
    )


def _features(ids: pl.Series, static: pl.DataFrame | None) -> dict[str, tuple[float | str, ...]]:
    """Static features by name, in the order of these series."""
    if static is None:
        return {}
    own = pl.DataFrame({"series": ids}).join(static, on="series", how="left", maintain_order="left")
    return {name: tuple(own[name]) for name in static.columns if name != "series"}


def _matrix(
    frame: pl.DataFrame, columns: tuple[str, ...]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(rows, C) values, NaN where missing."""
    return frame.select(pl.col(columns).cast(pl.Float64).fill_null(float("nan"))).to_numpy()
