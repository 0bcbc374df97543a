"""Windows against a slow, plain reading of their rule, and where the future may reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataRefused
from data.panel import Panel
from data.splits import Span
from lstm.windows import Windows, newest, targets, windows

MakePanel = Callable[..., Panel]


def plainly(panel: Panel, span: Span, lookback: int, horizon: int, stride: int) -> list[tuple[int, int, int]]:
    """The rule of `windows`, one origin at a time."""
    found = []
    for number in range(len(panel.series)):
        for step in range(span.first - 1, span.last + 1, stride):
            if step - lookback + 1 < panel.first_steps[number]:
                continue
            if step + horizon > min(span.last, panel.n_steps - 1):
                continue
            row = panel.row(number, step)
            seen = panel.observed[:, 0]
            if seen[row - lookback + 1 : row + 1].sum() * 2 < lookback:
                continue
            if seen[row + 1 : row + 1 + horizon].any():
                found.append((row, number, step))
    return found


def rows(windows: Windows) -> list[tuple[int, int, int]]:
    """Origin, series and step of each window."""
    return list(zip(windows.origins.tolist(), windows.series.tolist(), windows.steps.tolist(), strict=True))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.integers(0, 50),
    length=st.integers(1, 70),
    lookback=st.integers(1, 12),
    horizon=st.integers(1, 6),
    stride=st.integers(1, 5),
    late=st.integers(0, 40),
    missing=st.sampled_from([0.0, 0.2, 0.5, 0.8]),
    seed=st.integers(0, 99),
    piece=st.sampled_from([1, 7, 65_536]),
)
def test_windows_follow_the_rule(
    make_panel: MakePanel,
    first: int,
    length: int,
    lookback: int,
    horizon: int,
    stride: int,
    late: int,
    missing: float,
    seed: int,
    piece: int,
) -> None:
    panel = make_panel(
        steps=60, series=("a", "b"), covariates=("wind",), first_steps=(0, late), missing=missing, seed=seed
    )
    span = Span(first, first + length - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lstm.windows._PIECE", piece)
        found = windows(panel, span, lookback, horizon, stride)
    expected = plainly(panel, span, lookback, horizon, stride)
    assert rows(found) == expected
    assert len(found) == len(expected)
    if expected:
        assert found.last_step == max(step for _, _, step in expected)
    # As few runs as there can be: no two that could be one.
    joins = (np.diff(found.origins) == stride) & (np.diff(found.series) == 0)
    assert len(found.count_R) == len(found) - joins.sum()
    assert (found.count_R > 0).all()


@given(
    chosen=st.lists(st.integers(0, 83)),
    stride=st.integers(1, 3),
)
def test_a_selection_is_what_was_chosen_in_its_order(chosen: list[int], stride: int) -> None:
    first, count = np.array([10, 200, 300]), np.array([4, 50, 30])
    whole = Windows(first, np.array([0, 0, 1]), first - 10, count, stride)
    some = whole.select(np.array(chosen, dtype=np.int64))
    assert rows(some) == [rows(whole)[number] for number in chosen]
    assert len(some) == len(chosen)
    assert rows(Windows.of(whole.origins, whole.series, whole.steps)) == rows(whole)


def test_a_series_without_gaps_is_one_run(make_panel: MakePanel) -> None:
    panel = make_panel(steps=400, series=("a", "b"))
    found = windows(panel, Span(0, 399), 24, 6)
    assert found.count_R.tolist() == [371, 371]
    one_by_one = Windows.of(found.origins, found.series, found.steps)
    assert one_by_one.count_R.tolist() == [371, 371]


def test_targets_fill_the_span_and_never_leave_it(make_panel: MakePanel) -> None:
    panel = make_panel(steps=100)
    found = windows(panel, Span(60, 79), lookback=24, horizon=6)
    assert found.steps[0] + 1 == 60
    assert found.steps[-1] + 6 == 79
    assert len(found) == 15


def test_a_span_beyond_the_data_gives_only_windows_that_have_targets(make_panel: MakePanel) -> None:
    panel = make_panel(steps=100)
    assert windows(panel, Span(90, 150), lookback=24, horizon=6).steps[-1] == 93
    assert len(windows(panel, Span(100, 150), lookback=24, horizon=6)) == 0


def test_origins_are_the_same_steps_for_all_series(make_panel: MakePanel) -> None:
    panel = make_panel(steps=100, series=("a", "b"), first_steps=(0, 31))
    found = windows(panel, Span(20, 99), lookback=10, horizon=5, stride=7)
    one, two = (set(found.steps[found.series == number]) for number in (0, 1))
    assert two < one


def test_chosen_series_only(make_panel: MakePanel) -> None:
    panel = make_panel(steps=50, series=("a", "b", "c"))
    found = windows(panel, Span(30, 49), 10, 5, series=[2, 0])
    assert set(found.series) == {0, 2}
    assert len(windows(panel, Span(30, 49), 10, 5, series=[])) == 0


def test_a_window_half_unseen_is_kept_and_one_less_seen_is_not(make_panel: MakePanel) -> None:
    panel = make_panel(steps=30)
    values = panel.values.copy()
    values[10:15, 0] = np.nan
    panel = replace(panel, values=values)
    span = Span(20, 25)
    assert 19 in windows(panel, span, lookback=10, horizon=2).steps
    values[15, 0] = np.nan
    assert 19 not in windows(panel, span, lookback=10, horizon=2).steps


def test_targets_are_the_values_after_the_origin(make_panel: MakePanel) -> None:
    panel = make_panel(steps=60, series=("a", "b"), covariates=("wind",), missing=0.1)
    found = windows(panel, Span(30, 59), lookback=10, horizon=4)
    y_WH = targets(panel, found, 4)
    for number in (0, len(found) - 1):
        row = found.origins[number]
        np.testing.assert_array_equal(y_WH[number], panel.values[row + 1 : row + 5, 0])
    assert y_WH.shape == (len(found), 4)


def test_newest_ends_at_the_as_of_step_of_every_series(make_panel: MakePanel) -> None:
    panel = make_panel(steps=50, series=("a", "b"), first_steps=(0, 40))
    found = newest(panel, lookback=10)
    assert found.origins.tolist() == [49, 59]
    assert found.series.tolist() == [0, 1]
    assert found.steps.tolist() == [49, 49]


def test_newest_refuses_a_series_shorter_than_the_lookback(make_panel: MakePanel) -> None:
    panel = make_panel(steps=50, series=("a", "b"), first_steps=(0, 41))
    with pytest.raises(DataRefused, match=r"made, series b, column load: 9 steps up to .* reads 10"):
        newest(panel, lookback=10)
