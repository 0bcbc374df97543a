"""A campaign: it resumes, sees nothing of the test part, and averages what an ensemble forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import ENTRY, PLAN, MakePanel, campaign, make_case
from safetensors.torch import load_file

from benchmarks import standing
from benchmarks.campaign import Campaign, Unit, within
from benchmarks.narrator import Narrator
from benchmarks.protocol import Case, every_window, split_rows
from lstm.models.forecaster import build
from lstm.search import study
from lstm.search.space import centre
from lstm.training.predict import predict


@pytest.fixture
def case(make_panel: MakePanel) -> Case:
    return make_case(make_panel)


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
    assert (first.trials, second.trials, third.trials) == (2, 0, 0)
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
    best = [study.chosen(each._url, "horizon-6") for each in (before, after)]
    found = [{**vars(one), "calibration": one.calibration.to_dict()} for one in best]
    assert found[0] == found[1]
    weights = [each.folder / "seeds" / "horizon-6-pinball-seed-0-0.safetensors" for each in (before, after)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert before.scores(6) != after.scores(6)
    # In the same place, what was searched and trained is taken for what it is, and only scored anew.
    again = Watcher()
    campaign(changed, tmp_path / "a", plan).run(again)
    assert (again.trials, again.seeds) == (0, 1)


def test_a_longer_horizon_takes_its_own_middle_where_its_space_lacks_what_was_chosen(
    make_panel: MakePanel,
) -> None:
    case = Case("made", make_panel(steps=800), split_rows("made", 800, "70/10/20"), 24, ENTRY)
    short, long = (case.data_set(horizon, (24,), {}).retrain.search_space for horizon in (6, 72))
    assert ("calendar" in short.head, "calendar" in long.head) == (True, False)
    assert (centre(short)["head"], centre(long)["head"]) == ("calendar", "segments")
    calendar = {**centre(short), "dropout": 0.3, "normalisation": "none"}
    segments = {**calendar, "head": "segments"}
    assert within(short, calendar) == calendar
    assert within(long, segments) == segments
    assert within(long, calendar) == {**centre(long), "normalisation": "none"}


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
