"""A study's budget: which trials fill a place, also after failures and kills, and when it is spent."""

from __future__ import annotations

import time

import pytest
from optuna.trial import TrialState
from studies import BY_HAND, NAME, boom, dead_process, run, take

from data.processes import this_process
from data.retrain import Budget
from lstm.search import places, study

pytestmark = BY_HAND


def test_create_again_keeps_the_trials_and_sets_the_budget(lite):
    first = {"x": 0.25}
    study.create(lite, NAME, Budget(trials=2), 7, [first])
    run(lite, 2)
    assert study.progress(lite, NAME).spent
    study.create(lite, NAME, Budget(trials=3), 99, [{"x": 0.75}])
    after = study.progress(lite, NAME)
    assert (after.trials, after.complete, after.waiting, after.spent) == (2, 2, 0, False)
    with study.loaded(lite, NAME) as own:
        assert own.user_attrs["seed"] == 7
    assert study.trials(lite, NAME)[0].params == first


def test_a_study_that_spent_its_budget_on_failures_starts_over(lite):
    study.create(lite, NAME, Budget(trials=2), 7)
    run(lite, 1, boom)
    study.create(lite, NAME, Budget(trials=2), 7)
    assert study.progress(lite, NAME).failed == 1
    run(lite, 1, boom)
    assert study.progress(lite, NAME).spent
    study.create(lite, NAME, Budget(trials=2), 8)
    assert study.progress(lite, NAME) == study.Progress(0, 0, 0, 0, 0, 0, None, 0.0, False)
    with study.loaded(lite, NAME) as own:
        assert own.user_attrs["seed"] == 8
        take(own)
        take(own)
    study.create(lite, NAME, Budget(trials=2), 7)
    assert study.progress(lite, NAME).running == 2


def test_what_kills_its_process_three_times_fails(lite):
    study.create(lite, NAME, Budget(trials=2), 0)
    process = str(dead_process())
    for _ in range(3):
        with study.loaded(lite, NAME) as own:
            take(own, **{places.CLAIM: {"process": process, "time": time.time()}})
        study.clean(lite, NAME)
    after = study.progress(lite, NAME)
    assert (after.trials, after.failed, after.waiting) == (1, 1, 0)
    assert len({str(row.params) for row in study.trials(lite, NAME)}) == 1


def test_interruptions_are_not_kills(lite):
    study.create(lite, NAME, Budget(trials=2), 0)
    for _ in range(5):
        with study.loaded(lite, NAME) as own:
            trial = take(own)
            frozen = own.get_trials()[trial.number]
            assert study.fail_running(own, frozen, "interrupted", killed=False)
            assert not study.fail_running(own, frozen, "interrupted", killed=False)
    after = study.progress(lite, NAME)
    assert (after.trials, after.waiting, after.failed) == (1, 1, 0)


def test_minutes_count_the_time_in_which_a_trial_ran(lite):
    study.create(lite, NAME, Budget(trials=9, minutes=1), 0)
    now = time.time()
    spans = [(0, 20), (10, 30), (12, 14), (100, 125)]  # 30 and 25 seconds, with a pause
    with study.loaded(lite, NAME) as own:
        for start, end in spans:
            trial = take(own)
            trial.set_user_attr(places.CLAIM, {"process": str(this_process()), "time": now + start})
            trial.set_user_attr(places.END, {"time": now + end, "reason": ""})
            own.tell(trial, 0.5)
    after = study.progress(lite, NAME)
    assert after.seconds == pytest.approx(55)
    assert not after.spent
    study.create(lite, NAME, Budget(trials=9, minutes=0.9), 0)
    assert study.progress(lite, NAME).spent


def test_a_trial_beyond_the_last_place_is_neither_counted_nor_shown(lite):
    budget = Budget(trials=2)
    study.create(lite, NAME, budget, 0)
    with study.loaded(lite, NAME) as own:
        for _ in range(3):
            take(own)
        frozen = own.get_trials()
        assert [places.is_beyond(frozen, number, budget) for number in range(3)] == [False, False, True]
        own._storage.set_trial_user_attr(frozen[2]._trial_id, places.BEYOND, True)
        own.tell(2, state=TrialState.FAIL)
    after = study.progress(lite, NAME)
    assert (after.trials, after.running, after.failed, after.spent) == (2, 2, 0, True)
    assert [row.number for row in study.trials(lite, NAME)] == [0, 1]
    # Nor does it fill a place when the budget grows.
    study.create(lite, NAME, Budget(trials=3), 0)
    assert not study.progress(lite, NAME).spent


def test_a_repeated_trial_keeps_its_place_in_the_budget(lite):
    budget = Budget(trials=2)
    study.create(lite, NAME, budget, 0)
    with study.loaded(lite, NAME) as own:
        for _ in range(2):
            take(own)
        assert study.fail_running(own, own.get_trials()[0], "", killed=True)
        assert not places.is_spent(own.get_trials(), budget)
        again = take(own)
        assert again.number == 2
        assert not places.is_beyond(own.get_trials(), 2, budget)
        assert places.is_spent(own.get_trials(), budget)


def test_more_first_parameters_than_places_do_not_wait_for_ever(lite):
    study.create(lite, NAME, Budget(trials=1), 0, [{"x": 0.1}, {"x": 0.2}])
    assert not study.progress(lite, NAME).spent
    run(lite, 1)
    after = study.progress(lite, NAME)
    assert (after.trials, after.waiting, after.spent) == (1, 0, True)
    assert [row.params for row in study.trials(lite, NAME)] == [{"x": 0.1}]
