"""The judge: identical windows that nobody has seen, for everybody; the future never changes the past."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.catalog import DataSet, parse_data_set
from data.errors import DataRefused
from data.panel import Floats, Panel
from data.splits import Span, Splits, split
from lstm.evaluation.baselines import fit_linear, seasonal_naive
from lstm.promotion.judge import Candidate, Verdict, judge
from lstm.scaling import Scaler
from lstm.windows import Windows, windows

HORIZON, SEASON, LOOKBACK, DAY = 6, 24, 30, 24
MakePanel = Callable[..., Panel]
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)


def declared(**retrain: object) -> DataSet:
    space = {"lookback": [LOOKBACK], "segment_length": [1]}
    spans = {"horizon": HORIZON, "validation": "6d", "judge": "6d", "search_space": space}
    entry = {
        "source": {"kind": "csv", "path": "load.csv"},
        "time": "time",
        "target": "load",
        "frequency": "h",
        "seasons": [SEASON],
        "retrain": {**spans, **retrain},
    }
    return parse_data_set(Path("catalog.yaml"), "made", entry)


def naive(panel: Panel, windows: Windows) -> Floats:
    """The seasonal naive in five equal quantiles."""
    return np.repeat(seasonal_naive(panel, windows, HORIZON, SEASON)[..., np.newaxis], 5, axis=2)


def candidate(panel: Panel, last_step: int, **changes: object) -> Candidate:
    """One that has seen everything up to a grid step."""
    made = Candidate(naive, LOOKBACK, panel.frequency.shift(panel.start, last_step), panel.series)
    return replace(made, **changes)  # type: ignore[arg-type]


def tried(
    panel: Panel, champion: Candidate | None = None, data_set: DataSet | None = None, **changes: object
) -> tuple[Verdict, Splits]:
    data_set = data_set or declared()
    splits = split(panel, data_set.retrain)
    scaler = Scaler.fit(panel, splits.validation.last)
    challenger = candidate(panel, splits.validation.last, **changes)
    return judge(panel, splits, data_set, challenger, champion, scaler), splits


def test_everybody_is_judged_on_the_same_windows(make_panel: MakePanel) -> None:
    panel = make_panel(steps=700, series=("a", "b"), missing=0.05)
    seen: list[Windows] = []

    def forecast(_: Panel, windows: Windows) -> Floats:
        seen.append(windows)
        return naive(panel, windows)

    splits = split(panel, declared().retrain)
    champion = candidate(panel, splits.validation.last, forecast=forecast)
    verdict, _ = tried(panel, champion, forecast=forecast)
    assert list(verdict.forecasts) == list(verdict.scores)
    assert set(verdict.scores) == {"challenger", "champion", "seasonal_naive", "linear"}
    assert len(seen) == 2
    assert all(windows is verdict.bench.windows for windows in seen)
    assert {scores.windows for scores in verdict.scores.values()} == {len(verdict.bench.windows)}
    assert {made.shape for made in verdict.forecasts.values()} == {(len(verdict.bench.windows), HORIZON, 5)}


def test_without_a_champion_nobody_stands_in_for_it(make_panel: MakePanel) -> None:
    verdict, splits = tried(make_panel(steps=700))
    assert set(verdict.scores) == {"challenger", "seasonal_naive", "linear"}
    assert verdict.bench.windows.steps.min() == splits.judge.first - 1
    assert verdict.bench.windows.steps.max() == splits.judge.last - HORIZON


def test_the_seasonal_naive_has_a_mase_near_1_on_its_own_scale(make_panel: MakePanel) -> None:
    verdict, _ = tried(make_panel(steps=1500, series=("a", "b")))
    naive_scores, challenger = verdict.scores["seasonal_naive"], verdict.scores["challenger"]
    assert naive_scores.mase == pytest.approx(1, abs=0.1)
    assert challenger.mae == pytest.approx(naive_scores.mae)
    assert challenger.mse == pytest.approx(naive_scores.mse)
    assert verdict.scores["linear"].mae < naive_scores.mae


def test_scores_are_on_standardised_targets(make_panel: MakePanel) -> None:
    """Other units of the data change no score."""
    panel = make_panel(steps=700, series=("a", "b"))
    here, there = tried(panel)[0], tried(replace(panel, values=1000 * panel.values + 5))[0]
    for name, scores in here.scores.items():
        assert there.scores[name].mae == pytest.approx(scores.mae, rel=1e-6)
        assert there.scores[name].pinball == pytest.approx(scores.pinball, rel=1e-6)
    assert there.bench.naive_scale_W == pytest.approx(1000 * here.bench.naive_scale_W)


def test_baselines_have_quantiles_that_rise(make_panel: MakePanel) -> None:
    verdict, _ = tried(make_panel(steps=700))
    for name in ("seasonal_naive", "linear"):
        assert (np.diff(verdict.forecasts[name], axis=2) >= 0).all()
        assert verdict.scores[name].coverage == pytest.approx(0.8, abs=0.12)


def test_the_linear_model_learns_from_all_that_a_challenger_learned_from(make_panel: MakePanel) -> None:
    panel = make_panel(steps=900)
    verdict, splits = tried(panel)
    learned = windows(panel, Span(splits.train.first, splits.validation.last), SEASON, HORIZON)
    expected_WH = fit_linear(panel, learned, SEASON, HORIZON).forecast(panel, verdict.bench.windows)
    np.testing.assert_allclose(verdict.forecasts["linear"][..., 2], expected_WH)


def test_of_many_windows_each_says_more(make_panel: MakePanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Baselines adapt to what happened whether all windows are judged or a few of them."""
    monkeypatch.setattr("lstm.promotion.judge._MOST_WINDOWS", 60)
    bench = tried(make_panel(steps=900))[0].bench
    assert len(bench.windows) == 60
    assert bench.share == pytest.approx(60 / (6 * DAY - HORIZON + 1))
    narrow_HQ = np.broadcast_to([-0.02, -0.01, 0.0, 0.01, 0.02], (HORIZON, 5))
    point_WH = np.nan_to_num(bench.y_WH) + np.random.default_rng(0).normal(0, 1, bench.y_WH.shape)
    adapted, as_all = (one.intervals(point_WH, narrow_HQ) for one in (bench, replace(bench, share=1.0)))
    width, width_as_all = (float((one[..., -1] - one[..., 0]).mean()) for one in (adapted, as_all))
    assert width > 1.2 * width_as_all


