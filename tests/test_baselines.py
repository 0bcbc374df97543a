"""Baselines: the future never changes a forecast, and simple data is forecast exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from data.splits import Span
from lstm.evaluation import metrics
from lstm.evaluation.baselines import (
    fit_linear,
    naive_scale,
    residual_quantiles,
    ridge,
    seasonal_naive,
    with_quantiles,
)
from lstm.windows import Windows, targets, windows

nan = float("nan")
relaxed = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)


def at(panel, *steps, series=0):
    """Windows at these grid steps of one series."""
    rows = np.array([panel.row(series, step) for step in steps], dtype=np.int64)
    return Windows.of(rows, np.full_like(rows, series), np.array(steps, dtype=np.int64))


def with_target(panel, values):
    changed = panel.values.copy()
    changed[:, 0] = values
    return replace(panel, values=changed)


@relaxed
@given(data=st.data())
def test_the_naive_is_the_newest_observed_value_of_the_phase(make_panel, data):
    season, horizon = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 10))
    starts = (0, data.draw(st.integers(0, 20)))
    panel = make_panel(
        steps=40, series=("a", "b"), first_steps=starts, missing=0.4, seed=data.draw(st.integers(0, 99))
    )
    series, origin = data.draw(st.integers(0, 1)), data.draw(st.integers(21, 39))
    got = seasonal_naive(panel, at(panel, origin, series=series), horizon, season)[0]
    values = {step: panel.values[panel.row(series, step), 0] for step in range(starts[series], origin + 1)}
    seen = {step: value for step, value in values.items() if not np.isnan(value)}
    for ahead in range(1, horizon + 1):
        same = [step for step in seen if (origin + ahead - step) % season == 0]
        expected = seen[max(same or seen)] if seen else nan
        np.testing.assert_equal(got[ahead - 1], expected)


@relaxed
@given(origin=st.integers(60, 90), seed=st.integers(0, 9))
def test_the_future_changes_no_forecast(make_panel, origin, seed):
    panel = make_panel(steps=120, missing=0.1, seed=seed)
    after = np.arange(120) > origin
    other = with_target(panel, np.where(after, 1e6, panel.values[:, 0]))
    window = at(panel, origin)
    linear = fit_linear(panel, windows(panel, Span(0, 55), 24, 6), 24, 6)
    np.testing.assert_array_equal(
        seasonal_naive(panel, window, 30, 24), seasonal_naive(other, window, 30, 24)
    )
    np.testing.assert_array_equal(linear.forecast(panel, window), linear.forecast(other, window))
    again = fit_linear(other, windows(other, Span(0, 55), 24, 6), 24, 6)
    np.testing.assert_array_equal(linear.forecast(panel, window), again.forecast(panel, window))
    np.testing.assert_array_equal(naive_scale(panel, 24, origin), naive_scale(other, 24, origin))


def test_the_naive_repeats_a_pure_season(make_panel):
    panel = make_panel(steps=200, noise=0.0)
    chosen = windows(panel, Span(100, 199), 48, 60)
    np.testing.assert_allclose(seasonal_naive(panel, chosen, 60, 24), targets(panel, chosen, 60))


def test_the_naive_has_mase_one_on_its_own_scale(make_panel):
    panel = make_panel(steps=500, series=("a", "b"), first_steps=(0, 100), noise=0.5)
    # One step ahead from every origin are exactly the pairs that the scale averages.
    for number, first in enumerate((0, 100)):
        chosen = at(panel, *range(first + 23, 499), series=number)
        scale = naive_scale(panel, 24, 499)[chosen.series]
        forecast = seasonal_naive(panel, chosen, 1, 24)
        assert metrics.mase(targets(panel, chosen, 1), forecast, scale) == pytest.approx(1)


def test_naive_scale_stops_at_the_last_step_and_needs_a_pair(make_panel):
    panel = with_target(make_panel(steps=8), [0.0, 1.0, 3.0, nan, 7.0, 100.0, 0.0, 0.0])
    assert naive_scale(panel, 2, 4) == pytest.approx([3.5])  # |3 - 0| and |7 - 3|; step 3 is missing
    assert np.isnan(naive_scale(panel, 2, 1)).all()
    late = make_panel(steps=30, series=("a", "b"), first_steps=(0, 25))
    assert np.isnan(naive_scale(late, 2, 20)).tolist() == [False, True]


def test_naive_falls_back_on_any_phase_then_on_nothing(make_panel):
    panel = with_target(make_panel(steps=8), [nan, 5.0, nan, nan, nan, nan, 6.0, 7.0])
    assert seasonal_naive(panel, at(panel, 5), 4, 4).tolist() == [[5.0, 5.0, 5.0, 5.0]]
    panel = with_target(panel, [nan, nan, nan, nan, 1.0, 2.0, 3.0, 4.0])
    assert np.isnan(seasonal_naive(panel, at(panel, 3), 2, 2)).all()


def test_the_naive_never_reads_another_series(make_panel):
    panel = make_panel(steps=30, series=("a", "b"), first_steps=(0, 27))
    got = seasonal_naive(panel, at(panel, 28, series=1), 24, 24)
    own = panel.values[panel.row(1, 27) : panel.row(1, 28) + 1, 0]
    assert set(got.ravel().tolist()) <= set(own.tolist())


def test_linear_learns_a_wave_exactly(make_panel):
    panel = make_panel(steps=600, series=("a", "b"), noise=0.0)
    linear = fit_linear(panel, windows(panel, Span(0, 399), 48, 12), 48, 12)
    chosen = windows(panel, Span(400, 599), 48, 12)
    np.testing.assert_allclose(linear.forecast(panel, chosen), targets(panel, chosen, 12), atol=0.02)


def test_linear_of_one_step_keeps_its_axis(make_panel):
    panel = make_panel(steps=200)
    chosen = windows(panel, Span(0, 199), 24, 1)
    assert fit_linear(panel, chosen, 24, 1).forecast(panel, chosen).shape == (len(chosen), 1)


def test_linear_beats_the_naive_on_a_noisy_wave_with_gaps(make_panel):
    panel = make_panel(steps=2000, noise=0.5, missing=0.1)
    linear = fit_linear(panel, windows(panel, Span(0, 1499), 48, 24), 48, 24)
    chosen = windows(panel, Span(1500, 1999), 48, 24)
    y = targets(panel, chosen, 24)
    assert metrics.mae(y, linear.forecast(panel, chosen)) < 0.85 * metrics.mae(
        y, seasonal_naive(panel, chosen, 24, 24)
    )


def test_linear_gives_unobserved_targets_no_weight(make_panel):
    """A window without one observed target would teach that nothing ever changes."""
    panel = make_panel(steps=600, noise=0.0)
    broken = panel.values.copy()
    broken[300:360] = nan
    holed = replace(panel, values=broken)
    good, bad = windows(panel, Span(0, 299), 24, 6), at(panel, 310, 320, 330)
    both = Windows.of(
        *(np.concatenate([getattr(good, k), getattr(bad, k)]) for k in ("origins", "series", "steps"))
    )
    test = windows(panel, Span(400, 599), 24, 6)
    alone, mixed = fit_linear(holed, good, 24, 6), fit_linear(holed, both, 24, 6)
    np.testing.assert_allclose(mixed.weights_LH, alone.weights_LH, atol=1e-2)
    np.testing.assert_allclose(mixed.forecast(panel, test), targets(panel, test, 6), atol=0.05)


@relaxed
@given(
    windows=st.integers(1, 60), inputs=st.integers(1, 12), outputs=st.integers(1, 4), seed=st.integers(0, 999)
)
def test_ridge_is_that_of_scikit_learn(windows, inputs, outputs, seed):
    generator = np.random.default_rng(seed)
    x, y = generator.normal(3, 2, (windows, inputs)), generator.normal(1, 5, (windows, outputs))
    weight = generator.choice([0.0, 0.4, 1.0], windows)
    weight[0] = 1
    cut = windows // 3
    weights, intercept = ridge([(x[:cut], y[:cut], weight[:cut]), (x[cut:], y[cut:], weight[cut:])])
    wanted = Ridge(alpha=1.0).fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(weights, np.reshape(wanted.coef_, (outputs, inputs)).T, atol=1e-9)
    np.testing.assert_allclose(intercept, wanted.intercept_, atol=1e-9)


def test_linear_is_the_same_piece_by_piece(make_panel, monkeypatch):
    panel = make_panel(steps=600, missing=0.1)
    chosen = windows(panel, Span(0, 599), 24, 2)
    whole = fit_linear(panel, chosen, 24, 2)
    monkeypatch.setattr("lstm.evaluation.baselines._MOST_INPUTS", 24 * 50)
    np.testing.assert_allclose(fit_linear(panel, chosen, 24, 2).weights_LH, whole.weights_LH, atol=1e-9)


def test_linear_learns_from_every_hour_of_the_day_however_long_the_list(make_panel, monkeypatch):
    panel = make_panel(steps=2000, series=("a", "b"), noise=0.3)
    chosen = windows(panel, Span(0, 1999), 24, 24)
    whole = fit_linear(panel, chosen, 24, 24)
    # Every 24th window would be the same hour of each day.
    monkeypatch.setattr("lstm.evaluation.baselines._MOST_WINDOWS", len(chosen) // 24)
    some = fit_linear(panel, chosen, 24, 24)
    y = targets(panel, chosen, 24)
    errors = [metrics.mae(y, linear.forecast(panel, chosen)) for linear in (whole, some)]
    assert errors[1] < 1.15 * errors[0]


def test_linear_needs_a_window(make_panel):
    none = np.empty(0, dtype=np.int64)
    with pytest.raises(ValueError, match="no training window"):
        fit_linear(make_panel(), Windows.of(none, none, none), 24, 6)


@given(st.integers(0, 99))
def test_residual_quantiles_rise_around_the_point(seed):
    generator = np.random.default_rng(seed)
    y = generator.normal(3, 2, size=(50, 4))
    residuals = residual_quantiles(y, np.zeros_like(y), (0.1, 0.5, 0.9))
    assert (np.diff(residuals, axis=1) >= 0).all()
    assert residuals[:, 1] == pytest.approx(0)


def test_residual_quantiles_cover_what_they_say_step_by_step():
    generator = np.random.default_rng(0)
    y = generator.normal(size=(4000, 2)) * [1.0, 5.0]
    residuals = residual_quantiles(y, np.zeros_like(y), (0.1, 0.5, 0.9))
    forecast = with_quantiles(np.zeros_like(y), residuals)
    assert metrics.coverage(y[:, :1], forecast[:, :1, 0], forecast[:, :1, 2]) == pytest.approx(0.8, abs=0.01)
    assert residuals[1, 2] == pytest.approx(5 * residuals[0, 2], rel=0.15)


def test_residual_quantiles_leave_missing_targets_out():
    y = np.array([[1.0, nan], [3.0, nan], [nan, nan]])
    assert residual_quantiles(y, np.zeros((3, 2)), (0.25, 0.5, 1.0)).tolist() == [[-0.5, 0.0, 1.0], [0.0] * 3]


def test_quantiles_are_scaled_by_series():
    residuals = np.array([[-1.0, 0.0, 1.0]])
    got = with_quantiles(np.array([[10.0], [100.0]]), residuals, np.array([1.0, 20.0]))
    assert got.tolist() == [[[9.0, 10.0, 11.0]], [[80.0, 100.0, 120.0]]]
