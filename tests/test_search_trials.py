"""A worker alone: trial after trial until the budget is spent, also where some fail."""

from __future__ import annotations

import time

import pytest
from optuna.trial import TrialState
from tasks import NAME, SPACE, Recorder, progress, rows

from data.retrain import Budget
from lstm.search import places, study
from lstm.search.objective import SearchTask
from lstm.search.space import contains
from lstm.search.storage import SearchFailed
from lstm.search.worker import work


def test_a_worker_spends_the_budget_and_tells_all(make_task):
    task, seen = make_task(trials=3), Recorder()
    assert work(task, seen) == 3
    assert work(task, seen) == 0
    own = progress(task)
    assert own.spent
    assert own.complete + own.pruned == 3
    assert [number for number, _ in seen.of("started")] == [0, 1, 2]
    for row, (number, params), (_, state, value, reason) in zip(
        rows(task), seen.of("started"), seen.of("ended"), strict=True
    ):
        assert (row.number, row.params, row.state, row.value) == (number, params, state, value)
        assert row.reason == reason
        assert contains(task.data_set.retrain.search_space, params)
        told = [event[1:] for event in seen.of("epoch") if event[0] == number]
        assert [epoch for epoch, _, _ in told] == list(range(1, len(row.curve) + 1))
        assert [(train, loss) for _, train, loss in told] == list(
            zip(row.train_curve, row.curve, strict=True)
        )
        if state == "finished":
            assert value == min(row.curve)
            assert reason == ""
    assert list(task.checkpoints.iterdir()) == []


def test_the_first_parameters_are_tried_first(make_task):
    known = {
        "cell": "gru", "hidden_size": 6, "num_layers": 1, "segment_length": 12, "lookback": 24,
        "learning_rate": 0.01, "batch_size": 64, "normalisation": "instance", "dropout": 0.1,
        "head": "segments", "pooling": "last", "bidirectional": False, "channels": "joint",
        "positions": "learned",
        "pretrain_epochs": 0,
    }  # fmt: skip
    task = make_task(trials=1, first=[known], space={**SPACE, "head": ["calendar", "segments"]})
    work(task, Recorder())
    assert rows(task)[0].params == known


def test_a_failing_trial_is_recorded_and_the_next_begins(make_task):
    def once(number, epoch):
        if number == 0:
            raise RuntimeError("out of paper\nsecond line")

    task, seen = make_task(trials=3), Recorder(once)
    assert work(task, seen) == 3
    assert seen.of("ended")[0] == (0, "failed", None, "RuntimeError: out of paper")
    own = progress(task)
    assert (own.failed, own.complete + own.pruned, own.spent) == (1, 2, True)


def test_three_failures_in_a_row_for_one_reason_end_the_search(make_task):
    def always(number, epoch):
        raise RuntimeError(f"out of memory: {number} bytes")

    task = make_task(trials=9)
    with pytest.raises(
        SearchFailed, match=r"3 trials in a row failed .* RuntimeError: out of memory: 2 bytes"
    ):
        work(task, Recorder(always))
    assert progress(task).failed == 3
    with pytest.raises(SearchFailed, match="3 failed"):
        study.chosen(task.storage_url, task.study_name)


def test_failures_for_several_reasons_or_apart_do_not_end_it(make_task):
    def at(number, epoch):
        if number in (0, 1, 3, 4):
            raise (RuntimeError if number % 3 else OSError)("same text")

    task = make_task(trials=6)
    assert work(task, Recorder(at)) == 6
    assert progress(task).failed == 4


def test_a_diverged_training_is_a_failed_trial(make_task):
    task = make_task(trials=1, space={**SPACE, "learning_rate": {"low": 1e30, "high": 1e31}})
    seen = Recorder()
    work(task, seen)
    ((_, state, value, reason),) = seen.of("ended")
    assert (state, value) == ("failed", None)
    assert "TrainingDiverged" in reason


def test_no_trial_starts_when_the_time_is_over(make_task):
    task = make_task(trials=50, minutes=0.001)
    count = work(task, Recorder())
    assert count == 1
    # The only trial was allowed to finish: without it the night would have nothing.
    assert progress(task).complete == 1
    assert progress(task).spent


def test_a_trial_that_runs_over_time_is_pruned_if_another_finished(make_task):
    task = make_task(trials=50, minutes=10)
    work(task, seen := Recorder(), should_stop=lambda: bool(seen.of("ended")))
    spent = progress(task).seconds
    study.create(task.storage_url, NAME, Budget(trials=50, minutes=(spent + 1.5) / 60), 0)

    def slow(number, epoch):
        time.sleep(1.6)

    assert work(task, Recorder(slow)) == 1
    assert rows(task)[-1].reason == "the search's time was over at epoch 1"
    assert progress(task).spent


def test_the_last_place_is_not_given_twice(make_task, monkeypatch):
    """Two workers saw one place left: the second one's trial ends at once, uncounted and untold."""
    task = make_task(trials=1)
    monkeypatch.setattr(places, "is_spent", lambda trials, budget: len(trials) >= 3)
    seen = Recorder()
    assert work(task, seen) == 1
    assert [number for number, _ in seen.of("started")] == [0]
    with study.loaded(task.storage_url, NAME) as own:
        states = [trial.state for trial in own.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert len(rows(task)) == 1
    assert progress(task).failed == 0


def test_a_missing_study_is_said(make_task, tmp_path):
    task = make_task()
    lost = SearchTask(task.data_set, task.panel, task.splits, task.storage_url, "lost", tmp_path, "cpu")
    with pytest.raises(SearchFailed, match="no study lost"):
        work(lost, Recorder())
