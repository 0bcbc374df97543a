"""The search space: every draw is a configuration inside it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.calendar import Frequency
from data.catalog import parse_data_set
from data.retrain import SearchSpace, defaults
from lstm.search.space import centre, contains, first_trials, params_of, suggest
from lstm.training.recipe import Recipe

SPACE = {
    "cell": ["lstm", "gru", "rnn"],
    "hidden_size": [4, 8, 16],
    "num_layers": [1, 2],
    "dropout": {"low": 0.0, "high": 0.4},
    "segment_length": [6, 12],
    "lookback": [24, 48, 96, 120],
    "learning_rate": {"low": 1e-4, "high": 1e-2},
    "batch_size": [32, 64],
}


def data_set(**space):
    entry = {
        "source": {"kind": "csv", "path": "made.csv"},
        "time": "time",
        "target": "load",
        "frequency": "h",
        "retrain": {
            "horizon": 6,
            "quantiles": [0.2, 0.5, 0.8],
            "max_epochs": 7,
            "seed": 11,
            "search_space": {**SPACE, **space},
        },
    }
    return parse_data_set(Path("catalog.yaml"), "made", entry)


def study(seed=0):
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_every_draw_is_inside_the_space_and_becomes_the_configuration(seed):
    trial = study(seed).ask()
    made = data_set()
    model, training = suggest(trial, made, columns=3, calendar_features=4)
    assert contains(made.retrain.search_space, trial.params)
    drawn = {**model.to_dict(), **training.to_dict()}
    assert {name: drawn[name] for name in trial.params} == trial.params


def test_what_is_not_searched_comes_from_the_retrain_block():
    model, training = suggest(study().ask(), data_set(), columns=3, calendar_features=4)
    assert (model.horizon, model.quantiles) == (6, (0.2, 0.5, 0.8))
    assert (model.columns, model.calendar_features) == (3, 4)
    assert (training.max_epochs, training.seed, training.pretrain_epochs) == (7, 11, 0)
    _, training = suggest(study().ask(), data_set(pretrain_epochs=[4]), columns=3, calendar_features=4)
    assert training.pretrain_epochs == 4


def test_the_learning_rate_is_drawn_on_a_logarithmic_scale_and_dropout_from_zero():
    trial = study().ask()
    suggest(trial, data_set(), 1, 1)
    assert trial.distributions["learning_rate"].log
    assert not trial.distributions["dropout"].log
    other = study().ask()
    suggest(other, data_set(dropout={"low": 0.1, "high": 0.4}), 1, 1)
    assert other.distributions["dropout"].log


def test_the_centre_is_the_middle_and_the_first_of_two():
    assert centre(data_set().retrain.search_space) == {
        "cell": "gru",
        "hidden_size": 8,
        "num_layers": 1,
        "segment_length": 6,
        "lookback": 48,
        "normalisation": "last_value",
        "head": "calendar",
        "pooling": "last",
        "bidirectional": False,
        "channels": "joint",
        "positions": "learned",
        "pretrain_epochs": 0,
        "batch_size": 32,
        "dropout": 0.2,
        "learning_rate": pytest.approx(1e-3),
    }


@pytest.mark.parametrize(
    ("frequency", "horizon", "heads"),
    [
        ("h", None, ("calendar", "segments")),
        ("h", 48, ("calendar", "segments")),
        ("h", 49, ("segments",)),
        ("15min", 48, ("calendar", "segments")),
        ("15min", None, ("segments", "calendar")),
        ("15min", 192, ("segments", "calendar")),
        ("15min", 193, ("segments",)),
        ("D", None, ("segments", "calendar")),
    ],
)
def test_the_first_head_is_the_calendars_where_steps_are_few(frequency, horizon, heads):
    """It costs as much for each step as the other for each segment of a day."""
    assert defaults(Frequency(frequency), horizon)["search_space"].head == heads


def test_first_come_what_the_champion_was_made_with_and_the_middle():
    retrain = data_set().retrain
    middle = centre(retrain.search_space)
    champion = [{**middle, "normalisation": "none", "dropout": 0.25}, {**middle, "dropout": 0.3}]
    outside = {**middle, "hidden_size": 7}
    assert first_trials(retrain) == [middle]
    assert first_trials(retrain, [outside]) == [middle]
    assert first_trials(retrain, [middle]) == [middle]
    assert first_trials(retrain, champion) == [champion[0], middle]
    assert first_trials(retrain, [outside, *champion]) == [champion[0], middle]


def test_an_ensemble_tries_each_normalisation_once_and_the_middle():
    retrain = data_set().retrain.model_copy(update={"ensemble": True})
    middle = centre(retrain.search_space)
    instance, none = ({**middle, "normalisation": kind} for kind in ("instance", "none"))
    assert middle["normalisation"] == "last_value"
    assert first_trials(retrain) == [middle, instance, none]
    own = {**none, "dropout": 0.25}
    assert first_trials(retrain, [own, middle]) == [own, instance, middle]
    best = {**middle, "dropout": 0.25}
    assert first_trials(retrain, [best, own]) == [best, instance, own, middle]
    assert first_trials(retrain, [own, {**own, "dropout": 0.3}]) == [own, instance, middle]


def test_the_centre_is_inside_and_can_be_tried_first():
    made = data_set()
    middle = centre(made.retrain.search_space)
    assert contains(made.retrain.search_space, middle)
    own = study()
    own.enqueue_trial(middle)
    trial = own.ask()
    suggest(trial, made, 1, 1)
    assert trial.params == middle


@pytest.mark.parametrize(
    "change",
    [{"cell": "rnn"}, {"hidden_size": 5}, {"learning_rate": 0.1}, {"learning_rate": 1e-6}, {"width": 3}],
)
def test_parameters_of_another_space_are_outside(change):
    space = SearchSpace()
    assert contains(space, centre(space))
    assert not contains(space, {**centre(space), **change})
    short = centre(space)
    del short["dropout"]
    assert not contains(space, short)


def test_a_recipe_gives_back_its_parameters():
    trial = study().ask()
    model, training = suggest(trial, data_set(), 3, 4)
    assert params_of(Recipe(model, training, 5)) == trial.params
