"""Writes of many trials that reach the database together: nothing differs from one at a time but when."""

from __future__ import annotations

import itertools
import math
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial
from sqlalchemy import event
from studies import BY_HAND

from lstm.search import storage as storages
from lstm.search.storage import SearchFailed, opened, prepare
from lstm.search.together import TogetherStorage

pytestmark = BY_HAND

NAMES = itertools.count()
SPACE = {"x": FloatDistribution(0, 1), "cell": CategoricalDistribution(("lstm", "gru"))}
VALUES = st.sampled_from([0.25, -3.0, math.nan, math.inf, -math.inf])
SEVERAL = st.integers(0, 9)
STEPS = st.one_of(
    st.tuples(st.just("create")),
    st.tuples(st.just("queue"), st.integers(0, 1)),
    st.tuples(st.just("pop")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("param"), SEVERAL, st.sampled_from(sorted(SPACE)), st.integers(0, 1)),
    st.tuples(st.just("value"), SEVERAL, st.integers(1, 3), VALUES),
    st.tuples(st.just("user"), SEVERAL, st.sampled_from("ab"), st.integers()),
    st.tuples(st.just("system"), SEVERAL, st.sampled_from("ab"), st.lists(st.integers(), max_size=2)),
    st.tuples(st.just("end"), SEVERAL, st.sampled_from(["COMPLETE", "PRUNED", "FAIL"])),
)


@contextmanager
def together(url, pause=60.0):
    """An empty study whose writes go together, and its number."""
    prepare(url)
    with opened(url) as backend:
        own = TogetherStorage(backend, pause)
        yield own, own.create_new_study([optuna.study.StudyDirection.MINIMIZE], f"study {next(NAMES)}")


def take(own, number):
    """A trial that runs and is signed."""
    trial = own.create_new_trial(number)
    own.set_trial_user_attr(trial, "claim", "me")
    return trial


def stored(url, number):
    """What anybody else reads."""
    with opened(url) as other:
        return other.get_all_trials(number)


def alike(trials):
    """What is comparable of trials, of times whether there is one."""
    return [
        (
            *(t.number, t.state, t.params, t.distributions, t.user_attrs, t.system_attrs),
            # A NaN does not equal itself.
            *map(repr, (t.values, sorted(t.intermediate_values.items()), t.datetime_complete is None)),
        )
        for t in trials
    ]


def act(own, number, step):
    """One step on the running trial that it names, if any runs."""
    kind, *rest = step
    running = [t._trial_id for t in own.get_all_trials(number) if t.state is TrialState.RUNNING]
    if kind == "create":
        own.create_new_trial(number)
    elif kind == "queue":
        params = {"x": float(rest[0])}
        waiting = create_trial(state=TrialState.WAITING, params=params, distributions={"x": SPACE["x"]})
        own.create_new_trial(number, waiting)
    elif kind == "pop":
        for trial in own.get_all_trials(number, states=(TrialState.WAITING,)):
            assert own.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
    elif kind == "flush":
        own.flush()
    elif running:
        trial, arguments = running[rest[0] % len(running)], rest[1:]
        if kind == "param":
            own.set_trial_param(trial, arguments[0], float(arguments[1]), SPACE[arguments[0]])
        elif kind == "value":
            own.set_trial_intermediate_value(trial, *arguments)
        elif kind == "user":
            own.set_trial_user_attr(trial, *arguments)
        elif kind == "system":
            own.set_trial_system_attr(trial, *arguments)
        else:
            state = TrialState[arguments[0]]
            own.set_trial_state_values(trial, state, [0.5] if state is TrialState.COMPLETE else None)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=25))
def test_what_is_known_before_a_flush_is_what_the_database_has_after_it(lite, steps):
    with together(lite) as (own, number):
        for step in [("create",), *steps]:
            act(own, number, step)
        known = alike(own.get_all_trials(number))
        assert known == alike([own.get_trial(trial._trial_id) for trial in own.get_all_trials(number)])
        own.flush()
        assert alike(stored(lite, number)) == known == alike(own.get_all_trials(number))


def test_a_claim_and_a_state_are_written_at_once_all_else_waits(url):
    with together(url) as (own, number):
        first, second = take(own, number), take(own, number)
        assert [t.user_attrs for t in stored(url, number)] == [{"claim": "me"}] * 2
        for trial in (first, second):
            own.set_trial_param(trial, "x", 0.5, SPACE["x"])
            own.set_trial_intermediate_value(trial, 1, 0.25)
            own.set_trial_intermediate_value(trial, 1, 0.125)
            own.set_trial_user_attr(trial, "epochs", [1, 2])
        # Whether a parameter fits those of trials before is for the database to say, once.
        assert [t.params for t in stored(url, number)] == [{"x": 0.5}, {}]
        assert [t.intermediate_values for t in stored(url, number)] == [{}, {}]
        own.set_trial_state_values(first, TrialState.COMPLETE, [0.125])
        done, other = stored(url, number)
        assert (done.value, done.params) == (0.125, {"x": 0.5})
        assert (done.intermediate_values, done.user_attrs["epochs"]) == ({1: 0.125}, [1, 2])
        # They went with it.
        assert (other.params, other.intermediate_values) == ({"x": 0.5}, {1: 0.125})


def test_a_trial_that_another_process_has_ended_takes_no_more_and_says_so(url):
    with together(url) as (own, number), opened(url) as other:
        ended, going = take(own, number), take(own, number)
        for trial in (ended, going):
            own.set_trial_intermediate_value(trial, 1, 0.5)
        other.set_trial_state_values(ended, TrialState.FAIL)
        own.flush()
        assert [t.intermediate_values for t in stored(url, number)] == [{}, {1: 0.5}]
        for write in (
            lambda: own.set_trial_intermediate_value(ended, 2, 0.5),
            lambda: own.set_trial_user_attr(ended, "end", 1),
            lambda: own.set_trial_state_values(ended, TrialState.COMPLETE, [0.5]),
        ):
            with pytest.raises(UpdateFinishedTrialError):
                write()
        assert own.get_trial(ended).state is TrialState.FAIL
        own.set_trial_state_values(going, TrialState.COMPLETE, [0.5])


