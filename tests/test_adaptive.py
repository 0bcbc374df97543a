"""Adaptive intervals: in the long run they miss as often as they say, and they learn from the past alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm.evaluation.adaptive import RATE, Trail, adapt

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
MEDIAN = 2
PARTS = ("forecast_VHQ", "series_V", "steps_V")
nan = float("nan")
seeds = st.integers(0, 2**32 - 1)


def made(seed, series=1, origins=80, horizon=3, width=1.0, missing=0.0):
    """A trail: targets around medians, with quantiles that are so many times too wide."""
    generator = np.random.default_rng(seed)
    count = series * origins
    steps = np.repeat(np.arange(origins), series)
    middle = generator.normal(size=(count, horizon, 1))
    y = middle[..., 0] + generator.normal(size=(count, horizon))
    y[generator.random(y.shape) < missing] = nan
    forecast = middle + width * np.array([-1.28, -0.67, 0.0, 0.67, 1.28])
    return Trail(y, forecast, np.tile(np.arange(series), origins), steps)


def adapted(trail, **keys):
    return adapt(trail.forecast_VHQ, trail.series_V, trail.steps_V, trail, LEVELS, **keys)


@given(seeds, st.floats(0.3, 3.0), st.floats(0.5, 2.0))
@settings(max_examples=10)
def test_what_is_missed_tends_to_what_the_level_says_though_errors_change(seed, width, later):
    trail = made(seed, origins=3000, horizon=2, width=width)
    half = trail.steps_V >= 1500
    middle = trail.forecast_VHQ[..., MEDIAN]
    y = np.where(half[:, None], middle + later * (trail.y_VH - middle), trail.y_VH)
    quantiles = adapted(Trail(y, trail.forecast_VHQ, trail.series_V, trail.steps_V))
    for number, level in enumerate(LEVELS):
        if number != MEDIAN:
            below = (y < quantiles[..., number]).mean(axis=0)
            # What is missed too often or too seldom moves the quantile, which goes at most tenfold.
            assert np.abs(below - level).max() < 2 * np.log(10) / (RATE * 3000)


@given(seeds, st.integers(10, 70))
@settings(max_examples=20)
def test_nothing_is_learned_from_what_is_not_over(seed, origin):
    trail = made(seed, missing=0.1)
    is_later_V1 = (trail.steps_V > origin - 3)[:, None] & ~np.isnan(trail.y_VH)
    one, other = (
        adapted(Trail(np.where(is_later_V1, y, trail.y_VH), *(vars(trail)[name] for name in PARTS)))
        for y in (1e3, -1e3)
    )
    np.testing.assert_array_equal(one[trail.steps_V <= origin], other[trail.steps_V <= origin])
    if (~np.isnan(trail.y_VH[trail.steps_V == origin - 2])).any():
        assert (one[trail.steps_V == origin + 1] != other[trail.steps_V == origin + 1]).any()


@given(seeds, st.floats(0.1, 3.0), st.floats(0.1, 100), st.floats(-100, 100))
@settings(max_examples=20)
def test_quantiles_rise_the_median_stays_and_units_do_not_matter(seed, width, scale, shift):
    trail = made(seed, series=2, width=width, missing=0.2)
    quantiles = adapted(trail)
    np.testing.assert_array_equal(quantiles[..., MEDIAN], trail.forecast_VHQ[..., MEDIAN])
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    moved = Trail(
        scale * trail.y_VH + shift, scale * trail.forecast_VHQ + shift, trail.series_V, trail.steps_V
    )
    np.testing.assert_allclose(adapted(moved), scale * quantiles + shift, rtol=1e-6, atol=1e-6 * scale)


@given(seeds)
@settings(max_examples=10)
def test_each_series_learns_from_itself(seed):
    trail = made(seed, series=3, missing=0.1)
    own = trail.series_V == 1
    alone = Trail(trail.y_VH[own], trail.forecast_VHQ[own], trail.series_V[own], trail.steps_V[own])
    np.testing.assert_array_equal(adapted(trail)[own], adapted(alone))


@given(seeds)
@settings(max_examples=10)
def test_the_order_of_windows_does_not_matter(seed):
    trail = made(seed, series=2)
    order = np.random.default_rng(seed).permutation(len(trail.steps_V))
    shuffled = Trail(*(part[order] for part in vars(trail).values()))
    np.testing.assert_array_equal(adapted(shuffled), adapted(trail)[order])


def test_without_a_trail_a_forecast_stays_as_it_is():
    trail = made(0)
    empty = Trail(*(part[:0] for part in vars(trail).values()))
    kept = adapt(trail.forecast_VHQ, trail.series_V, trail.steps_V, empty, LEVELS)
    np.testing.assert_allclose(kept, trail.forecast_VHQ, rtol=1e-12)
    # One of another series says nothing either.
    other = Trail(trail.y_VH, trail.forecast_VHQ, trail.series_V + 1, trail.steps_V)
    kept = adapt(trail.forecast_VHQ, trail.series_V, trail.steps_V, other, LEVELS)
    np.testing.assert_allclose(kept, trail.forecast_VHQ, rtol=1e-12)


@pytest.mark.parametrize("value", [nan, 0.0])
def test_a_step_never_seen_stays_and_a_distance_of_nothing_does_no_harm(value):
    trail = made(0, origins=2000, horizon=2)
    y, forecast = trail.y_VH.copy(), trail.forecast_VHQ.copy()
    y[:, 1] = nan if np.isnan(value) else 1.0
    if value == 0.0:
        forecast[:, 1] = 0.0
    quantiles = adapted(Trail(y, forecast, trail.series_V, trail.steps_V))
    assert np.isfinite(quantiles).all()
    np.testing.assert_allclose(quantiles[:, 1], forecast[:, 1], rtol=1e-12)
