"""Pictures: whole, deterministic, and drawn also where there is little to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pictures import holds, pixels

from data.panel import Panel
from data.splits import Span
from lstm.search.study import TrialRow
from lstm.tracking import report
from lstm.tracking.forecast import Forecast
from lstm.windows import targets, windows

MakePanel = Callable[..., Panel]
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SPREAD = np.array([-1.0, -0.4, 0.0, 0.4, 1.0])


def forecast_of(panel: Panel, horizon: int = 24, version: str | None = "3") -> Forecast:
    level = np.array([panel.values[end - 1, 0] for end in panel.offsets[1:]])
    values = np.nan_to_num(level, nan=1.0)[:, None, None] + np.ones((1, horizon, 1)) * SPREAD
    times = panel.frequency.times(panel.frequency.shift(panel.as_of, 1), horizon)
    return Forecast("made", version, "", panel.frequency, panel.series, times, QUANTILES, values)


def row(number: int, state: str = "finished", epochs: int = 5, value: float | None = None) -> TrialRow:
    curve = tuple(0.3 - 0.01 * number + 0.1 / (epoch + 1) for epoch in range(epochs))
    best = min(curve) if curve and state == "finished" else value
    return TrialRow(number, state, best, {}, curve, tuple(loss - 0.05 for loss in curve), 1.0, "")


@pytest.mark.parametrize("frequency", ["h", "15min", "D", "W", "MS"])
def test_newest_forecast(make_panel: MakePanel, frequency: str) -> None:
    panel = make_panel(steps=150, frequency=frequency, missing=0.1)
    picture = report.newest_forecast(panel, forecast_of(panel))
    assert picture == report.newest_forecast(panel, forecast_of(panel))
    assert pixels(picture).shape == (660, 1350, 3)
    assert holds(picture, report.BLUE)
    assert holds(picture, report.INK)


def test_newest_forecast_shows_the_first_series(make_panel: MakePanel) -> None:
    panel = make_panel(steps=60, series=("a", "b", "c", "d", "e", "f"), first_steps=(0, 50, 0, 0, 0, 0))
    picture = report.newest_forecast(panel, forecast_of(panel, horizon=6, version=None))
    assert pixels(picture).shape[0] == int(150 * (1.4 + 1.9 * 4))


def test_newest_forecast_of_one_step_and_no_observation(make_panel: MakePanel) -> None:
    panel = make_panel(steps=60)
    panel.values[:] = np.nan
    assert holds(report.newest_forecast(panel, forecast_of(panel, horizon=1)), report.BLUE)


def test_judge_windows(make_panel: MakePanel) -> None:
    panel = make_panel(steps=300, series=("a", "b"), missing=0.1)
    some = windows(panel, Span(150, 299), 24, 12)
    y_WH = targets(panel, some, 12)
    forecast_WHQ = np.nan_to_num(y_WH, nan=10.0)[..., None] + SPREAD
    picture = report.judge_windows(panel, some, y_WH, forecast_WHQ, QUANTILES, "champion")
    assert holds(picture, report.AMBER)
    assert holds(picture, report.INK)
    blank = report.judge_windows(panel, some, np.full_like(y_WH, np.nan), forecast_WHQ, QUANTILES)
    assert holds(blank, report.BLUE)


def test_windows_shown_do_not_overlap(make_panel: MakePanel) -> None:
    panel = make_panel(steps=300, series=("a", "b"))
    some = windows(panel, Span(150, 299), 24, 12)
    some = some.select(np.random.default_rng(0).permutation(len(some)))
    chosen = report.apart(some, 1, 12)
    assert len(chosen) == 7
    assert set(some.series[chosen]) == {1}
    assert some.steps[chosen[-1]] == 299 - 12
    assert (np.diff(some.steps[chosen]) == 12).all()
    assert report.apart(some, 1, 100) == chosen[-1:] or len(report.apart(some, 1, 100)) == 2


@pytest.mark.parametrize("horizon", [1, 24])
def test_error_by_step(horizon: int) -> None:
    maes = {"challenger": [0.5] * horizon, "champion": [0.6] * horizon, "linear": [float("nan")] * horizon}
    picture = report.error_by_step({**maes, "seasonal_naive": [0.7] * horizon}, "made")
    for colour in (report.BLUE, report.AMBER, report.TEAL, report.GREY):
        assert holds(picture, colour)


@pytest.mark.parametrize("horizon", [1, 24])
def test_coverage_by_step(horizon: int) -> None:
    covers = {"challenger": [0.78] * horizon, "champion": [0.6] * horizon, "linear": [float("nan")] * horizon}
    picture = report.coverage_by_step({**covers, "seasonal_naive": [1.0] * horizon}, (0.1, 0.5, 0.9), "made")
    for colour in (report.BLUE, report.AMBER, report.TEAL, report.GREY, report.GRID):
        assert holds(picture, colour)


def test_study_history() -> None:
    trials = [row(0), row(1, "pruned", epochs=2), row(2, "failed", epochs=1), row(3), row(4, "running", 0)]
    picture = report.study_history(trials, {"hidden_size": 0.7, "cell": 0.3}, "made")
    for colour in (report.BLUE, report.GREY, report.RED, report.INK):
        assert holds(picture, colour)
    assert not holds(report.study_history(trials[:2], {}, "made"), report.RED)


def test_study_without_a_finished_trial() -> None:
    failed = row(0, "failed", epochs=0)
    pixels(report.study_history([failed], {}, "made"))
    pixels(report.study_history([], {}, "made"))


def test_loss_curves() -> None:
    trials = [row(number) for number in range(4)]
    wild = replace(row(4, "failed", 3), curve=(0.4, 900.0, float("inf")))
    picture = report.loss_curves([*trials, wild, row(5, "failed", 0), row(6, "pruned", 1)], 3, "made")
    assert holds(picture, report.BLUE)
    assert holds(report.loss_curves([row(0, epochs=1)], 0, "made"), report.BLUE)
    pixels(report.loss_curves([], 0, "made"))
