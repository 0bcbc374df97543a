"""Search workers in this process: real studies on SQLite, real small trainings."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from data.catalog import parse_data_set
from data.processes import this_process
from data.retrain import Budget, SearchSpace
from data.splits import split
from lstm.evaluation import metrics
from lstm.evaluation.conformal import calibrate, spread
from lstm.models.forecaster import build
from lstm.scaling import Scaler
from lstm.search import places, study
from lstm.search.objective import SearchTask, train_trial
from lstm.search.sampler import Sampler
from lstm.search.space import centre, contains
from lstm.search.storage import SearchFailed, prepare
from lstm.search.worker import work
from lstm.training.checkpoint import EpochLoss
from lstm.training.fit import Fit, fit
from lstm.training.predict import predict
from lstm.windows import targets

NAME = "night"
SPACE = {
    "cell": ["gru"],
    "hidden_size": [4, 6],
    "num_layers": [1],
    "segment_length": [12],
    "lookback": [24, 48],
    "learning_rate": {"low": 3e-3, "high": 3e-2},
    "batch_size": [64],
}


class Recorder:
    """An observer that keeps what it is told; may raise at an epoch."""

    def __init__(self, at_epoch=None):
        self.events = []
        self.at_epoch = at_epoch or (lambda number, epoch: None)

    def started(self, number, params):
        self.events.append(("started", number, params))

    def epoch(self, number, epoch, train_loss, validation_loss):
        self.events.append(("epoch", number, epoch, train_loss, validation_loss))
        self.at_epoch(number, epoch)

    def ended(self, number, state, value, reason):
        self.events.append(("ended", number, state, value, reason))

    def of(self, kind):
        return [event[1:] for event in self.events if event[0] == kind]


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A prepared SQLite file to copy: preparing one takes half a second."""
    path = tmp_path_factory.mktemp("template") / "study.db"
    prepare(f"sqlite:///{path}")
    return path


@pytest.fixture
def make_task(make_panel, tmp_path, template):
    shutil.copy(template, tmp_path / "study.db")

    def make(trials=2, minutes=10.0, first=(), name=NAME, space=None, **panel):
        entry = {
            "source": {"kind": "csv", "path": "made.csv"},
            "time": "time",
            "target": "load",
            "frequency": "h",
            "retrain": {
                "horizon": 6,
                "validation": "4d",
                "judge": "4d",
                "quantiles": [0.2, 0.5, 0.8],
                "max_epochs": 4,
                "search_space": space or SPACE,
            },
        }
        data_set = parse_data_set(Path("catalog.yaml"), "made", entry)
        own = make_panel(**{"steps": 500, **panel})
        url = f"sqlite:///{tmp_path}/study.db"
        study.create(url, name, Budget(trials=trials, minutes=minutes), 5, first)
        splits = split(own, data_set.retrain)
        return SearchTask(data_set, own, splits, url, name, tmp_path / name, device="cpu")

    return make


def rows(task):
    return study.trials(task.storage_url, task.study_name)


def progress(task):
    return study.progress(task.storage_url, task.study_name)


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


def test_the_best_recipe_makes_the_same_loss_again(make_task):
    task = make_task(trials=2)
    work(task, Recorder())
    best = study.chosen(task.storage_url, task.study_name)
    row = rows(task)[best.number]
    assert best.value == min(row.curve)
    assert best.recipe.epochs == row.curve.index(best.value) + 1
    assert best.recipe.training.seed == task.data_set.retrain.seed + best.number
    model, training = best.recipe.model, best.recipe.training
    train, validation = task.windows(task.splits.train, model.lookback), task.validation(model.lookback)
    again = fit(
        model, training, task.scaled, train, None, device=torch.device("cpu"), epochs=best.recipe.epochs
    )
    z = predict(model, again.state, task.scaled, validation, torch.device("cpu"))
    scaler = Scaler.fit(task.panel, task.splits.train.last)
    y = scaler.scale_target(targets(task.panel, validation, 6), validation.series)
    assert metrics.pinball(y, z.astype(float), model.quantiles) == pytest.approx(best.value, rel=1e-4)


@pytest.mark.parametrize("losses", [(0.4, 0.3, 0.5, 0.3, 0.2), (0.1, 0.2), (0.3,)])
def test_a_trial_that_none_of_its_normalisation_has_beaten_leaves_its_calibration(make_task, losses):
    """One that is as good as the best so far, too: of two the earlier number is taken, whoever ends first."""
    task = make_task(trials=len(losses))
    with study.loaded(task.storage_url, task.study_name) as own:
        own.sampler = Sampler(5, Budget(trials=len(losses)))
        waiting = map(untrained, losses)
        own.optimize(
            lambda trial: train_trial(task, trial, lambda: None, print, inf, lambda: False, next(waiting)),
            n_trials=len(losses),
        )
        trials = own.get_trials()
    has = [places.CALIBRATION in trial.user_attrs for trial in trials]
    kinds = [trial.params["normalisation"] for trial in trials]
    before = [
        [loss for loss, kind in zip(losses[:number], kinds[:number], strict=True) if kind == kinds[number]]
        for number in range(len(losses))
    ]
    assert has == [loss <= min(alike, default=loss) for loss, alike in zip(losses, before, strict=True)]
    assert len(losses) < 3 or len(set(kinds)) > 1


