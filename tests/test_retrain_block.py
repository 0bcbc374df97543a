"""The retrain block of a catalog entry: defaults for every frequency, and a search space that makes sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from entries import parse, refused
from hypothesis import given
from hypothesis import strategies as st

from data.calendar import Frequency
from data.catalog import parse_data_set
from data.retrain import Budget, Interval, Margins, Retrain, SearchSpace, default_seasons, defaults


@pytest.mark.parametrize(
    "frequency", ["min", "5min", "15min", "30min", "h", "6h", "12h", "D", "W", "W-MON", "MS"]
)
def test_four_keys_are_enough_at_every_frequency(frequency: str) -> None:
    data_set = parse(frequency=frequency)
    retrain = data_set.retrain
    assert data_set.seasons == default_seasons(data_set.grid)
    for span in (retrain.validation, retrain.judge):
        assert data_set.grid.steps(span) >= retrain.horizon
    assert all(
        lookback % s == 0
        for s in retrain.search_space.segment_length
        for lookback in retrain.search_space.lookback
    )
    assert retrain.horizon == defaults(data_set.grid)["horizon"]


def test_a_key_of_the_retrain_block_leaves_the_other_defaults() -> None:
    retrain = parse(retrain={"horizon": 12, "budget": {"trials": 3}}).retrain
    assert (retrain.horizon, retrain.budget.trials, retrain.budget.minutes) == (12, 3, Budget().minutes)
    assert retrain.validation == parse().retrain.validation
    assert retrain.search_space == parse().retrain.search_space


def test_an_empty_retrain_block_is_all_defaults() -> None:
    assert parse(retrain=None).retrain == parse().retrain


def test_numbers_are_finite() -> None:
    assert "made.retrain.budget.minutes: Input should be a finite number" in refused(
        retrain={"budget": {"minutes": float("inf")}}
    )
    assert "finite" in refused(retrain={"search_space": {"dropout": {"low": 0.0, "high": float("nan")}}})


def test_some_keys_of_the_search_space_leave_the_others() -> None:
    monthly = parse(frequency="MS", retrain={"search_space": {"cell": ["gru"]}}).retrain.search_space
    plain = parse(frequency="MS").retrain.search_space
    assert monthly == plain.model_copy(update={"cell": ("gru",)})
    assert plain.lookback == (24, 36)


@given(lookback=st.lists(st.integers(2, 500), min_size=1, max_size=3))
def test_lookbacks_keep_the_segment_lengths_that_divide_them(lookback: list[int]) -> None:
    space = parse(frequency="D", retrain={"search_space": {"lookback": lookback}}).retrain.search_space
    assert space.lookback == tuple(lookback)
    whole_weeks = all(steps % 7 == 0 for steps in lookback)
    assert space.segment_length == ((1, 7) if whole_weeks else (1,))
    hourly = parse(retrain={"search_space": {"lookback": lookback}}).retrain.search_space
    assert hourly.segment_length == ((24,) if all(steps % 24 == 0 for steps in lookback) else (1,))


@given(
    frequency=st.sampled_from([f"{n}min" for n in range(1, 721) if 1440 % n == 0] + ["h", "2h", "8h", "D"])
    | st.sampled_from(["W", "W-MON", "W-TUE", "W-WED", "W-THU", "W-FRI", "W-SAT", "W-SUN", "MS"]),
    zone=st.sampled_from(["UTC", "Europe/Paris", "America/St_Johns", "Asia/Kathmandu"]),
)
def test_the_defaults_of_every_frequency_validate(frequency: str, zone: str) -> None:
    data_set = parse(frequency=frequency, time_zone=zone)
    retrain = data_set.retrain
    assert min(data_set.grid.steps(s) for s in (retrain.validation, retrain.judge)) >= retrain.horizon
    assert min(retrain.search_space.lookback) >= retrain.horizon
    assert (
        parse_data_set(Path("home/catalog.yaml"), "made", data_set.model_dump(mode="json", exclude={"name"}))
        == data_set
    )


def test_another_budget_changes_nothing_else() -> None:
    data_set = parse()
    budget = Budget(trials=2, minutes=1)
    changed = data_set.with_budget(budget)
    assert changed.retrain.budget == budget
    assert changed.with_budget(data_set.retrain.budget) == data_set
    assert data_set.with_budget(None) is data_set


def test_a_search_space_must_make_sense() -> None:
    assert SearchSpace(segment_length=(1, 24), lookback=(168,)).lookback == (168,)
    for wrong, text in (
        ({"segment_length": (5,), "lookback": (168,)}, "168 is not a multiple of segment_length 5"),
        ({"pretrain_epochs": (0, 3)}, "segment_length 1 has no segments to hide"),
        ({"dropout": Interval(low=0, high=1)}, "dropout must lie in"),
        ({"learning_rate": Interval(low=0, high=1)}, "learning_rate must be above 0"),
        ({"cell": ()}, "at least 1 item"),
    ):
        with pytest.raises(ValueError, match=text):
            SearchSpace.model_validate(wrong)
    with pytest.raises(ValueError, match=r"low 2.0 is above high 1.0"):
        Interval(low=2, high=1)


def test_settings_are_frozen_and_margins_are_shares() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Margins().champion = 0.5  # type: ignore[misc]
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Margins(champion=-0.1)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Retrain(horizon=1, validation="1d", judge="1d", embargo=-1)


@pytest.mark.parametrize(
    ("frequency", "seasons"),
    [("15min", (96, 672)), ("h", (24, 168)), ("6h", (4, 28)), ("D", (7,)), ("W-MON", (52,)), ("MS", (12,))],
)
def test_default_seasons_are_a_day_and_a_week_or_a_year(frequency: str, seasons: tuple[int, ...]) -> None:
    assert default_seasons(Frequency(frequency)) == seasons