def test_a_state_is_refused_where_another_process_was_faster(url):
    with together(url) as (own, number), opened(url) as other:
        trial = take(own, number)
        other.set_trial_state_values(trial, TrialState.FAIL)
        with pytest.raises(UpdateFinishedTrialError):
            own.set_trial_state_values(trial, TrialState.COMPLETE, [0.5])
        assert [t.state for t in own.get_all_trials(number)] == [TrialState.FAIL]
        waiting = own.create_new_trial(number, create_trial(state=TrialState.WAITING))
        assert other.set_trial_state_values(waiting, TrialState.RUNNING)
        assert not own.set_trial_state_values(waiting, TrialState.RUNNING)


def test_other_processes_trials_are_read_after_a_pause_or_where_one_is_missing(url):
    with together(url) as (own, number), opened(url) as other:
        assert own.get_all_trials(number) == []
        theirs = other.create_new_trial(number)
        assert own.get_all_trials(number) == []
        # Of a lower number than this one: whose place is whose depends on it.
        take(own, number)
        assert len(own.get_all_trials(number)) == 2
        other.set_trial_state_values(theirs, TrialState.COMPLETE, [0.5])
        assert own.get_all_trials(number)[0].state is TrialState.RUNNING
        own._pause = 0.0
        assert own.get_all_trials(number)[0].value == 0.5


def test_of_two_threads_that_take_a_waiting_trial_one_has_it(url):
    with together(url) as (own, number):
        waiting = own.create_new_trial(number, create_trial(state=TrialState.WAITING))
        assert own.set_trial_state_values(waiting, TrialState.RUNNING)
        assert not own.set_trial_state_values(waiting, TrialState.RUNNING)
        own.set_trial_user_attr(waiting, "claim", "me")
        own.set_trial_intermediate_value(waiting, 1, 0.5)
        assert stored(url, number)[0].intermediate_values == {}
        own.set_trial_state_values(waiting, TrialState.COMPLETE, [0.5])
        assert stored(url, number)[0].intermediate_values == {1: 0.5}


def test_many_threads_write_as_one_does(url):
    """Each its own trials, all at a time, while others read and flush."""
    with together(url, pause=0.0) as (own, number):

        def work(seed):
            for value in range(3):
                trial = take(own, number)
                for step in range(4):
                    own.set_trial_intermediate_value(trial, step, seed + value / 10)
                    own.get_all_trials(number)
                    own.flush_if_due()
                own.set_trial_state_values(trial, TrialState.COMPLETE, [seed + value / 10])
            own._backend.remove_session()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        trials = stored(url, number)
        assert sorted(t.value for t in trials) == [s + v / 10 for s in range(8) for v in range(3)]
        assert all(t.intermediate_values == dict.fromkeys(range(4), t.value) for t in trials)
        assert alike(trials) == alike(own.get_all_trials(number))


def test_a_flush_that_fails_loses_nothing(lite, monkeypatch):
    monkeypatch.setattr(storages, "_BUSY_SECONDS", 0.1)
    with together(lite) as (own, number):
        trial = take(own, number)
        own.set_trial_intermediate_value(trial, 1, 0.5)
        lock = sqlite3.connect(lite.removeprefix("sqlite:///"), isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        with pytest.raises(SearchFailed, match=r"1 trials .* cannot be written .*: .*locked"):
            own.flush()
        lock.execute("ROLLBACK")
        lock.close()
        own.flush()
        assert stored(lite, number)[0].intermediate_values == {1: 0.5}


def test_what_a_study_says_of_itself_is_read_once(lite):
    with together(lite, pause=0.0) as (own, number):
        statements = []
        event.listen(own._backend.engine, "before_cursor_execute", lambda *seen: statements.append(seen[2]))
        own._backend.set_study_user_attr(number, "seed", 3)
        statements.clear()
        study = optuna.load_study(study_name=own.get_study_name_from_id(number), storage=own)
        assert study.user_attrs["seed"] == 3
        assert statements
        statements.clear()
        again = optuna.load_study(study_name=study.study_name, storage=own)
        assert (again._study_id, again.user_attrs) == (number, study.user_attrs)
        assert statements == []


def test_a_flush_is_due_once_a_pause(lite):
    with together(lite, pause=0.0) as (own, number):
        trial = take(own, number)
        own.set_trial_intermediate_value(trial, 1, 0.5)
        own._pause = 60.0
        own.flush_if_due()
        assert stored(lite, number)[0].intermediate_values == {}
        own._pause = 0.0
        own.flush_if_due()
        assert stored(lite, number)[0].intermediate_values == {1: 0.5}


def test_a_parameter_keeps_its_kind(lite):
    with together(lite) as (own, number):
        own.set_trial_param(take(own, number), "x", 0.5, SPACE["x"])
        with pytest.raises(ValueError, match="distribution"):
            own.set_trial_param(take(own, number), "x", 0.0, SPACE["cell"])


def test_whoever_has_a_trial_keeps_it_as_it_was(lite):
    with together(lite) as (own, number):
        trial = take(own, number)
        (seen,) = own.get_all_trials(number, deepcopy=False)
        copy = own.get_trial(trial)
        copy.params["y"] = 1
        own.set_trial_intermediate_value(trial, 1, 0.5)
        assert (seen.intermediate_values, own.get_trial(trial).params) == ({}, {})
