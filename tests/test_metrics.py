"""Metrics: their formulas where nothing is missing, and what missing targets and forecasts mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from lstm.evaluation import metrics

# The first that asks waits for scikit-learn.
PATIENT = settings(deadline=None)
numbers = st.floats(-1e3, 1e3)
pairs = st.tuples(st.integers(1, 6), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(arrays(float, shape, elements=numbers), arrays(float, shape, elements=numbers))
)
nan = float("nan")


@given(pairs)
@PATIENT
def test_errors_are_their_formulas(pair):
    y, forecast = pair
    assert metrics.mae(y, forecast) == pytest.approx(np.abs(y - forecast).mean())
    assert metrics.mse(y, forecast) == pytest.approx(((y - forecast) ** 2).mean())
    assert metrics.rmse(y, forecast) == pytest.approx(((y - forecast) ** 2).mean() ** 0.5)


@given(pairs, st.floats(0.01, 0.99))
@PATIENT
def test_pinball_is_its_formula(pair, level):
    y, forecast = pair
    over, under = np.maximum(forecast - y, 0), np.maximum(y - forecast, 0)
    expected = (level * under + (1 - level) * over).mean()
    assert metrics.pinball(y, forecast[..., None], [level]) == pytest.approx(expected)


@given(pairs, st.sampled_from([(0.5,), (0.1, 0.5, 0.9), (0.05, 0.2, 0.5, 0.8, 0.95)]))
@PATIENT
def test_crps_of_a_forecast_without_spread_is_its_absolute_error(pair, levels):
    y, forecast = pair
    same = np.repeat(forecast[..., None], len(levels), axis=-1)
    assert metrics.crps(y, same, levels) == pytest.approx(metrics.mae(y, forecast))


@given(st.floats(-3, 3), st.floats(0.2, 5))
@settings(deadline=None, max_examples=10)
def test_crps_of_many_quantiles_is_that_of_the_distribution(y, scale):
    levels = (np.arange(200) + 0.5) / 200
    quantiles = scale * norm.ppf(levels)
    z = y / scale
    # Of a normal distribution: Gneiting and Raftery, 2007, Strictly proper scoring rules, section 4.2.
    exact = scale * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - np.pi**-0.5)
    assert metrics.crps(np.array([y]), quantiles[None], levels) == pytest.approx(exact, rel=1e-2)


@given(st.floats(-3, 3), st.floats(0.2, 1.5))
@settings(deadline=None, max_examples=10)
def test_the_expectation_of_many_quantiles_is_that_of_the_distribution(loc, scale):
    levels = (np.arange(2000) + 0.5) / 2000
    # Of a lognormal distribution, whose mean lies well above its median.
    quantiles = np.exp(loc + scale * norm.ppf(levels))
    found = metrics.expectation(quantiles[None, None], levels)
    np.testing.assert_allclose(found, [[np.exp(loc + scale**2 / 2)]], rtol=0.02)
    np.testing.assert_allclose(metrics.expectation(quantiles[None, None, :1], (0.5,)), quantiles[0])


@given(pairs)
@PATIENT
def test_pinball_of_the_median_is_half_the_absolute_error(pair):
    y, forecast = pair
    assert metrics.pinball(y, forecast[..., None], [0.5]) == pytest.approx(metrics.mae(y, forecast) / 2)


@given(pairs, st.data())
@PATIENT
def test_an_unobserved_target_is_as_if_it_were_not_there(pair, data):
    y, forecast = pair
    hidden = data.draw(arrays(bool, y.shape))
    masked = np.where(hidden, nan, y)
    for metric in (metrics.mae, metrics.mse, metrics.rmse):
        expected = metric(y[~hidden], forecast[~hidden]) if not hidden.all() else nan
        assert metric(masked, forecast) == pytest.approx(expected, nan_ok=True)


@given(pairs, st.floats(0.1, 10))
@PATIENT
def test_mase_scales_each_window(pair, scale):
    y, forecast = pair
    scales = np.full(len(y), scale)
    assert metrics.mase(y, forecast, scales) == pytest.approx(metrics.mae(y, forecast) / scale)


def test_a_missing_forecast_is_not_left_out():
    y = np.array([[1.0, 2.0]])
    broken = np.array([[1.0, nan]])
    assert np.isnan(metrics.mae(y, broken))
    assert np.isnan(metrics.rmse(y, broken))
    assert np.isnan(metrics.pinball(y, broken[..., None], [0.5]))
    assert np.isnan(metrics.coverage(y, broken, y))
    assert np.isnan(metrics.coverage(y, y, broken))
    assert np.isnan(metrics.crps(y, broken[..., None], [0.5]))
    assert np.isnan(metrics.width(y, broken, y))
    assert np.isnan(metrics.mae(y, np.array([[1.0, np.inf]])))
    assert metrics.mae(np.array([[1.0, nan]]), broken) == 0


def test_mase_leaves_out_windows_without_a_scale():
    y = np.zeros((3, 2))
    forecast = np.array([[2.0, 2.0], [100.0, 100.0], [100.0, 100.0]])
    assert metrics.mase(y, forecast, np.array([4.0, 0.0, nan])) == 0.5
    assert np.isnan(metrics.mase(y, forecast, np.zeros(3)))


def test_pinball_weighs_the_sides_by_level():
    y = np.array([[10.0]])
    assert metrics.pinball(y, np.array([[[8.0]]]), [0.9]) == pytest.approx(1.8)
    assert metrics.pinball(y, np.array([[[12.0]]]), [0.9]) == pytest.approx(0.2)
    assert metrics.pinball(y, np.array([[[8.0, 12.0]]]), [0.1, 0.9]) == pytest.approx(0.2)


def test_coverage_counts_both_ends():
    y = np.array([[0.0, 1.0, 2.0, 3.0, nan]])
    assert metrics.coverage(y, np.full((1, 5), 1.0), np.full((1, 5), 2.0)) == 0.5


def test_width_is_of_what_was_observed():
    y = np.array([[0.0, 1.0, nan]])
    assert metrics.width(y, np.zeros((1, 3)), np.array([[1.0, 2.0, 9.0]])) == 1.5


def test_by_step_keeps_the_steps_apart():
    y = np.array([[0.0, 0.0, nan], [0.0, nan, nan]])
    forecast = np.array([[1.0, 5.0, 9.0], [3.0, 7.0, 9.0]])
    steps = metrics.by_step(metrics.mae, y, forecast)
    assert steps[:2].tolist() == [2.0, 5.0]
    assert np.isnan(steps[2])
    covered = metrics.by_step(metrics.coverage, y, forecast - 2, forecast)
    assert covered[:2].tolist() == [0.5, 0.0]


def test_nothing_observed_says_nothing():
    empty = np.empty((0, 3))
    assert np.isnan(metrics.mae(empty, empty))
    assert np.isnan(metrics.coverage(empty, empty, empty))
    assert np.isnan(metrics.crps(empty, empty[..., None], [0.5]))
    assert np.isnan(metrics.width(empty, empty, empty))
    assert np.isnan(metrics.by_step(metrics.mae, empty, empty)).all()
