"""Conformal calibration: it covers what it promises, follows the units, never crosses, sees no judge span."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data.splits import Span
from lstm.evaluation import metrics
from lstm.evaluation.conformal import EXPONENTS, Calibration, calibrate, spread
from lstm.features import feature_names
from lstm.models.forecaster import ForecasterConfig, build
from lstm.scaling import Scaler
from lstm.search.validation import validate
from lstm.windows import windows

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
MEDIAN = 2
nan = float("nan")
seeds = st.integers(0, 2**32 - 1)


def made(seed, windows=60, horizon=3, width=0.5, missing=0.0):
    """Targets, quantiles of some width around a median of their own, and the spread of each window."""
    generator = np.random.default_rng(seed)
    spread_W = np.exp(generator.normal(0, 0.5, windows))
    middle = generator.normal(size=(windows, horizon))
    y = middle + generator.normal(size=(windows, horizon)) * spread_W[:, None]
    distances = (
        width
        * np.array([-1.3, -0.7, 0.0, 0.7, 1.3])
        * np.exp(generator.normal(0, 0.3, (windows, horizon, 1)))
    )
    y[generator.random(y.shape) < missing] = nan
    return y, middle[..., None] + distances, spread_W


@given(seeds, st.sampled_from([9, 19, 24, 49]), st.floats(0.05, 3), st.sampled_from(EXPONENTS))
@settings(max_examples=10, deadline=None)
def test_each_quantile_covers_its_level_on_exchangeable_windows(seed, count, width, exponent):
    # Every window in turn is the new one: the mean over them all is the chance, up to nothing but rank.
    y, forecast, spread_W = made(seed, windows=count + 1, horizon=1, width=width)
    beyond = np.zeros(len(LEVELS))
    for new in range(count + 1):
        old = np.arange(count + 1) != new
        calibration = calibrate(y[old], forecast[old], spread_W[old], LEVELS, (exponent,))
        quantiles = calibration.apply(forecast[[new]], spread_W[[new]], MEDIAN)[0, 0]
        beyond += np.where(np.arange(5) > MEDIAN, y[new, 0] > quantiles, y[new, 0] < quantiles)
    rate = beyond / (count + 1)
    for number, outer in ((0, 0.1), (1, 0.25), (3, 0.25), (4, 0.1)):
        assert rate[number] <= outer + 1e-9
        # A median far off its place may have inner quantiles meet it, which then cover more.
        if number in (0, 4):
            assert rate[number] >= outer - 1 / (count + 1) - 1e-9


@given(seeds, st.floats(0.05, 3))
@settings(max_examples=5, deadline=None)
def test_intervals_of_any_width_come_to_cover(seed, width):
    y, forecast, spread_W = made(seed, windows=4000, width=width)
    calibration = calibrate(y[::2], forecast[::2], spread_W[::2], LEVELS)
    quantiles = calibration.apply(forecast[1::2], spread_W[1::2], MEDIAN)
    for low, high in ((0, 4), (1, 3)):
        covered = metrics.by_step(metrics.coverage, y[1::2], quantiles[..., low], quantiles[..., high])
        assert covered == pytest.approx(LEVELS[high] - LEVELS[low], abs=0.08)


@given(seeds, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
@settings(max_examples=25, deadline=None)
def test_calibrated_forecasts_follow_the_units(seed, scale, shift):
    y, forecast, spread_W = made(seed, missing=0.1)
    plain = calibrate(y, forecast, spread_W, LEVELS).apply(forecast, spread_W, MEDIAN)
    other = forecast * scale + shift
    scaled = calibrate(y * scale + shift, other, spread_W, LEVELS).apply(other, spread_W, MEDIAN)
    np.testing.assert_allclose((scaled - shift) / scale, plain, rtol=1e-6, atol=1e-6 * max(1, 1 / scale))


@given(
    arrays(float, (4, 3, 5), elements=st.floats(-10, 10)),
    arrays(float, (3, 5), elements=st.floats(0, 10)),
    st.sampled_from(EXPONENTS),
)
def test_quantiles_never_cross_and_the_median_stays(raw, factor, exponent):
    forecast, spread_W = np.sort(raw, axis=-1), np.array([0.1, 0.5, 1.0, 4.0])
    quantiles = Calibration(factor, exponent, 1).apply(forecast, spread_W, MEDIAN)
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    np.testing.assert_array_equal(quantiles[..., MEDIAN], forecast[..., MEDIAN])


def test_nothing_changes_where_nothing_is_stretched():
    _, forecast, spread_W = made(0)
    same = Calibration(np.ones((3, 5)), 0.0, 0).apply(forecast, spread_W, MEDIAN)
    np.testing.assert_allclose(same, forecast, rtol=1e-12)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_unobserved_targets_are_as_if_they_were_not_there(seed):
    y, forecast, spread_W = made(seed, windows=30, horizon=1)
    hidden = np.arange(30) % 3 == 0
    masked = np.where(hidden[:, None], nan, y)
    left = calibrate(masked, forecast, spread_W, LEVELS)
    taken = calibrate(y[~hidden], forecast[~hidden], spread_W[~hidden], LEVELS)
    np.testing.assert_array_equal(left.factor_HQ, taken.factor_HQ)
    assert left.exponent == taken.exponent


def test_few_windows_give_their_largest_error_and_none_change_nothing():
    y, forecast, spread_W = made(0, windows=5, horizon=1)
    calibration = calibrate(y, forecast, spread_W, LEVELS, (0.0,))
    quantiles = calibration.apply(forecast, spread_W, MEDIAN)
    assert metrics.coverage(y, quantiles[..., 0] - 1e-9, quantiles[..., 4] + 1e-9) == 1
    for nothing in (
        calibrate(y[:0], forecast[:0], spread_W[:0], LEVELS),
        calibrate(y * nan, forecast, spread_W, LEVELS),
    ):
        assert (nothing.factor_HQ == 1).all()
        assert nothing.exponent == 0
    # A step that was never observed, beside one that was.
    y, forecast, spread_W = made(0, horizon=2)
    y[:, 1] = nan
    factors = calibrate(y, forecast, spread_W, LEVELS).factor_HQ
    assert (factors[1] == 1).all()
    assert (factors[0] != 1).any()


def test_quantiles_that_lie_on_the_median_cannot_be_stretched():
    y, forecast, spread_W = made(0)
    flat = np.repeat(forecast[..., [MEDIAN]], 5, axis=-1)
    calibration = calibrate(y, flat, spread_W, LEVELS)
    assert (calibration.factor_HQ == 1).all()
    np.testing.assert_array_equal(calibration.apply(flat, spread_W, MEDIAN), flat)


def test_a_spread_that_says_something_counts_and_another_does_not():
    y, forecast, spread_W = made(0, windows=4000)
    assert calibrate(y, forecast, spread_W, LEVELS).exponent == max(EXPONENTS)
    shuffled = np.random.default_rng(0).permutation(spread_W)
    assert calibrate(y, forecast, shuffled, LEVELS).exponent == 0
    # A network that has normalised by the spread where it should not have.
    level = forecast[..., [MEDIAN]]
    y = level[..., 0] + np.random.default_rng(1).normal(size=y.shape)
    wide = level + (forecast - level) * spread_W[:, None, None]
    assert calibrate(y, wide, spread_W, LEVELS).exponent == min(EXPONENTS)


@given(arrays(np.float32, 40, elements=st.floats(-5, 5, width=32)), st.integers(1, 12))
def test_spread_is_the_deviation_of_the_lookback(target, lookback):
    origins = np.arange(lookback - 1, 40)
    expected = [max(np.std(target[i - lookback + 1 : i + 1].astype(float)), 0.1) for i in origins]
    np.testing.assert_allclose(spread(target, origins, lookback), expected, rtol=1e-9)
    assert spread(target, origins[:0], lookback).shape == (0,)


def test_json_gives_back_the_same():
    calibration = calibrate(*made(3), LEVELS)
    back = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(back.factor_HQ, calibration.factor_HQ)
    assert (back.exponent, back.windows) == (calibration.exponent, calibration.windows)
    for broken in (nan, -1.0):
        with pytest.raises(ValueError, match="at least 0"):
            Calibration.from_dict({**calibration.to_dict(), "factor": [[broken]]})


@pytest.mark.parametrize(
    ("limits", "count"),
    [({}, 110), ({"WINDOWS": 50}, 50), ({"NUMBERS": 60 * 30}, 60), ({"NUMBERS": 30}, 40)],
)
def test_the_judge_span_changes_nothing(make_panel, monkeypatch, limits, count):
    monkeypatch.setattr("lstm.search.validation._ENOUGH_WINDOWS", 40)
    for name, most in limits.items():
        monkeypatch.setattr(f"lstm.search.validation._MOST_{name}", most)
    panel = make_panel(steps=300, series=("a", "b"), missing=0.05)
    config = ForecasterConfig(
        cell="gru", hidden_size=4, num_layers=1, dropout=0.0, segment_length=1, lookback=24, horizon=6,
        quantiles=LEVELS, columns=1, calendar_features=len(feature_names(panel.frequency)),
    )  # fmt: skip
    torch.manual_seed(0)
    state, scaler = build(config).state_dict(), Scaler.fit(panel, 180)
    validation = Span(181, 240)

    def calibration():
        chosen = windows(panel, validation, config.lookback, config.horizon)
        return validate(scaler.scale(panel, config.horizon), chosen, config, state).calibration

    before = calibration()
    for number in range(2):
        panel.values[panel.row(number, validation.last + 1) : panel.rows(number).stop] = 1e6
    after = calibration()
    np.testing.assert_array_equal(after.factor_HQ, before.factor_HQ)
    assert before.windows == count
    panel.values[panel.row(0, 185) : panel.row(0, 235)] += 9
    assert not np.allclose(calibration().factor_HQ, before.factor_HQ)
