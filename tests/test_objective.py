"""A trial of a search, by real small trainings: what it trains and judges on, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import optuna
import pytest
import torch
from tasks import NAME, SPACE, Recorder, rows, untrained

from data.retrain import Budget, SearchSpace
from lstm.evaluation import metrics
from lstm.evaluation.conformal import calibrate, spread
from lstm.scaling import Scaler
from lstm.search import places, study
from lstm.search.objective import train_trial
from lstm.search.sampler import Sampler
from lstm.search.space import centre
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
