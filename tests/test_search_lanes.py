"""A worker with lanes: a real study on SQLite, several trials at a time, each an ordinary one."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace

import pytest
import torch
from optuna.trial import TrialState
from tasks import NAME, SPACE, OrchestratorSignal, Recorder, progress, rows

from lstm.search import places, study
from lstm.search.arms import SHARED
from lstm.search.lanes import work_in_lanes
from lstm.search.sampler import Sampler
from lstm.search.space import contains
from lstm.search.storage import SearchFailed, opened
from lstm.search.together import TogetherStorage
from lstm.search.worker import Worker
from lstm.training.fit import fit

WIDE = {**SPACE, "cell": ["gru", "rnn"], "batch_size": [32, 64]}


class Interrupter(Recorder):
    """Asks for an end once two epochs were told; no lane runs ahead of it."""

    def __init__(self, error=None):
        super().__init__(lambda number, epoch: epoch < 2 or self._hold())
        self.asked = threading.Event()
        self.error = error

    def should_stop(self):
        if len(self.of("epoch")) < 2:
            return False
        self.asked.set()
        if self.error is not None:
            raise self.error("stop")
        return True

    def _hold(self):
        assert self.asked.wait(60)
        time.sleep(0.2)


def begin_late(monkeypatch, seen):
    """The fourth lane to begin does so once a trial has ended, as it may on a busy machine."""
    begun, begin = itertools.count(1), Worker._run_one

    def run_one(self):
        if next(begun) == 4:
            deadline = time.monotonic() + 60
            while not seen.of("ended"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        return begin(self)

    monkeypatch.setattr(Worker, "_run_one", run_one)


def attributes(task):
    with study.loaded(task.storage_url, task.study_name) as own:
        return [trial.user_attrs for trial in own.get_trials() if places.BEYOND not in trial.user_attrs]


@pytest.mark.usefixtures("in_float32")
def test_a_search_in_lanes_ends_with_ordinary_trials(make_task):
    task, seen = make_task(trials=7, space=WIDE), Recorder()
    assert work_in_lanes(task, lambda: seen, 3) == 7
    own = progress(task)
    assert (own.trials, own.complete + own.pruned, own.running, own.waiting) == (7, 7, 0, 0)
    assert own.spent
    assert work_in_lanes(task, lambda: seen, 3) == 0
    ends = {number: rest for number, *rest in seen.of("ended")}
    for row in rows(task):
        assert contains(task.data_set.retrain.search_space, row.params)
        told = [event[1:] for event in seen.of("epoch") if event[0] == row.number]
        assert [epoch for epoch, _, _ in told] == list(range(1, len(row.curve) + 1))
        assert [loss for _, _, loss in told] == list(row.curve)
        assert ends[row.number] == [row.state, row.value, row.reason]
    assert list(task.checkpoints.glob("*")) == []
    # Each round of three places has one arm.
    arms = [tuple(row.params[name] for name in SHARED) for row in sorted(rows(task), key=lambda r: r.number)]
    assert len(set(arms[0:3])) == len(set(arms[3:6])) == 1
    best = study.chosen(task.storage_url, NAME)
    alone = fit(
        best.recipe.model,
        best.recipe.training,
        task.scaled,
        task.windows(task.splits.train, best.recipe.model.lookback),
        task.validation(best.recipe.model.lookback),
        device=torch.device("cpu"),
    )
    assert alone.best_loss == pytest.approx(best.value, rel=1e-3)


def test_a_trial_that_another_process_ended_costs_the_others_nothing(make_task):
    """As after a pause in which heartbeats were missed; it ends before anybody here has noticed."""
    task = make_task(trials=4)

    class Ended(Recorder):
        def epoch(self, number, epoch, train_loss, validation_loss):
            super().epoch(number, epoch, train_loss, validation_loss)
            if number == 0 and epoch == 2:
                with opened(task.storage_url) as other:
                    (trial,) = (t for t in other.get_all_trials(1) if t.number == 0)
                    other.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    seen = Ended()
    work_in_lanes(task, lambda: seen, 2)
    states = {number: state for number, state, *_ in seen.of("ended")}
    assert states.pop(0) == "failed"
    assert len(states) >= 3
    assert set(states.values()) <= {"finished", "pruned"}


@pytest.mark.parametrize("is_written", [True, False])
def test_a_trial_that_another_process_ends_as_it_is_done_here_costs_the_others_nothing(
    make_task, monkeypatch, is_written
):
    """Before Optuna writes its value; whether or not the database has that it ended, and somebody noticed."""
    task, seen, note = make_task(trials=4), Recorder(), TogetherStorage.set_trial_user_attr
    ended = []

    def end_elsewhere(self, trial_id, key, value):
        note(self, trial_id, key, value)
        if key == places.END and not value["reason"] and not ended:
            ended.append(self.get_trial(trial_id).number)
            if is_written:
                self.flush()
            with opened(task.storage_url) as other:
                other.set_trial_state_values(trial_id, TrialState.FAIL)
            self.flush()

    monkeypatch.setattr(TogetherStorage, "set_trial_user_attr", end_elsewhere)
    work_in_lanes(task, lambda: seen, 2)
    states = {number: state for number, state, *_ in seen.of("ended")}
    assert states.pop(ended[0]) == "failed"
    assert len(states) >= 3
    assert set(states.values()) <= {"finished", "pruned"}


def test_lanes_share_what_they_know_of_the_search_space(make_task, monkeypatch):
    """Else each would read all trials anew."""
    spaces, draw = [], Sampler.infer_relative_search_space

    def noted(self, *given):
        spaces.append(self._space)
        return draw(self, *given)

    monkeypatch.setattr(Sampler, "infer_relative_search_space", noted)
    work_in_lanes(make_task(trials=6), Recorder, 3)
    assert len(spaces) >= 6
    assert len(set(map(id, spaces))) == 1


def test_trials_run_side_by_side_each_with_a_thread_and_a_claim(make_task):
    task, threads, all_there = make_task(trials=4), {}, threading.Barrier(4)

    class Watched(Recorder):
        def started(self, number, params):
            all_there.wait(60)

        def epoch(self, number, epoch, train_loss, validation_loss):
            threads.setdefault(number, set()).add(threading.current_thread().name)

    work_in_lanes(task, Watched, 4)
    assert [len(names) for names in threads.values()] == [1] * 4
    spans = [(a[places.CLAIM]["time"], a[places.END]["time"]) for a in attributes(task)]
    assert max(start for start, _ in spans) < min(end for _, end in spans)


@pytest.mark.parametrize("is_one_late", [False, True])
def test_should_stop_ends_all_trials_after_their_epoch_and_they_go_on_later(
    make_task, monkeypatch, is_one_late
):
    task, seen = make_task(trials=4), Interrupter()
    if is_one_late:
        begin_late(monkeypatch, seen)
    work_in_lanes(task, lambda: seen, 4, seen.should_stop)
    own = progress(task)
    assert own.running == own.failed == 0
    assert own.waiting > 0
    assert {reason for _, state, _, reason in seen.of("ended") if state == "failed"} == {
        "interrupted (Stopped)"
    }
    # One that began late took another's place up, whose checkpoint it is.
    with study.loaded(task.storage_url, task.study_name) as own:
        trained = [places.place(trial) for trial in own.get_trials() if trial.intermediate_values]
    assert trained
    assert all(task.checkpoint(place).exists() for place in trained)
    before = [row for row in rows(task) if row.state == "failed"]
    work_in_lanes(task, Recorder, 4)
    own = progress(task)
    assert (own.trials, own.complete + own.pruned, own.failed, own.waiting) == (4, 4, 0, 0)
    # Those that were interrupted went on from their checkpoints, with their own parameters. A lane that had
    # not begun when all ended begins now, with parameters of nobody's.
    for cut in before:
        (again,) = (row for row in rows(task) if row.params == cut.params and row.state != "failed")
        assert again.curve[: len(cut.curve)] == cut.curve


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OrchestratorSignal])
def test_an_interruption_of_the_caller_ends_every_trial_in_order(make_task, error):
    """As a signal does, which Python delivers to the main thread."""
    before = set(threading.enumerate())
    task, seen = make_task(trials=3), Interrupter(error)
    with pytest.raises(error):
        work_in_lanes(task, lambda: seen, 3, seen.should_stop)
    own = progress(task)
    assert (own.running, own.failed) == (0, 0)
    assert own.waiting > 0
    assert set(threading.enumerate()) <= before


def test_an_interruption_within_a_lane_ends_all_lanes_and_is_handed_on(make_task):
    def interrupt(number, epoch):
        if number == 1:
            raise OrchestratorSignal

    task, seen = make_task(trials=3), Recorder(interrupt)
    with pytest.raises(OrchestratorSignal):
        work_in_lanes(task, lambda: seen, 3)
    own = progress(task)
    assert (own.running, own.failed) == (0, 0)
    assert own.waiting > 0


def test_a_failing_trial_leaves_the_others_alone(make_task):
    def once(number, epoch):
        if number == 1:
            raise RuntimeError("out of paper")

    task, seen = make_task(trials=4), Recorder(once)
    assert work_in_lanes(task, lambda: seen, 2) == 4
    own = progress(task)
    assert (own.failed, own.complete + own.pruned, own.spent) == (1, 3, True)


def test_trials_that_keep_failing_end_the_search(make_task):
    def always(number, epoch):
        raise RuntimeError("out of paper")

    task = make_task(trials=20)
    with pytest.raises(SearchFailed, match=r"3 trials in a row failed .* out of paper"):
        work_in_lanes(task, lambda: Recorder(always), 2)
    own = progress(task)
    assert own.running == 0
    assert own.trials < 20


def test_a_missing_study_is_said(make_task):
    with pytest.raises(SearchFailed, match="no study lost"):
        work_in_lanes(replace(make_task(), study_name="lost"), Recorder, 2)
