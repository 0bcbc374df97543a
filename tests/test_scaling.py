"""Scaling: it inverts, it never looks ahead, and it fills from the past alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataRefused
from data.panel import Panel
from lstm.features import feature_names
from lstm.scaling import Scaler

MakePanel = Callable[..., Panel]
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(factor=st.floats(1e-3, 1e6), shift=st.floats(-1e6, 1e6), seed=st.integers(0, 99))
def test_unscaling_inverts_scaling(make_panel: MakePanel, factor: float, shift: float, seed: int) -> None:
    panel = make_panel(steps=40, series=("a", "b"), seed=seed)
    panel = replace(panel, values=panel.values * factor + shift)
    scaler = Scaler.fit(panel, 39)
    series = np.array([1, 0, 1])
    y_WH = panel.values[:12, 0].reshape(3, 4)
    there = scaler.scale_target(y_WH, series)
    np.testing.assert_allclose(scaler.unscale(there, series), y_WH, rtol=1e-9, atol=1e-6 * factor)
    y_WHQ = np.repeat(there[..., None], 2, axis=2)
    np.testing.assert_allclose(scaler.unscale(y_WHQ, series)[..., 1], y_WH, rtol=1e-9, atol=1e-6 * factor)


@quick
@given(
    step=st.integers(0, 58),
    late=st.integers(0, 40),
    missing=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_the_future_changes_nothing_before_it(
    make_panel: MakePanel, step: int, late: int, missing: float, seed: int
) -> None:
    panel = make_panel(
        steps=60, series=("a", "b"), covariates=("wind",), first_steps=(0, late), missing=missing, seed=seed
    )
    steps = np.concatenate([np.arange(first, 60) for first in panel.first_steps])
    values = panel.values.copy()
    values[steps > step] = np.random.default_rng(seed).normal(1e3, 1e3, values[steps > step].shape)
    other = replace(panel, values=values)
    one, two = Scaler.fit(panel, step), Scaler.fit(other, step)
    np.testing.assert_array_equal(one.loc_SC, two.loc_SC)
    np.testing.assert_array_equal(one.scale_SC, two.scale_SC)
    past = steps <= step
    np.testing.assert_array_equal(one.scale(panel, 3).values[past], two.scale(other, 3).values[past])


def test_fit_is_mean_and_deviation_of_what_was_observed_up_to_the_step(make_panel: MakePanel) -> None:
    panel = make_panel(
        steps=50, series=("a", "b"), covariates=("wind",), first_steps=(0, 20), missing=0.2, seed=3
    )
    scaler = Scaler.fit(panel, 29)
    for number, rows in enumerate((slice(0, 30), slice(50, 60))):
        np.testing.assert_allclose(scaler.loc_SC[number], np.nanmean(panel.values[rows], axis=0))
        np.testing.assert_allclose(scaler.scale_SC[number], np.nanstd(panel.values[rows], axis=0))


def test_constant_and_unseen_columns_get_scale_one(make_panel: MakePanel) -> None:
    panel = make_panel(steps=50, covariates=("flat", "never"))
    values = panel.values.copy()
    values[:, 1], values[:, 2] = 0.1, np.nan
    scaler = Scaler.fit(replace(panel, values=values), 49)
    np.testing.assert_allclose(scaler.loc_SC[0, 1:], [0.1, 0.0])
    assert scaler.scale_SC[0, 1:].tolist() == [1.0, 1.0]


def test_a_series_that_starts_after_the_step_gets_location_zero(make_panel: MakePanel) -> None:
    panel = make_panel(steps=50, series=("a", "b"), first_steps=(0, 30))
    scaler = Scaler.fit(panel, 20)
    assert (scaler.loc_SC[1, 0], scaler.scale_SC[1, 0]) == (0.0, 1.0)


def test_missing_values_hold_the_newest_before_them_in_their_own_series(make_panel: MakePanel) -> None:
    panel = make_panel(steps=6, series=("a", "b"), noise=0.5)
    values = panel.values.copy()
    values[[2, 3, 6], 0] = np.nan
    panel = replace(panel, values=values)
    scaled = Scaler.fit(panel, 5).scale(panel, 2)
    assert scaled.values[2, 0] == scaled.values[3, 0] == scaled.values[1, 0]
    assert scaled.values[6, 0] == 0.0
    assert scaled.observed[:, 0].tolist() == [*[True] * 2, *[False] * 2, True, True, False, *[True] * 5]
    assert scaled.values.dtype == np.float32
    assert np.isfinite(scaled.values).all()


def test_scaled_values_are_standardised_by_series_and_column(make_panel: MakePanel) -> None:
    panel = make_panel(steps=40, series=("a", "b"), covariates=("wind",), first_steps=(0, 10))
    scaler = Scaler.fit(panel, 39)
    scaled = scaler.scale(panel, 1).values
    for number, rows in enumerate((slice(0, 40), slice(40, 70))):
        expected = (panel.values[rows] - scaler.loc_SC[number]) / scaler.scale_SC[number]
        np.testing.assert_allclose(scaled[rows], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_mean_and_deviation_do_not_depend_on_the_pieces(
    make_panel: MakePanel, monkeypatch: pytest.MonkeyPatch, missing: float
) -> None:
    panel = make_panel(steps=90, covariates=("wind",), missing=missing)
    monkeypatch.setattr("lstm.scaling._PIECE", 7)
    scaler = Scaler.fit(panel, 89)
    np.testing.assert_allclose(scaler.loc_SC[0], np.nanmean(panel.values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaler.scale_SC[0], np.nanstd(panel.values, axis=0), rtol=1e-12)


def test_targets_are_scaled_as_the_panel_is(make_panel: MakePanel) -> None:
    panel = make_panel(steps=40, series=("a", "b"), covariates=("wind",))
    scaler = Scaler.fit(panel, 39)
    series = np.repeat([0, 1], 40)
    scaled = scaler.scale_target(panel.values[:, 0], series)
    np.testing.assert_allclose(scaled, scaler.scale(panel, 1).values[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(scaler.target(series)[1], scaler.scale_SC[series, 0])


def test_standardised_before_the_cast_to_float32(make_panel: MakePanel) -> None:
    panel = make_panel(steps=50)
    far = replace(panel, values=panel.values + 1e9)
    near, scaled = (Scaler.fit(p, 49).scale(p, 1).values for p in (panel, far))
    np.testing.assert_allclose(scaled, near, atol=1e-5)


def test_the_calendar_covers_the_horizon(make_panel: MakePanel) -> None:
    panel = make_panel(steps=30, series=("a", "b"), first_steps=(0, 10))
    scaled = Scaler.fit(panel, 29).scale(panel, 7)
    assert scaled.calendar.shape == (37, len(feature_names(panel.frequency)))
    np.testing.assert_array_equal(scaled.offsets, panel.offsets)
    np.testing.assert_array_equal(scaled.first_steps, panel.first_steps)


def test_the_calendar_shows_cycles_that_the_fit_saw_twice(make_panel: MakePanel) -> None:
    panel = make_panel(steps=400)
    names = feature_names(panel.frequency)
    for last, first, seen in ((399, 0, ("hour", "week")), (399, 100, ("hour",)), (335, 0, ("hour", "week"))):
        scaler = Scaler.fit(panel, last, first)
        scaler = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
        calendar = scaler.scale(panel, 0).calendar
        shown = np.concatenate([calendar.time_UF, calendar.day_DF]).any(axis=0)
        assert shown.tolist() == [any(cycle in name for cycle in seen) for name in names]


def test_series_are_matched_by_name(make_panel: MakePanel) -> None:
    panel = make_panel(steps=30, series=("a", "b", "c"))
    scaler = Scaler.fit(panel, 29)
    few = make_panel(steps=30, series=("c", "a"))
    own = scaler.select(few)
    np.testing.assert_array_equal(own.loc_SC, scaler.loc_SC[[2, 0]])
    np.testing.assert_array_equal(own.target(np.array([0]))[1], scaler.scale_SC[[2], 0])
    np.testing.assert_array_equal(scaler.scale(few, 1).values, own.scale(few, 1).values)


def test_an_unknown_series_or_other_columns_are_refused(make_panel: MakePanel) -> None:
    scaler = Scaler.fit(make_panel(steps=30, series=("a",)), 29)
    with pytest.raises(DataRefused, match=r"made, series z: .*Remedy: leave the series out"):
        scaler.scale(make_panel(steps=30, series=("a", "z")), 1)
    with pytest.raises(DataRefused, match=r"columns load, wind; .* trained on load"):
        scaler.scale(make_panel(steps=30, series=("a",), covariates=("wind",)), 1)


def test_json_gives_the_same_bits_back(make_panel: MakePanel) -> None:
    scaler = Scaler.fit(make_panel(steps=30, series=("a", "b"), covariates=("wind",)), 29)
    back = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    assert (back.series, back.columns) == (scaler.series, scaler.columns)
    np.testing.assert_array_equal(back.loc_SC, scaler.loc_SC)
    np.testing.assert_array_equal(back.scale_SC, scaler.scale_SC)


def test_only_the_steps_between_first_and_last_are_seen(make_panel: Callable[..., Panel]) -> None:
    panel = make_panel(steps=60, series=("a", "b"), first_steps=(0, 25))
    scaler = Scaler.fit(panel, 39, 20)
    for number, begins in enumerate((0, 25)):
        values = panel.values[panel.rows(number)][max(20 - begins, 0) : 40 - begins, 0]
        assert scaler.loc_SC[number, 0] == pytest.approx(values.mean())
        assert scaler.scale_SC[number, 0] == pytest.approx(values.std())


def test_nothing_is_filled_from_the_future(make_panel: Callable[..., Panel]) -> None:
    panel = make_panel(steps=30)
    panel.values[:3, 0] = np.nan
    scaled = Scaler.fit(panel, 29).scale(panel, 1)
    assert (scaled.values[:3, 0] == 0).all()
    assert scaled.values[3, 0] != 0


@pytest.mark.parametrize("level", [1e-3, 1.0, 1e6])
def test_rounding_noise_of_a_level_is_no_variation(make_panel: Callable[..., Panel], level: float) -> None:
    panel = make_panel(steps=40)
    noisy = replace(panel, values=level * (1 + 1e-13 * panel.values))
    assert Scaler.fit(noisy, 39).scale_SC[0, 0] == 1
    varied = replace(panel, values=level * (1 + 1e-3 * panel.values))
    assert Scaler.fit(varied, 39).scale_SC[0, 0] == pytest.approx(varied.values[:, 0].std())
