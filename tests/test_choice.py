"""What a search ends with: what was known, unless another trial is lower by more than chance explains."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from lstm.evaluation.significance import FEWEST_GROUPS, LEVEL, difference, holm
from lstm.search import places
from lstm.search.choice import choose

GROUPS = 8
losses = st.lists(st.floats(0.1, 1.0), min_size=GROUPS, max_size=GROUPS)


def trials(*losses_G):
    """Complete trials, numbered from 0, with these losses on groups of windows."""
    own = optuna.create_study()
    for loss_G in losses_G:
        attributes = {places.LOSSES: list(loss_G)}
        value = float(np.mean(loss_G))
        own.add_trial(create_trial(state=TrialState.COMPLETE, value=value, user_attrs=attributes))
    return own.trials


RISING = np.linspace(0.3, 0.5, GROUPS)
JITTER = 0.05 * np.array([1, -1] * (GROUPS // 2))


def test_one_that_is_better_throughout_takes_the_place_of_the_known():
    chosen, reason = choose(trials(RISING, RISING - 0.1 + JITTER / 10), known=1)
    assert (chosen.number, reason) == (1, "")


def test_the_known_stays_where_the_gain_may_be_chance():
    chosen, reason = choose(trials(RISING, RISING - 0.01 + JITTER), known=1)
    assert chosen.number == 0
    assert reason.startswith(
        "known before; that trial 1 is better than what was known by 0.0100 may be chance (p = 0."
    )


def test_a_noisy_one_with_the_lowest_loss_does_not_hide_a_sound_gain():
    chosen, reason = choose(trials(RISING, RISING - 0.010 + JITTER / 100, RISING - 0.011 + JITTER), known=1)
    assert chosen.number == 1
    assert reason.startswith("surely better than what was known; that trial 2 is better")


def test_many_trials_of_equal_merit_seldom_take_its_place():
    generator = np.random.default_rng(0)
    changed = sum(
        choose(trials(*generator.normal(0.5, 0.01, (8, GROUPS))), known=1)[0].number > 0 for _ in range(300)
    )
    # Seven rivals: each alone would be better beyond chance in one of forty.
    assert changed <= 0.05 * 300


@pytest.mark.parametrize(("groups", "chosen"), [(1, 1), (FEWEST_GROUPS - 1, 1), (FEWEST_GROUPS, 0)])
def test_of_few_groups_of_windows_the_lowest_is_taken(groups, chosen):
    losses_TG = RISING[:groups], RISING[:groups] - 0.02 - JITTER[:groups]
    assert choose(trials(*losses_TG), known=1)[0].number == chosen


def test_of_what_was_known_the_first_that_finished_counts():
    alike = trials(RISING, RISING + 0.001, RISING - 0.01 + JITTER)
    assert choose(alike, known=2)[0].number == 0
    assert choose(alike[1:], known=2)[0].number == 1
    assert choose(alike[2:], known=2) == (alike[2], "nothing that was known before has finished")


@given(st.lists(losses, min_size=1, max_size=5), st.integers(0, 5))
def test_nothing_takes_the_place_of_the_known_but_what_is_surely_better(losses_TG, known):
    made = trials(*losses_TG)
    chosen, reason = choose(made, known)
    lowest = min(made, key=lambda trial: (np.mean(trial.user_attrs[places.LOSSES]), trial.number))
    if known == 0:
        assert (chosen, reason) == (lowest, "")
    elif chosen.number:
        gains = [difference(np.array(losses_TG[0]), np.array(other)) for other in losses_TG[1:]]
        assert gains[chosen.number - 1].mean > 0
        assert holm([gain.p for gain in gains])[chosen.number - 1] < LEVEL
    assert (reason == "") == (chosen == lowest)


@given(losses, st.floats(0.001, 0.05))
def test_the_same_gain_everywhere_is_not_chance(loss_G, gain):
    before, after = np.array(loss_G), np.array(loss_G) - gain
    assert choose(trials(before, after), known=1)[0].number == 1


@pytest.mark.parametrize("known", [1, 2])
def test_a_trial_that_is_run_again_keeps_its_place(known):
    own = optuna.create_study()
    for place, loss_G in ((1, RISING - 0.01 + JITTER), (0, RISING)):
        attributes = {places.LOSSES: list(loss_G), places.PLACE: {"number": place, "kills": 1}}
        value = float(np.mean(loss_G))
        own.add_trial(create_trial(state=TrialState.COMPLETE, value=value, user_attrs=attributes))
    assert choose(own.trials, known)[0].number == 1