@pytest.mark.parametrize("ensemble", [False, True])
def test_an_ensemble_gets_a_network_of_each_normalisation_whatever_the_pruner_says(make_task, ensemble):
    kinds = ["instance", "none", "instance", "none"]
    task = make_task(trials=4)
    retrain = task.data_set.retrain.model_copy(update={"ensemble": ensemble})
    task = replace(task, data_set=task.data_set.model_copy(update={"retrain": retrain}))
    first = [{**centre(retrain.search_space), "normalisation": kind} for kind in kinds]
    with study.loaded(task.storage_url, task.study_name) as own:
        own.pruner = optuna.pruners.ThresholdPruner(upper=0.0)
        own.sampler = Sampler(5, Budget(trials=4))
        for params in first:
            own.enqueue_trial(params)
        own.optimize(
            lambda trial: train_trial(task, trial, lambda: None, print, inf, lambda: False, untrained(0.5)),
            n_trials=4,
        )
        states = [trial.state.name for trial in own.get_trials()]
    assert states == (["COMPLETE"] * 2 if ensemble else ["PRUNED"] * 2) + ["PRUNED"] * 2


def test_what_was_known_is_not_pruned_and_leaves_what_a_choice_needs(make_task):
    """However it does beside the others; of the rest only those that may be chosen leave a calibration."""
    known = [{**centre(SearchSpace.model_validate(SPACE)), "dropout": dropout} for dropout in (0.1, 0.2)]
    task = make_task(trials=4, first=known)
    values = iter([0.5, 0.6, 0.55, 0.4])
    with study.loaded(task.storage_url, task.study_name) as own:
        own.pruner = optuna.pruners.ThresholdPruner(upper=0.45)
        own.sampler = Sampler(5, Budget(trials=4))
        own.optimize(
            lambda trial: train_trial(
                task, trial, lambda: None, print, inf, lambda: False, untrained(next(values))
            ),
            n_trials=4,
        )
        trials = own.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert [places.CALIBRATION in trial.user_attrs for trial in trials] == [True, True, False, True]
    assert [places.LOSSES in trial.user_attrs for trial in trials] == [True, True, False, True]


def test_the_losses_of_groups_are_the_validation_loss_in_parts(make_task):
    task = make_task(trials=2)
    work(task, Recorder())
    with study.loaded(task.storage_url, task.study_name) as own:
        for trial in own.get_trials():
            assert len(trial.user_attrs[places.LOSSES]) > 1
            assert np.mean(trial.user_attrs[places.LOSSES]) == pytest.approx(trial.value, rel=0.01)


def untrained(loss):
    """In place of `fit`: initial weights, and a loss after one epoch."""

    def train(config, training, panel, train, validation, *, device, checkpoint, on_epoch):
        on_epoch(1, EpochLoss(loss, loss))
        return Fit(build(config).state_dict(), (), 1, loss)

    return train


def test_the_calibration_is_by_errors_on_validation_of_weights_that_have_not_seen_it(make_task):
    task = make_task(trials=2)
    work(task, Recorder())
    best = study.chosen(task.storage_url, task.study_name)
    model, training = best.recipe.model, best.recipe.training
    cpu, scaler = torch.device("cpu"), Scaler.fit(task.panel, task.splits.train.last)
    train = task.windows(task.splits.train, model.lookback)
    again = fit(model, training, task.scaled, train, device=cpu, epochs=best.recipe.epochs)
    chosen = task.windows(task.splits.validation, model.lookback)
    z_WHQ = predict(model, again.state, task.scaled, chosen, cpu)
    y_WH = scaler.scale_target(targets(task.panel, chosen, 6), chosen.series)
    spread_W = spread(task.scaled.values[:, 0], chosen.origins, model.lookback)
    made = calibrate(y_WH, z_WHQ, spread_W, model.quantiles)
    np.testing.assert_allclose(best.calibration.factor_HQ, made.factor_HQ, rtol=1e-3)
    assert (best.calibration.exponent, best.calibration.windows) == (made.exponent, len(chosen))


def test_every_trial_has_a_seed_of_its_own(make_task):
    task = make_task(trials=2)
    task = replace(task, data_set=_never_pruned(task.data_set))
    work(task, Recorder())
    with study.loaded(task.storage_url, NAME) as own:
        recipes = [trial.user_attrs[places.RECIPE] for trial in own.get_trials()]
    assert [recipe["training"]["seed"] for recipe in recipes] == [7, 8]


def _never_pruned(data_set):
    """Two epochs, where the pruner says nothing yet, from seed 7."""
    retrain = data_set.retrain.model_copy(update={"seed": 7, "max_epochs": 2})
    return data_set.model_copy(update={"retrain": retrain})


def test_neither_the_scaler_nor_a_trial_sees_the_judge_span(make_task):
    task = make_task(trials=1)
    work(task, Recorder())
    task.panel.values[task.splits.judge.first :] = 1e6
    other = make_task(trials=1, name="other")
    other.panel.values[other.splits.judge.first :] = 1e6
    work(other, Recorder())
    assert rows(other)[0].curve == rows(task)[0].curve


def test_all_lookbacks_are_judged_on_the_same_targets(make_task):
    """A gap shuts out different origins for each lookback."""
    task = make_task(steps=600)
    first = task.splits.validation.first
    task.panel.values[first - 20 : first + 4] = np.nan
    each = {lookback: task.validation(lookback) for lookback in (24, 48)}
    np.testing.assert_array_equal(each[24].origins, each[48].origins)
    np.testing.assert_array_equal(each[24].steps, each[48].steps)
    assert 0 < len(each[24]) < len(task.windows(task.splits.validation, 48))


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


class OrchestratorSignal(BaseException):
    """Such as Prefect raises where a flow run is cancelled."""


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