def test_no_baseline_forecasts_below_0_where_no_target_is(make_panel: MakePanel) -> None:
    panel = make_panel(steps=900)
    panel = replace(panel, values=np.maximum(panel.values - np.nanmean(panel.values), 0.0))
    data_set = declared().model_copy(update={"non_negative": True})
    free, bound = (tried(panel, data_set=one)[0].forecasts for one in (declared(), data_set))
    for name in ("seasonal_naive", "linear"):
        assert free[name].min() < 0
        np.testing.assert_array_equal(bound[name], np.maximum(free[name], 0.0))


@SHARED
@given(reach=st.integers(-5 * DAY, 8 * DAY))
def test_what_a_champion_was_trained_on_is_never_judged(make_panel: MakePanel, reach: int) -> None:
    """`reach` steps of the judge span were in the champion's training."""
    panel = make_panel(steps=700)
    judged = split(panel, declared().retrain).judge
    champion = candidate(panel, judged.first - 1 + reach)
    if reach <= 3 * DAY:
        verdict, _ = tried(panel, champion)
        assert verdict.bench.windows.steps.min() + 1 == judged.first + max(reach, 0)
        assert verdict.bench.windows.steps.max() + HORIZON == judged.last
        return
    with pytest.raises(DataRefused, match=f"{max(6 * DAY - reach, 0)} of 144 steps are left") as refused:
        tried(panel, champion)
    assert "retire the champion" in str(refused.value)
    assert refused.value.data_set == "made"


def test_less_than_a_horizon_is_not_enough_to_judge_on(make_panel: MakePanel) -> None:
    panel, data_set = make_panel(steps=700), declared(judge="8h", horizon=6)
    judged = split(panel, data_set.retrain).judge
    with pytest.raises(DataRefused, match="5 of 8 steps are left"):
        tried(panel, candidate(panel, judged.first + 2), data_set)
    verdict, _ = tried(panel, candidate(panel, judged.first + 1), data_set)
    assert len(verdict.bench.windows) == 1


