"""A study that processes share, on SQLite and PostgreSQL: a trial is taken once, a dead worker's again."""

from __future__ import annotations

import threading
import time

import pytest
from forked import PIPE, Fork
from studies import BY_HAND, NAME, dead_process, run, take

from data.retrain import Budget
from lstm.search import places, study
from lstm.search.storage import SearchFailed, opened, prepare, shown

pytestmark = BY_HAND


def test_a_new_study_has_spent_nothing(url):
    study.create(url, NAME, Budget(trials=3, minutes=1), 7)
    assert study.progress(url, NAME) == study.Progress(0, 0, 0, 0, 0, 0, None, 0.0, False)
    assert study.trials(url, NAME) == []
    with study.loaded(url, NAME) as own:
        assert own.user_attrs["seed"] == 7
        assert study.budget_of(own) == Budget(trials=3, minutes=1)


def test_a_dead_worker_costs_no_place_and_its_trial_waits_for_the_next(url):
    study.create(url, NAME, Budget(trials=2), 0)
    with study.loaded(url, NAME) as own:
        process = str(dead_process())
        take(own, **{places.CLAIM: {"process": process, "time": time.time() - 500}})
    before = study.progress(url, NAME)
    assert (before.running, before.trials) == (1, 1)
    assert study.clean(url, NAME) == 1
    assert study.clean(url, NAME) == 0
    after = study.progress(url, NAME)
    assert (after.running, after.waiting, after.failed, after.trials, after.spent) == (0, 1, 0, 1, False)
    assert after.seconds < 5  # the hours until somebody looked are not searching
    run(url, 2)
    killed, again, other = study.trials(url, NAME)
    assert killed.reason == "its process was killed"
    assert again.params == killed.params
    assert other.params != killed.params
    done = study.progress(url, NAME)
    assert (done.trials, done.complete, done.failed, done.spent) == (2, 2, 0, True)


def test_clean_leaves_the_living_alone(lite):
    study.create(lite, NAME, Budget(trials=2), 0)
    with study.loaded(lite, NAME) as own:
        take(own)
        take(own, **{places.CLAIM: {"process": "elsewhere:1:1.00", "time": time.time()}})
        assert study.clean(lite, NAME) == 0
    assert study.progress(lite, NAME).running == 2


def test_a_silent_heartbeat_is_found_from_any_host(url, monkeypatch):
    study.create(url, NAME, Budget(trials=2), 0)
    with study.loaded(url, NAME) as own:
        trial = take(own, **{places.CLAIM: {"process": "elsewhere:1:1.00", "time": time.time()}})
        own._storage.record_heartbeat(trial._trial_id)
        assert study.clean(url, NAME) == 0
        monkeypatch.setattr("lstm.search.storage.GRACE_SECONDS", 1)
        time.sleep(2.5)
    assert study.clean(url, NAME) == 1
    after = study.progress(url, NAME)
    assert (after.running, after.waiting, after.trials) == (0, 1, 1)
    with study.loaded(url, NAME) as own:
        assert places.CLAIM not in own.get_trials()[-1].user_attrs
    assert study.trials(url, NAME)[0].reason == "its process was killed"


def test_a_trial_that_nobody_signed_is_failed_after_the_grace(lite, monkeypatch):
    study.create(lite, NAME, Budget(trials=2), 0)
    with study.loaded(lite, NAME) as own:
        own.ask()
    assert study.clean(lite, NAME) == 0
    monkeypatch.setattr(study, "GRACE_SECONDS", -1)
    assert study.clean(lite, NAME) == 1


def test_a_study_that_is_not_there_names_the_remedy(url):
    with pytest.raises(SearchFailed, match="create the study first"):
        study.progress(url, NAME)
    study.create(url, "another", Budget(), 0)
    with pytest.raises(SearchFailed, match="no study night"):
        study.chosen(url, NAME)


@pytest.mark.parametrize("dialect", ["postgresql", "postgresql+psycopg"])
def test_a_password_is_never_shown(dialect):
    url = f"{dialect}://me:hush@127.0.0.1:1/base"
    assert "hush" not in shown(url)
    for use in (prepare, lambda one: study.progress(one, NAME)):
        with pytest.raises(SearchFailed) as caught:
            use(url)
        assert "hush" not in str(caught.value)
        assert "127.0.0.1" in str(caught.value)


def test_waiting_trials_are_taken_once(url):
    """Optuna reads a state and then changes it; without an early lock two workers take one trial."""
    study.create(url, NAME, Budget(trials=24), 0, [{"x": number / 24} for number in range(24)])
    taken, barrier = [], threading.Barrier(4)

    def worker():
        with study.loaded(url, NAME) as own:
            barrier.wait()
            for _ in range(6):
                taken.append(own.ask().number)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(24))


def test_two_cleaners_queue_a_dead_trial_once(url):
    study.create(url, NAME, Budget(trials=8), 0)
    process = str(dead_process())
    with study.loaded(url, NAME) as own:
        for _ in range(4):
            take(own, **{places.CLAIM: {"process": process, "time": time.time()}})
    cleaned, barrier = [], threading.Barrier(3)

    def cleaner():
        barrier.wait()
        cleaned.append(study.clean(url, NAME))

    threads = [threading.Thread(target=cleaner) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cleaned) == 3
    after = study.progress(url, NAME)
    assert (after.waiting, after.running, after.trials) == (4, 0, 4)
    assert len(study.trials(url, NAME)) == 8


@pytest.mark.slow
def test_several_processes_may_prepare_a_fresh_database(url):
    code = f"from lstm.search.storage import prepare; print(flush=True); input(); prepare({url!r})"
    children = [Fork(code, stdin=PIPE, stdout=PIPE) for _ in range(4)]
    for child in children:
        assert child.stdout.readline() == "\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
    assert [child.returncode for child in children] == [0] * 4
    study.create(url, NAME, Budget(), 0)
    with opened(url):
        assert not study.progress(url, NAME).spent
