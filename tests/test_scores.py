"""Scores: standardised units, fail closed on what is not finite, and survive JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm.evaluation.scores import score

# The first that asks waits for scikit-learn.
PATIENT = settings(deadline=None)
LEVELS = (0.1, 0.5, 0.9)
nan = float("nan")


def made(windows=4, horizon=3, seed=0):
    """Targets and quantile forecasts of two series of very different size."""
    generator = np.random.default_rng(seed)
    y = generator.normal(size=(windows, horizon))
    spread = np.abs(generator.normal(size=(windows, horizon))) + 0.1
    centre = y + 0.3 * generator.normal(size=y.shape)
    return y, np.stack([centre - spread, centre, centre + spread], axis=-1)


def plain(y, forecast, levels=LEVELS):
    ones = np.ones(len(y))
    return score(y, forecast, levels, loc_W=0 * ones, scale_W=ones, naive_scale_W=ones)


@given(st.floats(-1e3, 1e3), st.floats(0.01, 1e3))
@PATIENT
def test_units_do_not_matter(loc, scale):
    y, forecast = made()
    ones = np.ones(len(y))
    scaled = score(
        y * scale + loc, forecast * scale + loc, LEVELS,
        loc_W=loc * ones, scale_W=scale * ones, naive_scale_W=scale * ones,
    )  # fmt: skip
    expected = plain(y, forecast)
    for name in ("mae", "mse", "rmse", "mase", "pinball", "crps", "width"):
        assert getattr(scaled, name) == pytest.approx(getattr(expected, name), rel=1e-6)
    assert scaled.mae_by_step == pytest.approx(expected.mae_by_step, rel=1e-6)


def test_each_window_is_standardised_by_its_own_series():
    y = np.array([[10.0], [1000.0]])
    forecast = np.array([[[11.0]], [[1100.0]]])
    scores = score(
        y, forecast, (0.5,),
        loc_W=np.array([5.0, 500.0]), scale_W=np.array([1.0, 100.0]), naive_scale_W=np.array([2.0, 50.0]),
    )  # fmt: skip
    assert (scores.mae, scores.mse, scores.rmse) == (1.0, 1.0, 1.0)
    assert scores.mase == pytest.approx((0.5 + 2.0) / 2)
    assert scores.pinball == 0.5
    assert scores.windows == 2
    assert scores.finite


def test_the_point_forecast_is_the_median_and_coverage_the_outermost_pair():
    y = np.array([[0.0, 5.0]])
    forecast = np.array([[[-1.0, 0.5, 1.0], [-1.0, 1.0, 2.0]]])
    scores = plain(y, forecast)
    assert scores.mae_by_step == (0.5, 4.0)
    assert scores.mae == 2.25
    assert scores.coverage == 0.5
    assert scores.coverage_by_step == (1.0, 0.0)
    assert scores.width == 2.5


def test_a_step_between_errors_is_rmse_not_mae():
    scores = plain(np.zeros((1, 2)), np.array([[[0.0], [2.0]]]), (0.5,))
    assert (scores.mae, scores.mse, scores.rmse) == (1.0, 2.0, math.sqrt(2))


@pytest.mark.parametrize("broken", [nan, float("inf"), float("-inf")])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_one_forecast_that_is_no_number_is_not_finite(broken, level):
    y, forecast = made()
    assert plain(y, forecast).finite
    forecast[2, 1, level] = broken
    assert not plain(y, forecast).finite
    # Even where nobody can compare it with a target.
    y[2, 1] = nan
    assert not plain(y, forecast).finite


def test_without_windows_or_targets_nothing_is_proved():
    y, forecast = made()
    assert not plain(np.full_like(y, nan), forecast).finite
    none = plain(y[:0], forecast[:0])
    assert none.windows == 0
    assert not none.finite


def test_shapes_and_levels_are_checked():
    y, forecast = made()
    with pytest.raises(ValueError, match="shape"):
        plain(y, forecast[:, :2])
    with pytest.raises(ValueError, match="shape"):
        plain(y, forecast[..., :2])
    with pytest.raises(ValueError, match=r"0\.5"):
        plain(y, forecast, (0.1, 0.4, 0.9))


def test_float32_forecasts_of_large_targets_keep_their_digits():
    y = np.full((1, 1), 1e6)
    forecast = np.full((1, 1, 1), 1e6 + 1, dtype=np.float32)
    assert plain(y, forecast, (0.5,)).mae == 1.0


def test_json_knows_no_nan():
    y, forecast = made()
    y[:, 1] = nan
    scores = plain(y, forecast)
    raw = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert raw["mae"] == scores.mae
    for name in ("mae_by_step", "coverage_by_step"):
        assert raw[name][:2] == [getattr(scores, name)[0], None]
    assert raw["finite"] is True
