"""A search that is interrupted goes on where it was: after errors, stops, torn checkpoints, dead workers."""

from __future__ import annotations

import logging
import time

import optuna
import pytest
from tasks import NAME, OrchestratorSignal, Recorder, progress, rows

from data.processes import this_process
from lstm.search import places, study
from lstm.search.worker import work


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OrchestratorSignal])
def test_an_interrupted_search_goes_on_where_it_was(make_task, error):
    whole = make_task(trials=2, name="whole")
    work(whole, Recorder())

    def interrupt(number, epoch):
        if (number, epoch) == (1, 2):
            raise error("stop")

    task, seen = make_task(trials=2), Recorder(interrupt)
    with pytest.raises(error):
        work(task, seen)
    own = progress(task)
    assert (own.running, own.waiting, own.failed, own.spent) == (0, 1, 0, False)
    assert seen.of("ended")[-1] == (1, "failed", None, f"interrupted ({error.__name__})")
    assert [path.name for path in task.checkpoints.iterdir()] == ["trial-1.safetensors"]
    later = Recorder()
    assert work(task, later) == 1
    own = progress(task)
    assert (own.trials, own.failed, own.waiting, own.spent) == (2, 0, 0, True)
    first, cut, again = rows(task)
    expected = rows(whole)
    assert (first.params, first.curve) == (expected[0].params, expected[0].curve)
    assert again.params == cut.params == expected[1].params
    assert again.curve == expected[1].curve
    assert again.train_curve == expected[1].train_curve
    assert list(task.checkpoints.iterdir()) == []


def test_should_stop_ends_a_trial_after_its_epoch_and_returns(make_task):
    task = make_task(trials=2)
    seen = Recorder()
    assert work(task, seen, should_stop=lambda: len(seen.of("epoch")) >= 2) == 1
    own = progress(task)
    assert (own.running, own.waiting, own.complete) == (0, 1, 0)
    assert len(seen.of("epoch")) == 2
    assert seen.of("ended")[0][3] == "interrupted (Stopped)"
    assert work(task, Recorder()) == 2
    assert progress(task).spent


def test_should_stop_before_anything_starts_nothing(make_task):
    task = make_task()
    assert work(task, Recorder(), should_stop=lambda: True) == 0
    assert rows(task) == []


def test_a_broken_checkpoint_costs_only_time(make_task, caplog):
    whole = make_task(trials=1, name="whole")
    work(whole, Recorder())
    task = make_task(trials=1)
    task.checkpoints.mkdir()
    task.checkpoint(0).write_bytes(b"torn")
    with caplog.at_level(logging.WARNING, "lstm.training"):
        work(task, Recorder())
    assert "starts over" in caplog.text
    assert rows(task)[0].curve == rows(whole)[0].curve
    assert rows(task)[0].train_curve == rows(whole)[0].train_curve


def test_a_trial_taken_for_dead_is_left_to_its_successor(make_task):
    """As when the machine slept: another worker has failed the trial and queued it again."""
    task = make_task(trials=1)

    def fail(number, epoch):
        if number == 0 and epoch == 2:
            with study.loaded(task.storage_url, NAME) as own:
                assert study.fail_running(own, own.get_trials()[0], "silent", killed=True)

    seen = Recorder(fail)
    assert work(task, seen) == 2
    assert [(number, state) for number, state, _, _ in seen.of("ended")] == [(0, "failed"), (1, "finished")]
    own = progress(task)
    assert (own.trials, own.complete, own.failed, own.running, own.waiting) == (1, 1, 0, 0, 0)


def test_an_interrupt_on_the_way_in_or_out_leaves_nothing_running(make_task, monkeypatch):
    """Ctrl-C between Optuna's own steps, where no objective runs."""
    task = make_task(trials=1)
    tell = optuna.study._optimize._tell_with_warning

    def interrupted(**arguments):
        monkeypatch.setattr("optuna.study._optimize._tell_with_warning", tell)
        raise KeyboardInterrupt

    monkeypatch.setattr("optuna.study._optimize._tell_with_warning", interrupted)
    seen = Recorder()
    with pytest.raises(KeyboardInterrupt):
        work(task, seen)
    own = progress(task)
    assert (own.running, own.waiting, own.trials) == (0, 1, 1)
    assert len(seen.of("ended")) == 1
    assert work(task, Recorder()) == 1
    assert progress(task).complete == 1


def test_a_worker_cleans_up_after_the_dead_before_it_starts(make_task):
    task = make_task(trials=1)
    with study.loaded(task.storage_url, NAME) as own:
        storage = own._storage
        trial_id = storage.create_new_trial(own._study_id)
        # A process with this id exists, but started at another time.
        claim = {"process": f"{this_process().host}:1:1.00", "time": time.time()}
        storage.set_trial_user_attr(trial_id, places.CLAIM, claim)
    assert work(task, Recorder()) == 1
    assert [row.state for row in rows(task)] == ["failed", "finished"]
    assert progress(task).trials == 1
