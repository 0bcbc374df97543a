"""A bundle: its forecasts, and what they rest on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from bundles import HORIZON, LOOKBACK, MakePanel, make_bundle, two_series
from hypothesis import given, settings
from hypothesis import strategies as st

from data.calendar import Frequency
from data.errors import DataRefused
from data.layout import Layout
from data.panel import Panel
from data.splits import Span
from lstm.evaluation.conformal import Calibration, spread
from lstm.promotion.gate import Weights
from lstm.tracking.bundle import Bundle
from lstm.tracking.forecast import panel_of, rows_of
from lstm.windows import newest, windows


@pytest.fixture
def panel(make_panel: MakePanel) -> Panel:
    return two_series(make_panel)


def test_the_twin_asked_for_forecasts(panel: Panel) -> None:
    bundle = make_bundle(panel)
    some = windows(panel, Span(100, 150), LOOKBACK, HORIZON)
    judged, served = (bundle.forecast_windows(panel, some, which) for which in ("judged", "served"))
    assert judged.shape == (len(some), HORIZON, 3)
    assert (np.diff(judged, axis=2) >= 0).all()
    assert not np.allclose(judged, served)
    newest = replace(bundle, serves="judged").forecast(panel).values_SHQ
    assert not np.allclose(newest, bundle.forecast(panel).values_SHQ)


@pytest.mark.parametrize("which", ["judged", "served"])
def test_both_twins_forecast_calibrated_quantiles(panel: Panel, which: Weights) -> None:
    # Of these windows, none comes after another one whose horizon is over.
    bundle, some = make_bundle(panel), windows(panel, Span(101, 106 + HORIZON - 1), LOOKBACK, HORIZON)
    [member] = bundle.members
    plain = replace(
        bundle, members=(replace(member, calibration=Calibration(np.ones((HORIZON, 3)), 0.0, 0)),)
    )
    before, after = (one.forecast_windows(panel, some, which) for one in (plain, bundle))
    np.testing.assert_array_equal(after[..., 1], before[..., 1])
    spread_W = spread(bundle.twin(which).scaler.scale(panel, HORIZON).values[:, 0], some.origins, LOOKBACK)
    stretched = (before[..., [0, 2]] - before[..., [1]]) * (spread_W**0.25)[:, None, None]
    wanted = stretched * member.calibration.factor_HQ[:, [0, 2]]
    np.testing.assert_allclose(after[..., [0, 2]] - after[..., [1]], wanted, rtol=1e-9)


@pytest.mark.parametrize("which", ["judged", "served"])
def test_members_forecast_the_mean_of_what_each_would(panel: Panel, which: Weights) -> None:
    # Of these windows, none comes after another one whose horizon is over.
    bundle = make_bundle(panel, members=3)
    some = windows(panel, Span(101, 106 + HORIZON - 1), bundle.lookback, HORIZON)

    def alone(number: int) -> Bundle:
        twins = {
            name: replace(bundle.twin(name), weights=(bundle.twin(name).weights[number],))
            for name in ("judged", "served")
        }
        return replace(bundle, members=(bundle.members[number],), **twins)

    each = [alone(number).forecast_windows(panel, some, which) for number in range(3)]
    assert not np.allclose(each[0], each[1])
    np.testing.assert_allclose(bundle.forecast_windows(panel, some, which), np.mean(each, axis=0), rtol=1e-9)
    assert [alone(number).lookback for number in range(3)] == [LOOKBACK // 4, LOOKBACK // 2, LOOKBACK]
    assert bundle.lookback == LOOKBACK
    assert bundle.history - bundle.lookback == alone(0).history - alone(0).lookback


def test_forecasts_are_in_the_units_of_each_series(panel: Panel) -> None:
    values = make_bundle(panel).forecast(panel).values_SHQ
    assert values.shape == (2, HORIZON, 3)
    # The factory puts series b at twice the level of a.
    np.testing.assert_allclose(values[1].mean() / values[0].mean(), 2, rtol=0.2)


def test_non_negative_targets_have_non_negative_forecasts(make_panel: MakePanel) -> None:
    panel = make_panel(steps=200)
    panel = replace(panel, values=panel.values - 10)
    free, bounded = (
        make_bundle(panel, non_negative=flag).forecast(panel).values_SHQ for flag in (False, True)
    )
    assert free.min() < 0
    np.testing.assert_array_equal(bounded, np.maximum(free, 0))


def test_forecast_follows_the_last_step(make_panel: MakePanel) -> None:
    panel = replace(make_panel(steps=100), frequency=Frequency("h", "Europe/Paris"))
    forecast = make_bundle(panel).forecast(panel, version="3")
    assert (forecast.version, forecast.as_of, forecast.series) == ("3", "2024-01-05T03:00:00Z", ("",))
    frame = forecast.to_frame()
    assert list(frame.columns) == ["series", "time", "q0.1", "q0.5", "q0.9"]
    assert list(frame["time"])[:2] == ["2024-01-05T05:00+01:00", "2024-01-05T06:00+01:00"]
    np.testing.assert_array_equal(frame[["q0.1", "q0.5", "q0.9"]].to_numpy(), forecast.values_SHQ[0])


def test_frame_lists_series_after_series(panel: Panel) -> None:
    forecast = make_bundle(panel).forecast(panel)
    frame = forecast.to_frame()
    assert list(frame["series"]) == ["a"] * HORIZON + ["b"] * HORIZON
    assert list(frame["time"][:HORIZON]) == list(frame["time"][HORIZON:])
    np.testing.assert_array_equal(frame["q0.5"][HORIZON:], forecast.values_SHQ[1, :, 1])


@pytest.mark.parametrize("frequency", ["h", "15min", "D", "W-MON", "MS"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Paris"])
def test_rows_and_panel_are_inverse(make_panel: MakePanel, frequency: str, zone: str) -> None:
    made = make_panel(steps=90, series=("a", "b"), covariates=("warmth",), frequency=frequency, missing=0.2)
    grid = Frequency(frequency, zone)
    start = grid.floor(np.array(["2024-03-01T00:00"], dtype="datetime64[us]"))[0]
    panel = replace(made, frequency=grid, start=start)
    layout = Layout("made", "when", "id", "load", ("warmth",), zone)
    back = panel_of(rows_of(panel, layout, 90), layout, grid)
    assert (back.series, back.columns, back.as_of) == (panel.series, panel.columns, panel.as_of)
    for number in range(2):
        rows = int(np.diff(back.offsets)[number])
        end, own = int(panel.offsets[number + 1]), int(back.offsets[number + 1])
        np.testing.assert_array_equal(back.values[own - rows : own], panel.values[end - rows : end])


@given(st.floats(0, 0.6), st.integers(0, 5), st.sampled_from([1, 3]))
@settings(max_examples=10, deadline=None)
def test_newest_rows_forecast_like_the_whole_panel(missing: float, seed: int, members: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((1280, 2))
    values[generator.random(values.shape) < missing] = np.nan
    panel = Panel(
        data_set="made",
        frequency=Frequency("h"),
        target="load",
        covariates=("warmth",),
        series=("a", "b"),
        start=np.datetime64("2024-01-01T00:00:00", "us"),
        first_steps=np.array([0, 0]),
        offsets=np.array([0, 640, 1280]),
        values=values,
    )
    bundle = make_bundle(panel, series="id", members=members)
    rows = rows_of(panel, bundle.layout, bundle.history)
    back = panel_of(rows, bundle.layout, bundle.frequency)
    np.testing.assert_allclose(bundle.forecast(back).values_SHQ, bundle.forecast(panel).values_SHQ, rtol=1e-5)


@pytest.mark.parametrize("which", ["judged", "served"])
def test_intervals_learn_from_what_has_happened_and_from_nothing_else(panel: Panel, which: Weights) -> None:
    bundle = make_bundle(panel)
    if which == "served":
        bundle = replace(bundle, served=replace(bundle.served, until=bundle.judged.until))
    some = windows(panel, Span(150, 170), LOOKBACK, HORIZON)
    before = bundle.forecast_windows(panel, some, which)
    for origin in (149, 155):
        chosen = some.steps == origin
        steps = np.concatenate([np.arange(first, panel.n_steps) for first in panel.first_steps])
        values = panel.values.copy()
        values[steps > origin] = 1e3
        after = bundle.forecast_windows(replace(panel, values=values), some, which)
        np.testing.assert_array_equal(after[chosen], before[chosen])
        values = panel.values.copy()
        values[(steps == origin) & ~np.isnan(values[:, 0]), 0] *= 50
        after = bundle.forecast_windows(replace(panel, values=values), some, which)
        assert (after[chosen] != before[chosen]).any()


def test_served_weights_have_the_judged_ones_vouch_for_what_they_saw_themselves(panel: Panel) -> None:
    bundle, some = make_bundle(panel), newest(panel, LOOKBACK)
    plain = replace(bundle, judged=replace(bundle.judged, until=bundle.served.until))
    before, after = (one.forecast_windows(panel, some, "served") for one in (plain, bundle))
    np.testing.assert_array_equal(after[..., 1], before[..., 1])
    assert (after != before).any()
    sane = replace(bundle, served=replace(bundle.served, weights=bundle.judged.weights))
    other = replace(bundle, judged=replace(bundle.judged, weights=bundle.served.weights))
    widths = [one.forecast_windows(panel, some, "served") for one in (sane, other)]
    assert not np.allclose(*widths)


def test_no_member_reads_beyond_the_start_of_a_series(make_panel: MakePanel) -> None:
    """Not for the forecasts before either, from which the intervals learn."""
    panel = make_panel(steps=200, series=("a", "b"), first_steps=(0, 90))
    bundle, before = make_bundle(panel, members=3), panel.values.copy()
    forecast = bundle.forecast(panel).values_SHQ
    before[panel.rows(0)] *= 3
    changed = bundle.forecast(replace(panel, values=before)).values_SHQ
    assert not np.allclose(changed[0], forecast[0])
    np.testing.assert_array_equal(changed[1], forecast[1])


def test_rows_reach_back_to_what_fills_the_first_one(make_panel: MakePanel) -> None:
    panel = make_panel(steps=200)
    panel.values[140:160] = np.nan
    rows = rows_of(panel, make_bundle(panel).layout, LOOKBACK)
    assert len(rows) == 200 - 139
    assert not np.isnan(rows["load"][0])


def test_what_cannot_be_forecast_from(panel: Panel) -> None:
    bundle = make_bundle(panel, series="id")
    rows = rows_of(panel, bundle.layout, bundle.history)

    def ask(frame: pd.DataFrame) -> None:
        bundle.forecast(panel_of(frame, bundle.layout, bundle.frequency))

    with pytest.raises(DataRefused, match="no rows"):
        ask(rows.head(0))
    with pytest.raises(DataRefused, match="column warmth"):
        ask(rows.drop(columns="warmth"))
    with pytest.raises(DataRefused, match=r"made, series a, column load: .*a forecast reads 48"):
        ask(rows.groupby("id").tail(10))
    with pytest.raises(DataRefused, match="series zz: the model was not trained on this series"):
        ask(rows.assign(id=rows["id"].replace("a", "zz")))
    with pytest.raises(DataRefused, match="column load"):
        ask(rows.assign(load="many"))
