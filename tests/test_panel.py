"""Panel: flat rows, ragged starts, one grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.panel import Panel

MakePanel = Callable[..., Panel]


@given(starts=st.lists(st.integers(0, 9), min_size=1, max_size=5), steps=st.integers(10, 30))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_stands_for_one_series_and_step(
    make_panel: MakePanel, starts: list[int], steps: int
) -> None:
    ids = tuple(f"s{number}" for number in range(len(starts)))
    panel = make_panel(steps=steps, series=ids, first_steps=tuple(starts))
    seen = [panel.row(s, step) for s, first in enumerate(starts) for step in range(first, steps)]
    assert seen == list(range(len(panel.values)))
    assert [panel.rows(s).stop - panel.rows(s).start for s in range(len(ids))] == [steps - f for f in starts]
    assert panel.n_steps == steps


def test_names_times_and_mask(make_panel: MakePanel) -> None:
    panel = make_panel(steps=48, covariates=("wind",), missing=0.3)
    assert panel.columns == ("load", "wind")
    assert panel.as_of == np.datetime64("2024-01-02T23:00", "us") == panel.times()[-1]
    assert panel.times()[0] == panel.start
    assert len(panel.times()) == 48
    np.testing.assert_array_equal(panel.observed, ~np.isnan(panel.values))
    assert not panel.observed.all()


@pytest.mark.parametrize("step", [-1, 2, 10])
def test_no_row_outside_a_series(make_panel: MakePanel, step: int) -> None:
    panel = make_panel(steps=10, series=("early", "late"), first_steps=(0, 3))
    assert panel.row(1, 3) == 10
    with pytest.raises(IndexError, match=rf"'late' has no row at grid step {step}"):
        panel.row(1, step)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"series": ("a",)}, "one first step"),
        ({"first_steps": np.array([0])}, "one first step"),
        ({"values": np.zeros((20, 2))}, "do not fit"),
        ({"values": np.zeros((19, 1))}, "do not fit"),
        ({"offsets": np.array([1, 10, 20])}, "do not fit"),
        ({"offsets": np.array([0, 9, 20])}, "last row"),
        ({"first_steps": np.array([0, 1])}, "last row"),
        ({"offsets": np.array([0, 0, 20]), "first_steps": np.array([20, 0])}, "needs a row"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    make_panel: MakePanel, change: dict[str, object], problem: str
) -> None:
    panel = make_panel(steps=10, series=("a", "b"))
    with pytest.raises(ValueError, match=problem):
        replace(panel, **change)


def test_some_series_on_the_same_grid(make_panel: MakePanel) -> None:
    panel = make_panel(steps=10, series=("a", "b", "c"), first_steps=(0, 3, 5), covariates=("wind",))
    some = panel.select(("c", "a"))
    assert (some.series, some.first_steps.tolist(), some.offsets.tolist()) == (("c", "a"), [5, 0], [0, 5, 15])
    assert (some.start, some.n_steps) == (panel.start, 10)
    np.testing.assert_array_equal(some.values[some.rows(0)], panel.values[panel.rows(2)])
    np.testing.assert_array_equal(some.values[some.rows(1)], panel.values[panel.rows(0)])
    with pytest.raises(ValueError, match="d"):
        panel.select(["d"])
    with pytest.raises(ValueError, match="one first step"):
        panel.select([])


def test_a_panel_cut_after_a_step(make_panel: MakePanel) -> None:
    panel = make_panel(steps=10, series=("a", "b", "c"), first_steps=(0, 3, 4))
    cut = panel.until(3)
    assert (cut.series, cut.first_steps.tolist(), cut.n_steps) == (("a", "b"), [0, 3], 4)
    np.testing.assert_array_equal(cut.values[cut.rows(0)], panel.values[:4])
    np.testing.assert_array_equal(cut.values[cut.rows(1)], panel.values[[panel.row(1, 3)]])
    assert cut.as_of == panel.times()[3]
    with pytest.raises(ValueError, match="one first step"):
        panel.until(-1)
