"""A trial of a search, by real small trainings: what it trains and judges on, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from tasks import NAME, SPACE, Recorder, rows, untrained

from data.retrain import Budget, SearchSpace
from lstm.evaluation import metrics
from lstm.evaluation.conformal import calibrate, spread
from lstm.evaluation.significance import group_means
from lstm.models.forecaster import build
from lstm.scaling import Scaler
from lstm.search import places, study
from lstm.search.objective import _EpochLog, train_trial
from lstm.search.sampler import Sampler, SharedSearchSpace
from lstm.search.space import at_centre, centre
from lstm.search.validation import validate
from lstm.search.worker import work
from lstm.training.fit import fit
from lstm.training.predict import predict
from lstm.windows import targets


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


@pytest.mark.parametrize("ensemble", [False, True])
def test_an_ensemble_gets_a_network_of_each_normalisation_whatever_the_pruner_says(make_task, ensemble):
    kinds = ["instance", "none", "instance", "none"]
    task = make_task(trials=4)
    retrain = task.data_set.retrain.model_copy(update={"ensemble": ensemble})
    task = replace(task, data_set=task.data_set.model_copy(update={"retrain": retrain}))
    first = [{**centre(retrain.search_space), "normalisation": kind} for kind in kinds]
    with study.loaded(task.storage_url, task.study_name) as own:
        own.pruner = optuna.pruners.ThresholdPruner(upper=0.0)
        own.sampler = Sampler(5, Budget(trials=4), SharedSearchSpace())
        for params in first:
            own.enqueue_trial(params)
        own.optimize(
            lambda trial: train_trial(
                task, trial, trial.number, lambda: None, print, inf, lambda: False, untrained(0.5)
            ),
            n_trials=4,
        )
        states = [trial.state.name for trial in own.get_trials()]
    assert states == (["COMPLETE"] * 2 if ensemble else ["PRUNED"] * 2) + ["PRUNED"] * 2


def test_what_was_known_is_not_pruned_however_it_does_beside_the_others(make_task):
    known = [{**centre(SearchSpace.model_validate(SPACE)), "dropout": dropout} for dropout in (0.1, 0.2)]
    task = make_task(trials=4, first=known)
    values = iter([0.5, 0.6, 0.55, 0.4])
    with study.loaded(task.storage_url, task.study_name) as own:
        own.pruner = optuna.pruners.ThresholdPruner(upper=0.45)
        own.sampler = Sampler(5, Budget(trials=4), SharedSearchSpace())
        own.optimize(
            lambda trial: train_trial(
                task, trial, trial.number, lambda: None, print, inf, lambda: False, untrained(next(values))
            ),
            n_trials=4,
        )
        trials = own.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    for left in (places.RECIPE, places.LOSSES, places.CALIBRATION):
        assert [left in trial.user_attrs for trial in trials] == [True, True, False, True]


def test_trials_of_any_lookback_leave_their_losses_on_the_same_groups_of_windows(make_task):
    """Their mean is the validation loss, of one series without gaps."""
    task = make_task(trials=6, steps=600)
    work(task, Recorder())
    with study.loaded(task.storage_url, task.study_name) as own:
        complete = [trial for trial in own.get_trials() if trial.state is TrialState.COMPLETE]
    assert {trial.params["lookback"] for trial in complete} == {24, 48}
    assert len({len(trial.user_attrs[places.LOSSES]) for trial in complete}) == 1
    for trial in complete:
        assert len(trial.user_attrs[places.LOSSES]) > 1
        assert np.mean(trial.user_attrs[places.LOSSES]) == pytest.approx(trial.value, rel=0.01)


@pytest.mark.parametrize("gaps", [slice(0, 0), slice(430, 433), slice(420, 445)])
def test_the_losses_are_means_over_what_was_observed(make_task, gaps):
    task = make_task(steps=600)
    task.panel.values[gaps] = np.nan
    shared = task.validation(24)
    model, _ = at_centre(task.data_set, task.scaled)
    model = replace(model, lookback=24)
    state = build(model).state_dict()
    found = validate(task.scaled, shared, model, state)
    scaler = Scaler.fit(task.panel, task.splits.train.last)
    y_WH = scaler.scale_target(targets(task.panel, shared, 6), shared.series)
    z_WHQ = predict(model, state, task.scaled, shared, torch.device("cpu")).astype(float)
    each = [metrics.pinball(y_WH[[n]], z_WHQ[[n]], model.quantiles) for n in range(len(shared))]
    np.testing.assert_allclose(found.loss_G, group_means(np.array(each), shared.steps, 6), rtol=1e-4)


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


def test_epochs_that_follow_at_once_are_noted_together():
    trial = optuna.create_study().ask()
    log = _EpochLog(trial)
    for loss in (3.0, 2.0, 1.0):
        log.add(loss)
    assert trial.user_attrs[places.EPOCHS]["train_losses"] == [3.0]
    log.write()
    assert trial.user_attrs[places.EPOCHS]["train_losses"] == [3.0, 2.0, 1.0]


def test_what_ends_a_trial_is_not_hidden_by_a_study_out_of_reach(caplog):
    own = optuna.create_study()
    trial = own.ask()
    log = _EpochLog(trial)
    log.add(2.0)
    log.add(1.0)
    own.tell(trial, 1.0)
    log.write_or_say()
    assert "could not be noted" in caplog.text