def test_the_champion_is_judged_on_the_series_that_it_knows(make_panel: MakePanel) -> None:
    panel = make_panel(steps=700, series=("a", "b", "c"))
    seen = split(panel, declared().retrain).validation.last
    asked: list[tuple[str, ...]] = []

    def forecast(given: Panel, windows: Windows) -> Floats:
        asked.append(given.series)
        return naive(given, windows)

    verdict, splits = tried(panel, candidate(panel, seen, series=("c", "x", "b"), forecast=forecast))
    assert verdict.bench.panel.series == ("b", "c")
    assert sorted(set(verdict.bench.windows.series.tolist())) == [0, 1]
    # A network refuses a panel with a series that it does not know, whichever windows are asked for.
    assert asked == [("b", "c")]
    alone = panel.select(["b", "c"])
    own = judge(
        alone,
        splits,
        declared(),
        candidate(alone, seen),
        candidate(alone, seen),
        Scaler.fit(alone, splits.validation.last),
    )
    for name, scores in verdict.scores.items():
        assert scores.mae == pytest.approx(own.scores[name].mae), name
    with pytest.raises(DataRefused, match="the champion knows none of the series") as refused:
        tried(panel, candidate(panel, seen, series=("x",)))
    assert "retire the champion" in refused.value.remedy


def test_the_longest_lookback_is_what_all_must_see(make_panel: MakePanel) -> None:
    panel = make_panel(steps=700, series=("old", "new"), first_steps=(0, 500))
    seen = split(panel, declared().retrain).validation.last
    for lookback, first in ((LOOKBACK, 555), (100, 599)):
        verdict, splits = tried(panel, candidate(panel, seen, lookback=lookback))
        mine = verdict.bench.windows.steps[verdict.bench.windows.series == 1]
        assert mine.min() == max(splits.judge.first - 1, 500 + lookback - 1) == first


def test_a_judge_span_without_an_observed_target_is_refused(make_panel: MakePanel) -> None:
    panel = make_panel(steps=700)
    values = panel.values.copy()
    values[split(panel, declared().retrain).judge.first :] = np.nan
    with pytest.raises(DataRefused, match="no window of 6 steps can be judged") as refused:
        tried(replace(panel, values=values))
    assert refused.value.column == "load"


@SHARED
@given(step=st.integers(0, 6 * DAY - HORIZON - 1), factor=st.floats(-50, 50))
def test_the_future_never_changes_the_past(make_panel: MakePanel, step: int, factor: float) -> None:
    """Whatever comes after a step of the judge span, forecasts from origins up to it stay as they are."""
    panel = make_panel(steps=700, series=("a", "b"))
    last = split(panel, declared().retrain).judge.first + step
    values = panel.values.copy()
    for number in range(2):
        rows = panel.rows(number)
        values[rows.start + last + 1 : rows.stop] *= factor
    before, after = tried(panel)[0], tried(replace(panel, values=values))[0]
    early = before.bench.windows.steps <= last
    assert 0 < early.sum() < len(early) or step == 6 * DAY - HORIZON - 1
    for name in ("seasonal_naive", "linear"):
        assert np.array_equal(before.forecasts[name][early], after.forecasts[name][early])
    assert np.array_equal(before.bench.scale_W, after.bench.scale_W)
    assert np.array_equal(before.bench.naive_scale_W, after.bench.naive_scale_W)


def test_a_season_longer_than_the_training_span_costs_no_night(make_panel: MakePanel) -> None:
    """The contract asks for the search's lookback only, so the linear baseline makes do with that."""
    data_set = declared().model_copy(update={"seasons": (SEASON, 10_000)})
    verdict, _ = tried(make_panel(steps=700), data_set=data_set)
    assert verdict.scores["linear"].finite


def test_where_windows_are_too_many_some_of_all_hours_are_judged(
    make_panel: MakePanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = tried(make_panel(steps=700))
    monkeypatch.setattr("lstm.promotion.judge._MOST_WINDOWS", 50)
    thin, _ = tried(make_panel(steps=700))
    assert len(thin.bench.windows) == 50
    # Every third window would be of eight hours of the day.
    assert len(set(thin.bench.windows.steps % 24)) > 16
    assert set(thin.bench.windows.origins) <= set(whole.bench.windows.origins)
