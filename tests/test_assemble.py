"""Rows become a panel, as for serving."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import meter
import numpy as np
import polars as pl
import pytest
from meter import AS_OF, START, Frame, rows

from data.catalog import DataSet
from data.contract import build_panel
from data.layout import layout_of

Declare = Callable[..., DataSet]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    return partial(meter.declare, tmp_path)


def normalised(steps: list[int], series: list[str], values: list[float | None]) -> Frame:
    times = [START + timedelta(hours=step) for step in steps]
    return pl.DataFrame(
        {"series": series, "time": times, "load": values, "wind": values},
        schema={
            "series": pl.String,
            "time": pl.Datetime("us", "UTC"),
            "load": pl.Float64,
            "wind": pl.Float64,
        },
    )


def test_each_row_goes_to_its_series_and_step(declare: Declare) -> None:
    declared = declare(rows())
    frame = normalised([3, 1, 2, 5], ["b", "a", "b", "b"], [3.0, 1.0, None, 5.0])
    as_of = np.datetime64("2024-01-01T06", "us")
    panel = build_panel(layout_of(declared), declared.grid, frame, as_of)
    assert panel.series == ("a", "b")
    assert panel.first_steps.tolist() == [0, 1]
    assert panel.start == np.datetime64("2024-01-01T01", "us")
    expected = [1.0, *[np.nan] * 5, np.nan, 3.0, np.nan, 5.0, np.nan]
    np.testing.assert_array_equal(panel.values, np.array([expected, expected]).T)
    assert panel.as_of == as_of


def test_a_panel_needs_rows_and_none_after_its_end(declare: Declare) -> None:
    declared = declare(rows())
    layout, grid = layout_of(declared), declared.grid
    with pytest.raises(ValueError, match="at least one row"):
        build_panel(layout, grid, normalised([], [], []), AS_OF)
    with pytest.raises(ValueError, match=r"2024-01-01 04:00\+00:00 is later than 2024-01-01 03:00"):
        build_panel(layout, grid, normalised([4], ["a"], [1.0]), np.datetime64("2024-01-01T03", "us"))
