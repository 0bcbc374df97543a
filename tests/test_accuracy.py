"""The accuracy benchmark: its protocol, its campaigns, M4's measures, and the command."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from forked import Fork
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from benchmarks import accuracy, m4, standing
from benchmarks.campaign import Campaign, Plan, Unit, best_of_each, finalists
from benchmarks.narrator import Narrator
from benchmarks.protocol import (
    Case,
    every_window,
    interpolated,
    read_case,
    split_of,
    split_rows,
    unfolded,
)
from benchmarks.published import PublishedError, read_published
from data.errors import CatalogError, DataRefused, NightcastError
from data.panel import Panel
from data.splits import Span
from lstm.models.forecaster import build
from lstm.search import study
from lstm.search.space import centre
from lstm.training.predict import predict
from lstm.windows import targets, windows

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "import nursery; main = nursery.begin_accuracy(); main()"
ENTRY = {
    "source": {"kind": "csv", "path": "made.csv"},
    "time": "date",
    "target": "value",
    "frequency": "h",
    "clock": "data",
}
PLAN = Plan(horizons=(6, 12), lookbacks=(24,), seeds=(0, 1), trials=2, finalists=1, retrain={"max_epochs": 1})

MakePanel = Callable[..., Panel]


@pytest.fixture
def case(make_panel: MakePanel) -> Case:
    panel = unfolded(make_panel(steps=400, covariates=("other",)))
    return Case("made", panel, split_rows("made", 400, "70/10/20"), 24, ENTRY)


def campaign(case: Case, root: Path, plan: Plan = PLAN) -> Campaign:
    return Campaign(case, plan, standing.errors, root)


def write(path: Path, steps: int = 300, **columns: Any) -> Path:
    times = np.datetime64("2020-01-01T00:00:00", "us") + np.arange(steps) * np.timedelta64(1, "h")
    wave = np.sin(np.arange(steps) / 24 * 2 * np.pi)
    noise = np.random.default_rng(0).standard_normal((2, steps)) / 5
    frame = pl.DataFrame({"date": times, "HUFL": 5 + wave + noise[0], "OT": 20 - wave + noise[1], **columns})
    frame.with_columns(pl.col("date").dt.strftime("%Y-%m-%d %H:%M:%S")).write_csv(path)
    return path


def write_series(path: Path, steps: int, **first_steps: int) -> Path:
    """A file of several series, each with its own level, that begin at these steps."""
    parts = []
    for number, (series, first) in enumerate(first_steps.items()):
        step = np.arange(first, steps)
        times = np.datetime64("2020-01-01T00:00:00", "us") + step * np.timedelta64(1, "h")
        load = 1000.0 * number + np.sin(step / 24 * 2 * np.pi)
        parts.append(pl.DataFrame({"time": times, "meter": [series] * len(step), "load": load}))
    pl.concat(parts).with_columns(pl.col("time").dt.strftime("%Y-%m-%d %H:%M:%S")).write_csv(path)
    return path


def test_splits_are_the_published_ones() -> None:
    def lengths(steps: int, kind: Any) -> list[int]:
        splits = split_rows("made", steps, kind)
        return [len(span) for span in (splits.train, splits.validation, splits.judge)]

    assert lengths(17_420, "ETTh") == [8_640, 2_880, 2_880]
    assert lengths(69_680, "ETTm") == [34_560, 11_520, 11_520]
    assert lengths(26_304, "70/10/20") == [18_412, 2_632, 5_260]
    kinds = [split_of(stem) for stem in ("ETTh1", "etth2", "ETTm1", "weather")]
    assert kinds == ["ETTh", "ETTh", "ETTm", "70/10/20"]
    with pytest.raises(DataRefused, match=r"Too short: 300 steps.*--split 70/10/20"):
        split_rows("made", 300, "ETTh")


@given(st.integers(10, 100_000))
def test_the_parts_of_a_split_follow_each_other_and_use_every_row(steps: int) -> None:
    splits = split_rows("made", steps, "70/10/20")
    assert splits.train.first == 0
    assert splits.validation.first == splits.train.last + 1
    assert splits.judge.first == splits.validation.last + 1
    assert splits.judge.last == steps - 1


def test_windows_are_as_many_as_published(make_panel: MakePanel) -> None:
    panel, splits = make_panel(steps=14_400), split_rows("made", 14_400, "ETTh")
    found = [every_window(panel, splits.judge, horizon) for horizon in (96, 192, 336, 720)]
    assert [len(each) for each in found] == [2_785, 2_689, 2_545, 2_161]
    for lookback in (96, 720):
        ours = windows(panel, splits.judge, lookback, 96)
        assert np.array_equal(ours.origins, found[0].origins)


def test_no_window_is_dropped_for_its_lookback_and_none_without_a_target_is_scored(
    make_panel: MakePanel,
) -> None:
    panel = make_panel(steps=200, series=("a", "b"))
    values = panel.values.copy()
    values[100:120, 0] = np.nan
    panel = replace(panel, values=values)
    chosen = every_window(panel, Span(100, 199), 10)
    # Eleven horizons of series a lie within its gap.
    assert np.bincount(chosen.series).tolist() == [91 - 11, 91]
    assert not np.isnan(targets(panel, chosen, 10)).all(axis=1).any()


def test_a_series_that_starts_late_is_read_and_scored_on_rows_of_its_own(tmp_path: Path) -> None:
    case = read_case(write_series(tmp_path / "made.csv", 400, early=0, late=150), "load")
    panel = case.panel
    assert panel.first_steps.tolist() == [0, 0]
    late = panel.values[panel.rows(1), 0]
    assert np.isnan(late[:150]).all()
    assert not np.isnan(late[150:]).any()
    chosen = every_window(panel, case.splits.judge, 24)
    # One level above the other by a thousand: the rows of another series would show.
    levels = np.round(targets(panel, chosen, 24) / 1000)
    assert np.array_equal(levels, np.broadcast_to(chosen.series[:, np.newaxis], levels.shape))


def test_no_window_begins_before_its_series(make_panel: MakePanel) -> None:
    panel = make_panel(steps=100, series=("a", "b"), first_steps=(0, 90))
    chosen = every_window(panel, Span(60, 99), 5)
    assert np.bincount(chosen.series).tolist() == [36, 5]
    assert (chosen.origins >= panel.offsets[chosen.series]).all()
    assert np.array_equal(
        chosen.steps, (chosen.origins - panel.offsets[chosen.series]) + panel.first_steps[chosen.series]
    )


def test_a_series_without_a_train_row_is_refused(tmp_path: Path) -> None:
    path = write_series(tmp_path / "made.csv", 400, early=0, late=300)
    with pytest.raises(DataRefused, match=r"late: Nothing observed in train.*Remedy: leave it out"):
        read_case(path, "load").check(24, 48)


def test_a_target_that_ends_before_another_column_loses_no_row(tmp_path: Path) -> None:
    path = write(tmp_path / "made.csv")
    frame = pl.read_csv(path).with_columns(
        HUFL=pl.when(pl.int_range(pl.len()) < 270).then(pl.col("HUFL")).otherwise(None)
    )
    frame.write_csv(path)
    panel = read_case(path).panel
    assert (panel.series, panel.future, panel.n_steps) == (("HUFL", "OT"), (), 300)
    assert np.isnan(panel.values[270:300, 0]).all()
    assert panel.values[300:, 0] == pytest.approx(frame["OT"].to_numpy())


def test_a_series_of_its_own_knows_nothing_ahead(make_panel: MakePanel) -> None:
    panel = replace(
        make_panel(steps=50, covariates=("other",)),
        covariates=(),
        future=("other",),
        ahead=np.zeros((1, 5, 1)),
    )
    series = unfolded(panel)
    assert (series.series, series.future, series.ahead.size) == (("load", "other"), (), 0)


def test_with_a_target_the_other_columns_keep_their_roles(tmp_path: Path) -> None:
    path = write_series(tmp_path / "made.csv", 300, a=0, b=0, c=0)
    frame = pl.read_csv(path).with_columns(
        kind=pl.when(pl.col("meter") == "a").then(pl.lit("flat")).otherwise(pl.lit("house")),
        size=pl.col("meter").replace_strict({"a": 10.0, "b": 20.0, "c": 30.0}),
        noise=pl.int_range(pl.len()) % 17,
        warmth=pl.int_range(pl.len()) % 24,
    )
    ends = pl.col("time").rank("dense").over("meter") <= 270
    frame = frame.with_columns(pl.when(ends).then(pl.col("load", "noise")).otherwise(None))
    frame.write_csv(path)
    case = read_case(path, "load")
    panel = case.panel
    assert (panel.target, panel.covariates, panel.future) == ("load", ("noise",), ("warmth",))
    assert "warmth known ahead" in accuracy._title(case)
    assert case.data_set(6, (24,), {}).static == ("size", "kind")
    assert panel.static == {"kind": ("flat", "house", "house"), "size": (10.0, 20.0, 30.0)}
    # What was guessed to be the target is a covariate like another.
    panel = read_case(path, "noise").panel
    assert (panel.target, panel.covariates, panel.future) == ("noise", ("load",), ("warmth",))
    # Nothing reaches beyond this one, so nothing is known ahead of it.
    panel = read_case(path, "warmth").panel
    assert (panel.covariates, panel.future) == (("load", "noise"), ())


def test_columns_become_series_and_gaps_straight_lines(make_panel: MakePanel) -> None:
    panel = make_panel(steps=50, covariates=("other", "third"))
    series = unfolded(panel)
    assert series.series == ("load", "other", "third")
    for number in range(3):
        assert np.array_equal(series.values[series.rows(number), 0], panel.values[:, number])
    holed = panel.values.copy()
    holed[10:13, 1] = np.nan
    filled = interpolated(replace(panel, values=holed), 40).values
    assert filled[10:13, 1] == pytest.approx(np.linspace(holed[9, 1], holed[13, 1], 5)[1:-1])
    assert np.array_equal(filled[:, 0], panel.values[:, 0])


def test_a_gap_into_the_test_part_shows_nothing_of_it_before(make_panel: MakePanel) -> None:
    panel = make_panel(steps=50, series=("a", "b"), first_steps=(0, 10))
    values = panel.values.copy()
    for number in range(2):
        values[panel.rows(number)][38 - panel.first_steps[number] : 45 - panel.first_steps[number]] = np.nan
    holed = replace(panel, values=values)
    filled = interpolated(holed, 40)
    for number, first in enumerate(panel.first_steps):
        own, before = filled.values[filled.rows(number), 0], values[panel.rows(number), 0]
        newest, next_one = before[37 - first], before[45 - first]
        # What was seen ends with its newest value; the test part has the published line.
        assert own[38 - first : 41 - first] == pytest.approx([newest] * 3)
        assert own[41 - first : 45 - first] == pytest.approx(np.linspace(newest, next_one, 9)[4:8])
    values[-5:] += 100
    values[panel.offsets[1] - 5 : panel.offsets[1]] += 100
    other = interpolated(replace(panel, values=values), 40).until(40)
    assert np.array_equal(other.values, filled.until(40).values)


def test_errors_are_means_over_all_windows_whatever_the_pieces(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = every_window(case.panel, case.splits.judge, 6)
    y = case.scaler.scale_target(targets(case.panel, chosen, 6), chosen.series)
    zero = standing.errors(case, 6, (0.5,), lambda piece: np.zeros((len(piece), 6, 1)))
    squared, absolute = (y**2).mean(), np.abs(y).mean()
    wanted = {"mse": squared, "mse_of_median": squared, "mae": absolute, "pinball": absolute / 2}
    assert zero == pytest.approx(wanted)
    # Squared errors are those of the mean that the quantiles make; .75 stands for the levels above .625.
    skewed = np.array([0.0, 0.0, 4.0])
    found = standing.errors(case, 6, (0.25, 0.5, 0.75), lambda piece: np.tile(skewed, (len(piece), 6, 1)))
    mean = 0.375 * 4
    assert (found["mse"], found["mse_of_median"]) == pytest.approx((((y - mean) ** 2).mean(), squared))
    whole = standing.naive(case, 6)
    monkeypatch.setattr(standing, "_MOST_NUMBERS", 40)
    assert standing.naive(case, 6) == pytest.approx(whole)


def test_ridge_with_its_residuals_is_calibrated_where_the_noise_stays(make_panel: MakePanel) -> None:
    panel = make_panel(steps=3000, noise=0.5)
    case = Case("made", panel, split_rows("made", 3000, "70/10/20"), 24, ENTRY)
    rows = standing.ridge(case, 6, 48, (0.1, 0.5, 0.9))
    assert set(rows) == {"ridge", "ridge, residual quantiles"}
    assert rows["ridge, residual quantiles"]["mae"] == pytest.approx(rows["ridge"]["mae"], rel=0.05)
    assert rows["ridge"]["mse"] < standing.naive(case, 6)["mse"]
    # Of a standard normal error, the mean of pinball over these levels is .276 standard deviations.
    deviation = rows["ridge"]["mse"] ** 0.5
    assert rows["ridge, residual quantiles"]["pinball"] == pytest.approx(0.250 * deviation, rel=0.1)


class Killed(BaseException):
    """As abrupt as a signal, within one process."""


class Watcher(Narrator):
    """Counts what a campaign does, and ends it after so many seeds."""

    def __init__(self, seeds: int = 99) -> None:
        super().__init__(None)
        self.trials = self.seeds = 0
        self._last = seeds

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        self.trials += 1

    def scored(self, unit: object, scores: Mapping[str, float]) -> None:
        self.seeds += 1
        if self.seeds == self._last:
            raise Killed


def test_a_campaign_goes_on_where_it_was_killed_and_ends_once(case: Case, tmp_path: Path) -> None:
    first, second, third = Watcher(seeds=1), Watcher(), Watcher()
    with pytest.raises(Killed):
        campaign(case, tmp_path).run(first)
    assert not campaign(case, tmp_path).is_finished
    campaign(case, tmp_path).run(second)
    campaign(case, tmp_path).run(third)
    assert (first.trials, second.trials, third.trials) == (3, 0, 0)
    assert (first.seeds, second.seeds, third.seeds) == (1, 3, 0)
    done = campaign(case, tmp_path)
    assert done.is_finished
    assert [len(done.scores(horizon)["mse"]) for horizon in (6, 12)] == [2, 2]
    assert done.scores(6)["mse"][0] != done.scores(6)["mse"][1]


def test_search_and_training_never_see_the_test_part(case: Case, tmp_path: Path) -> None:
    rows = case.panel.values.copy()
    for number in range(len(case.panel.series)):
        rows[case.panel.rows(number)][case.splits.judge.first :] *= -7
    changed = replace(case, panel=replace(case.panel, values=rows))
    plan = replace(PLAN, horizons=(6,), seeds=(0,))
    before, after = campaign(case, tmp_path / "a", plan), campaign(changed, tmp_path / "b", plan)
    for each in (before, after):
        each.run(Watcher())
    best = [study.best(each._url, "horizon-6") for each in (before, after)]
    found = [{**vars(one), "calibration": one.calibration.to_dict()} for one in best]
    assert found[0] == found[1]
    weights = [each.folder / "seeds" / "horizon-6-pinball-seed-0-0.safetensors" for each in (before, after)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert before.scores(6) != after.scores(6)
    # In the same place, what was searched and trained is taken for what it is, and only scored anew.
    again = Watcher()
    campaign(changed, tmp_path / "a", plan).run(again)
    assert (again.trials, again.seeds) == (0, 1)


def test_a_longer_horizon_tries_only_finalists_of_its_own_space(make_panel: MakePanel) -> None:
    case = Case("made", make_panel(steps=800), split_rows("made", 800, "70/10/20"), 24, ENTRY)
    short, long = (case.data_set(horizon, (24,), {}).retrain.search_space for horizon in (6, 72))
    assert "calendar" in short.head
    assert "calendar" not in long.head
    assert (centre(short)["head"], centre(long)["head"]) == ("calendar", "segments")
    tried = [
        {**centre(short), "head": head, "num_layers": layers}
        for head, layers in (("calendar", 1), ("segments", 1), ("calendar", 2), ("segments", 2))
    ]
    values = (0.4, None, 0.3, 0.5)
    rows = [
        study.TrialRow(number, "finished" if value else "pruned", value, params, (), (), 1.0, "")
        for number, (value, params) in enumerate(zip(values, tried, strict=True))
    ]
    assert finalists(rows, short, 2) == [tried[2], tried[0]]
    assert finalists(rows, long, 2) == [tried[3]]
    assert finalists(rows[:3], long, 2) == [centre(long)]


def test_an_ensemble_is_the_best_of_each_normalisation_that_a_space_holds(make_panel: MakePanel) -> None:
    case = Case("made", make_panel(steps=800), split_rows("made", 800, "70/10/20"), 24, ENTRY)
    short, long = (case.data_set(horizon, (24,), {}).retrain.search_space for horizon in (6, 72))
    tried = [
        {**centre(short), "head": head, "normalisation": kind, "num_layers": layers}
        for head, kind, layers in (
            ("calendar", "last_value", 1),
            ("segments", "last_value", 2),
            ("calendar", "none", 2),
            ("segments", "instance", 1),
        )
    ]
    values = (0.4, 0.5, 0.3, None)
    rows = [
        study.TrialRow(number, "finished" if value else "pruned", value, params, (), (), 1.0, "")
        for number, (value, params) in enumerate(zip(values, tried, strict=True))
    ]
    assert best_of_each(rows, short) == [tried[2], tried[0]]
    assert best_of_each(rows, long) == [{**centre(long), "normalisation": "none"}, tried[1]]


@pytest.mark.parametrize("trials", [0, 3])
def test_an_ensemble_forecasts_the_mean_of_its_networks(case: Case, tmp_path: Path, trials: int) -> None:
    plan = replace(PLAN, trials=trials, seeds=(0,), retrain={"max_epochs": 1, "ensemble": True})
    watcher, forecasts = Watcher(), {}

    def score(_: Case, horizon: int, __: Any, forecast: standing.Forecast) -> dict[str, float]:
        forecasts[horizon] = forecast(every_window(case.panel, case.splits.judge, horizon))
        return {}

    ensemble = Campaign(case, plan, score, tmp_path)
    ensemble.run(watcher)
    # Only the shortest horizon searches; its first trials are the middle with each normalisation.
    assert (watcher.trials, watcher.seeds) == (trials, 2)
    for horizon in plan.horizons:
        recipes = ensemble.recipes(horizon)
        kinds = [recipe.model.normalisation for recipe in recipes]
        assert sorted(kinds) == ["instance", "last_value", "none"]
        assert {recipe.model.horizon for recipe in recipes} == {horizon}
        files = [
            ensemble.folder / "seeds" / f"horizon-{horizon}-pinball-seed-0-{n}.safetensors" for n in range(3)
        ]
        scaled = case.scaler.scale(case.panel, horizon)
        asked = every_window(case.panel, case.splits.judge, horizon)
        each = []
        for recipe, file in zip(recipes, files, strict=True):
            kept = load_file(file)
            state = {key: kept[f"best.{key}"] for key in build(recipe.model).state_dict()}
            each.append(predict(recipe.model, state, scaled, asked, torch.device("cpu")))
        assert not np.allclose(each[0], each[1])
        np.testing.assert_allclose(forecasts[horizon], np.mean(each, axis=0), rtol=1e-5, atol=1e-6)


def test_another_search_lies_in_another_folder_but_more_seeds_and_horizons_go_on(
    case: Case, tmp_path: Path
) -> None:
    folder = campaign(case, tmp_path).folder
    for same in ({"horizons": (6, 24)}, {"seeds": (5,)}):
        assert campaign(case, tmp_path, replace(PLAN, **same)).folder == folder
    for other in ({"horizons": (12,)}, {"trials": 3}, {"lookbacks": (48,)}, {"retrain": {"max_epochs": 2}}):
        assert campaign(case, tmp_path, replace(PLAN, **other)).folder != folder
    assert not folder.exists()


def test_where_what_scores_changes_the_trained_models_are_scored_anew(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, trials=0, horizons=(6,), seeds=(0,))
    before = campaign(case, tmp_path, plan)
    before.run(Watcher())
    weights = before.folder / "seeds" / f"{before.units[0]}-0.safetensors"
    trained = weights.stat().st_mtime_ns
    other_season = campaign(replace(case, season=12), tmp_path, plan)
    monkeypatch.setattr("benchmarks.campaign.SCORING", ("benchmarks/standing.py",))
    other_code = campaign(case, tmp_path, plan)
    for changed in (other_season, other_code):
        assert (changed.folder, changed.is_finished) == (before.folder, False)
        watcher = Watcher()
        changed.run(watcher)
        assert watcher.seeds == 1
        assert changed.scores(6) == before.scores(6)
    assert weights.stat().st_mtime_ns == trained


def test_without_a_search_the_defaults_are_trained(case: Case, tmp_path: Path) -> None:
    plan = replace(PLAN, trials=0, horizons=(6,), seeds=(3,))
    watcher = Watcher()
    defaults = campaign(case, tmp_path, plan)
    defaults.run(watcher)
    assert (watcher.trials, watcher.seeds) == (0, 1)
    assert not (defaults.folder / "studies.db").exists()
    assert str(defaults.units[0]) == str(Unit(6, 3)) == "horizon-6-pinball-seed-3"


def test_a_model_by_squared_errors_has_the_mse_and_the_other_one_the_rest(case: Case, tmp_path: Path) -> None:
    one = campaign(case, tmp_path, replace(PLAN, trials=0, horizons=(6,), seeds=(0,)))
    two = campaign(case, tmp_path, replace(one.plan, losses=("pinball", "squared")))
    one.run(Watcher())
    watcher = Watcher()
    two.run(watcher)
    assert (one.folder, watcher.seeds) == (two.folder, 1)
    assert two.scores(6)["mse"] != one.scores(6)["mse"]
    assert two.scores(6)["mae"] == one.scores(6)["mae"]


OPTIONS = ["--horizons", "6", "12", "--lookback", "24", "--seeds", "2", "--trials", "2"]
OPTIONS += ["--finalists", "1", "--epochs", "1"]


def test_the_json_has_a_value_a_seed_the_configuration_and_the_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "made.csv")
    out, work = tmp_path / "out.json", tmp_path / "work"
    options = [str(path), *OPTIONS, "--processes", "1", "--work", str(work), "--json", str(out)]
    monkeypatch.setenv("COLUMNS", "30")
    accuracy.measure(options)
    found = json.loads(out.read_text())
    assert set(found) == {"horizons", "config", "seconds"}
    assert list(found["horizons"]) == ["6", "12"]
    for scores in found["horizons"].values():
        assert all(len(scores[metric]) == 2 for metric in ("mse", "mae"))
    assert found["config"]["recipes"]["12"][0]["model"]["horizon"] == 12
    assert found["seconds"] > 0
    printed = capsys.readouterr().out
    assert "Nightcast, searched" in printed
    assert "seasonal naive" in printed
    # On a terminal of any width: no number is cut.
    assert "…" not in printed
    assert re.search(r"Nightcast, searched +│ +24 │ +\d?\.\d{3} / \d?\.\d{3} │", printed)
    accuracy.measure(options)
    assert capsys.readouterr().out == printed
    assert json.loads(out.read_text()) == found


def test_a_target_is_forecast_from_all_columns_beside_ridge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "made.parquet"
    pl.read_csv(write(tmp_path / "made.csv", 2_000), try_parse_dates=True).write_parquet(path)
    options = f"{path} --target OT --horizons 6 --lookback 24 --seeds 1 --no-search --epochs 1 --processes 1"
    accuracy.measure(
        [*options.split(), "--work", str(tmp_path / "work"), "--json", str(tmp_path / "out.json")]
    )
    printed = capsys.readouterr().out
    assert "mse / mae / pinball" in printed
    assert "ridge, residual quantiles" in printed
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found["horizons"]["6"]) == {"mse", "mse_of_median", "mae", "pinball"}
    assert found["config"]["recipes"]["6"][0]["model"]["columns"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["absent.csv"], "There is no file"),
        (["dateless.csv"], "No column holds times.*Remedy"),
        (["made.csv", "--horizons", "96"], "leave 30 to validation; horizon 96.*smaller --horizons"),
        (["made.csv", "--horizons", "12", "--lookback", "300"], "leave 210 to train.*--lookback"),
        (["made.csv", "--target", "OTT"], "column OTT: There is no such.*HUFL, OT.*did you mean 'OT'"),
        (["made.csv", "--split", "ETTh"], "needs 14400.*--split 70/10/20"),
        (["made.csv", "--horizons", "6", "--published", "absent.yaml"], "absent.yaml.*--published"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_remedy(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "made.csv")
    (tmp_path / "dateless.csv").write_text("a,b\n1,2\n3,4\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NightcastError, match=message):
        accuracy.measure([*options, "--processes", "1"])
    assert not (tmp_path / ".nightcast").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--m4 a.csv b.csv --losses two", "--losses two.*M4's measures have no squared error"),
        ("made.csv --minutes 0", "--minutes: 0 is not above 0"),
        ("made.csv --minutes nan", "--minutes: nan is not above 0"),
        ("made.csv --minutes inf", "--minutes: inf"),
        ("made.csv --seeds 0", "--seeds: 0 is below 1"),
    ],
)
def test_options_that_cannot_be_are_refused_before_any_work(
    options: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / "made.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        accuracy.measure([*options.split(), "--processes", "1"])
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / ".nightcast").exists()


def test_a_test_part_without_a_target_is_refused_before_any_work(case: Case, tmp_path: Path) -> None:
    values = case.panel.values.copy()
    for number in range(len(case.panel.series)):
        values[case.panel.rows(number)][case.splits.judge.first :] = np.nan
    empty = replace(case, panel=replace(case.panel, values=values))
    with pytest.raises(DataRefused, match=r"Nothing observed in test"):
        campaign(empty, tmp_path)
    assert not list(tmp_path.iterdir())


def test_ridge_reads_what_train_holds_or_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "made.csv", 200)
    options = "--target OT --horizons 6 --lookback 24 --seeds 1 --no-search --epochs 1 --processes 1"
    accuracy.measure([str(path), *options.split(), "--work", str(tmp_path / "work")])
    # Of 140 train steps, all but the horizon.
    assert re.search(r"ridge +│ +134 ", capsys.readouterr().out)
    # Eight hours a day make windows of four steps, but none of a week.
    frame = pl.read_csv(write(path, 300)).with_row_index()
    is_day = (pl.col("index") % 24 < 8) | (pl.col("index") > 200)
    frame.with_columns(pl.when(is_day).then("OT").otherwise(None)).drop("index").write_csv(path)
    options = options.replace("--lookback 24", "--lookback 4")
    accuracy.measure([str(path), *options.split(), "--work", str(tmp_path / "work")])
    assert re.search(r"ridge, no train window +│ +168 │ +- / - / - ", capsys.readouterr().out)


def test_a_catalog_could_not_hold_it_either(case: Case, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="max_epochs"):
        campaign(case, tmp_path, replace(PLAN, retrain={"max_epochs": 0}))


def test_published_numbers_are_read_by_the_files_name(tmp_path: Path) -> None:
    rows = read_published(ROOT / "benchmarks" / "published.yaml", "etth1")
    assert {row.model for row in rows} >= {"PatchTST/64", "iTransformer", "DLinear", "SegRNN (GRU)"}
    assert all(set(row.scores) == {96, 192, 336, 720} for row in rows)
    assert read_published(ROOT / "benchmarks" / "published.yaml", "other") == []
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("a:\n  - model: b\n")
    with pytest.raises(PublishedError, match=r"wrong.yaml.*published.yaml"):
        read_published(wrong, "a")


def test_smape_and_naive2_by_hand() -> None:
    assert m4.smape(np.array([[100.0, 0.0]]), np.array([[50.0, 0.0]])) == pytest.approx(200 * 50 / 150 / 2)
    # Level 10 times 0.5 and 1.5 in turn: the moving average is 10 wherever it is whole.
    wave = np.tile([5.0, 15.0], 20)
    assert m4.seasonal_indices(wave, 2) == pytest.approx([0.5, 1.5])
    assert m4.is_seasonal(wave, 2)
    # The last value, 15, is 10 without its season.
    assert m4.naive2(wave, 2, 3) == pytest.approx([5, 15, 5])
    assert m4.naive2(wave[:-1], 2, 3) == pytest.approx([15, 5, 15])
    assert m4.seasonal_indices(np.tile([1.0, 2.0, 3.0], 9), 3) == pytest.approx([0.5, 1.0, 1.5])
    # Not seasonal: fewer than three seasons, a constant, no season at all.
    for values, season in ((wave[:5], 2), (np.ones(40), 2), (wave, 1)):
        assert not m4.is_seasonal(values, season)
        assert m4.naive2(values, season, 2) == pytest.approx([values[-1]] * 2)


@given(st.lists(st.floats(1, 100), min_size=12, max_size=40), st.floats(0.1, 10))
def test_naive2_scales_with_the_series(values: list[float], factor: float) -> None:
    series = np.array(values)
    assert m4.naive2(series * factor, 4, 6) == pytest.approx(factor * m4.naive2(series, 4, 6))


def collection(folder: Path, lengths: tuple[int, ...] = (40, 60, 72), horizon: int = 6) -> tuple[Path, Path]:
    train, test, generator = ['"V1","V2"'], ['"V1","V2"'], np.random.default_rng(0)
    width = max(lengths)
    for number, length in enumerate(lengths):
        wave = 50 + 20 * np.sin(np.arange(length + horizon) / 12 * 2 * np.pi + number)
        values = [f"{value:.2f}" for value in wave + generator.standard_normal(length + horizon)]
        train.append(",".join([f'"M{number}"', *values[:length], *[""] * (width - length)]))
        test.append(",".join([f'"M{number}"', *values[length:]]))
    for rows, count in ((train, width), (test, horizon)):
        rows[0] = ",".join(f'"V{column}"' for column in range(1, count + 2))
    paths = folder / "made-train.csv", folder / "made-test.csv"
    for path, rows in zip(paths, (train, test), strict=True):
        path.write_text("\n".join(rows) + "\n")
    return paths


def test_a_collection_is_aligned_at_its_ends(tmp_path: Path) -> None:
    case = m4.read_m4(*collection(tmp_path), 12)
    assert case.panel.series == ("M0", "M1", "M2")
    assert len(case.splits.judge) == len(case.splits.validation) == 6
    chosen = every_window(case.panel, case.splits.judge, 6)
    assert chosen.series.tolist() == [0, 1, 2]
    last = pl.read_csv(tmp_path / "made-test.csv")[:, 1:].to_numpy()
    assert targets(case.panel, chosen, 6) == pytest.approx(last)
    assert case.seen.n_steps == case.panel.n_steps - 6


@pytest.mark.parametrize("season", [4, 12, 24])
def test_a_collection_has_no_times_so_its_calendar_says_nothing(tmp_path: Path, season: int) -> None:
    case = m4.read_m4(*collection(tmp_path, (400, 420, 440)), season, (12,))
    assert case.scaler.cycles == ()
    task = campaign(case, tmp_path, replace(PLAN, horizons=(6,), lookbacks=(12,)))._tasks[6]
    for scaled in (case.scaler.scale(case.panel, 6), task.scaled):
        assert not scaled.calendar.time_UF.any()
        assert not scaled.calendar.day_DF.any()


def test_m4s_measures_are_relative_to_naive2(tmp_path: Path) -> None:
    case = m4.read_m4(*collection(tmp_path), 12)
    rows = m4.baselines(case, 6)
    assert rows["Naive2"]["owa"] == pytest.approx(1)
    perfect = m4.measures(case, 6, targets(case.panel, every_window(case.panel, case.splits.judge, 6), 6))
    assert perfect == {"smape": 0, "mase": 0, "owa": 0}
    past = pl.read_csv(tmp_path / "made-train.csv").to_numpy()[:, 1:].astype(float)
    future = pl.read_csv(tmp_path / "made-test.csv").to_numpy()[:, 1:].astype(float)
    each = []
    for before, after in zip(past, future, strict=True):
        seen = before[~np.isnan(before)]
        scale = np.abs(seen[12:] - seen[:-12]).mean()
        each.append(np.abs(after - seen[-12:][:6]).mean() / scale)
    assert rows["seasonal naive"]["mase"] == pytest.approx(np.mean(each))


def test_a_collection_is_measured_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = collection(tmp_path)
    options = f"--m4 {train} {test} --season 12 --seeds 1 --no-search --epochs 1 --processes 1"
    out = tmp_path / "out.json"
    accuracy.measure([*options.split(), "--work", str(tmp_path / "work"), "--json", str(out)])
    printed = capsys.readouterr().out
    assert "smape / mase / owa" in printed
    assert "Naive2" in printed
    assert set(json.loads(out.read_text())["horizons"]["6"]) == {"smape", "mase", "owa"}


def test_files_of_two_collections_are_refused(tmp_path: Path) -> None:
    train, test = collection(tmp_path)
    test.write_text(test.read_text().replace("M1", "X1"))
    with pytest.raises(DataRefused, match=r"X1: .*lacks the series.*one collection"):
        m4.read_m4(train, test, 12)
    test.write_text("id,V1\nM0,a\n")
    with pytest.raises(DataRefused, match="cannot be read as a collection"):
        m4.read_m4(train, test, 12)


@pytest.mark.slow
def test_two_processes_killed_go_on_to_the_same_table(tmp_path: Path) -> None:
    path, work = write(tmp_path / "made.csv"), tmp_path / "work"
    arguments = [str(path), *OPTIONS, "--work", str(work), "--json", str(tmp_path / "out.json")]

    def start() -> Fork:
        return Fork(COMMAND, *arguments, environment={**os.environ, "OMP_NUM_THREADS": "1"}, folder=ROOT)

    first = start()
    deadline = time.monotonic() + 120
    while not list(work.glob("*/scores-*/*.json")) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    early = {file.name: file.read_bytes() for file in work.glob("*/scores-*/horizon-*.json")}
    assert early
    assert start().wait() == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [len(scores["mse"]) for scores in found["horizons"].values()] == [2, 2]
    for name, content in early.items():
        assert next(work.glob(f"*/scores-*/{name}")).read_bytes() == content
