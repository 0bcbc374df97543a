"""A study on SQLite: what it draws, what it cuts short, and what it tells of its trials."""

from __future__ import annotations

import shutil
import time

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from studies import BY_HAND, NAME, RECIPE, boom, run

from data.retrain import Budget
from lstm.search import places, study
from lstm.search.sampler import Pruner, Sampler, SharedSearchSpace
from lstm.search.storage import SearchFailed

pytestmark = BY_HAND


def test_best_is_the_lowest_with_its_recipe(lite):
    study.create(lite, NAME, Budget(trials=4), 0)
    values = iter([0.4, 0.2, 0.2, 0.3])
    run(lite, 4, lambda trial: trial.suggest_float("x", 0, 1) * 0 + next(values))
    best = study.chosen(lite, NAME)
    assert (best.number, best.value, best.recipe) == (1, 0.2, RECIPE)
    np.testing.assert_array_equal(best.calibration.factor_HQ, 0.2)
    assert best.params == study.trials(lite, NAME)[1].params
    assert study.progress(lite, NAME).best_value == 0.2


def test_best_of_each_normalisation_the_best_of_all_first(lite):
    study.create(lite, NAME, Budget(trials=6), 0)
    values = [0.4, 0.3, 0.2, 0.1, 0.3, 0.5]
    kinds = ["none", "none", "instance", "last_value", "none", "instance"]
    run(lite, 6, lambda trial: values[trial.number], normalisation=kinds.__getitem__)
    found = study.chosen_of_each(lite, NAME)
    assert [(one.number, one.value) for one in found] == [(3, 0.1), (2, 0.2), (1, 0.3)]
    assert [one.recipe.model.normalisation for one in found] == ["last_value", "instance", "none"]
    assert [one.calibration.factor_HQ[0, 0] for one in found] == [0.1, 0.2, 0.3]
    assert study.chosen(lite, NAME).number == 3


def test_what_was_known_stays_until_another_is_surely_better(lite):
    study.create(lite, NAME, Budget(trials=9), 0, [{"x": 0.5}, {"x": 0.6}])
    values = [0.5, 0.51, 0.49, 0.4]
    jitter = 0.05 * np.array([1, -1] * 4)

    def losses(number, value):
        return list(value + (jitter if number == 2 else 0.01 * jitter * number))

    def further(count):
        run(
            lite,
            count,
            lambda trial: trial.suggest_float("x", 0, 1) * 0 + values[trial.number],
            losses=losses,
        )
        return study.chosen(lite, NAME)

    kept = further(3)
    assert (kept.number, kept.params, kept.value) == (0, {"x": 0.5}, 0.5)
    assert str(kept).startswith(
        "Trial 0, known before; that trial 2 is better than what was known by 0.0100 may"
    )
    better = further(1)
    assert (better.number, str(better)) == (3, "Trial 3")


def test_what_was_known_of_each_normalisation_stays(lite):
    kinds = ["none", "instance", "none", "instance"]
    study.create(lite, NAME, Budget(trials=4), 0, [{"x": 0.1}, {"x": 0.2}])
    values, jitter = [0.5, 0.4, 0.3, 0.39], 0.05 * np.array([1, -1] * 4)
    run(
        lite,
        4,
        lambda trial: trial.suggest_float("x", 0, 1) * 0 + values[trial.number],
        normalisation=kinds.__getitem__,
        losses=lambda number, value: list(value + jitter * (number == 3)),
    )
    assert [one.number for one in study.chosen_of_each(lite, NAME)] == [2, 1]
    assert study.chosen(lite, NAME).number == 2


def test_where_nothing_known_finished_the_choice_says_so(lite):
    study.create(lite, NAME, Budget(trials=2), 0, [{"x": 0.5}])
    run(lite, 1, boom)
    run(lite, 1)
    assert str(study.chosen(lite, NAME)) == "Trial 1, nothing that was known before has finished"


def test_a_study_that_was_left_half_made_is_filled_again(lite, monkeypatch):
    first = [{"x": 0.5}, {"x": 0.6}]
    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "enqueue_trial", interrupted)
        with pytest.raises(KeyboardInterrupt):
            study.create(lite, NAME, Budget(trials=4), 3, first)
    study.create(lite, NAME, Budget(trials=4), 3, first)
    with study.loaded(lite, NAME) as own:
        assert places.known(own) == 2
    run(lite, 2)
    assert [row.params for row in study.trials(lite, NAME)] == first


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("left", [places.LOSSES, places.CALIBRATION])
def test_the_trial_of_an_older_worker_is_refused(lite, left):
    study.create(lite, NAME, Budget(trials=1), 0)
    with study.loaded(lite, NAME) as own:
        own.sampler = Sampler(0, Budget(), SharedSearchSpace())

        def older(trial):
            trial.set_user_attr(places.RECIPE, RECIPE.to_dict())
            for key in {places.LOSSES, places.CALIBRATION} - {left}:
                trial.set_user_attr(key, [0.5])
            return trial.suggest_float("x", 0, 1)

        own.optimize(older, n_trials=1)
    with pytest.raises(SearchFailed, match=rf"trial 0 has no {left}.* Remedy: "):
        study.chosen(lite, NAME)


def test_best_of_nothing_says_what_became_of_the_trials(lite):
    study.create(lite, NAME, Budget(trials=4), 0)
    with pytest.raises(SearchFailed, match="none was started"):
        study.chosen(lite, NAME)
    run(lite, 2, boom)
    with pytest.raises(SearchFailed, match=r"2 failed\. Reasons: RuntimeError: boom$"):
        study.chosen(lite, NAME)


def test_rows_tell_state_curve_and_reason(lite):
    study.create(lite, NAME, Budget(trials=9), 0)

    def pruned(trial):
        trial.report(0.5, 1)
        trial.report(0.4, 2)
        trial.set_user_attr(places.EPOCHS, {"time": time.time(), "train_losses": [0.6, 0.5]})
        trial.set_user_attr(places.END, {"time": time.time() + 3, "reason": "too slow"})
        raise optuna.TrialPruned

    run(lite, 1)
    run(lite, 1, pruned)
    run(lite, 1, boom)
    finished, cut, failed = study.trials(lite, NAME)
    assert (finished.state, finished.reason, finished.curve) == ("finished", "", ())
    assert finished.value == finished.params["x"]
    assert (cut.state, cut.value, cut.reason) == ("pruned", None, "too slow")
    assert (cut.curve, cut.train_curve) == ((0.5, 0.4), (0.6, 0.5))
    assert 3 <= cut.seconds < 10
    assert (failed.state, failed.value, failed.reason) == ("failed", None, "RuntimeError: boom")
    own = study.progress(lite, NAME)
    assert (own.complete, own.pruned, own.failed, own.running, own.trials) == (1, 1, 1, 0, 3)


def test_draws_depend_on_seed_and_number_not_on_the_process(tmp_path, template):
    def params(name, seed, sessions):
        shutil.copy(template, tmp_path / name)
        url = f"sqlite:///{tmp_path}/{name}"
        study.create(url, NAME, Budget(trials=6), seed)
        for count in sessions:
            run(url, count)
        return [row.params["x"] for row in study.trials(url, NAME)]

    once = params("once", 3, [6])
    assert params("resumed", 3, [2, 4]) == once
    assert len(set(once)) == 6
    assert params("other", 4, [2]) != once[:2]


def test_importance_tells_what_mattered(lite):
    study.create(lite, NAME, Budget(trials=30), 0)

    def objective(trial):
        return trial.suggest_float("x", 0, 1) + 0 * trial.suggest_float("noise", 0, 1)

    run(lite, 3, objective)
    assert study.importance(lite, NAME) == {}
    run(lite, 12, objective)
    found = study.importance(lite, NAME)
    assert next(iter(found)) == "x"
    assert found["x"] > 0.9
    assert sum(found.values()) == pytest.approx(1)


def test_what_was_not_varied_has_no_importance(lite):
    study.create(lite, NAME, Budget(trials=20), 0)

    def objective(trial):
        return trial.suggest_float("x", 0, 1) + trial.suggest_categorical("fixed", (1,))

    run(lite, 6, objective)
    assert study.importance(lite, NAME) == {"x": 1}


def test_of_one_configuration_nothing_mattered(lite):
    study.create(lite, NAME, Budget(trials=20), 0)
    losses = iter(range(20))
    run(lite, 6, lambda trial: next(losses) + trial.suggest_float("fixed", 1, 1))
    assert study.importance(lite, NAME) == {}


def test_importance_of_equal_losses_is_empty(lite):
    study.create(lite, NAME, Budget(trials=9), 0)
    run(lite, 5, lambda trial: 0 * trial.suggest_float("x", 0, 1))
    assert study.importance(lite, NAME) == {}


def test_the_pruner_waits_and_then_cuts_what_is_worse_than_the_median(lite):
    own = optuna.create_study(pruner=Pruner(Budget(trials=8), 10))
    assert not _pruned_at(own, [0.9] * 10)
    assert not _pruned_at(own, [0.5] * 10)
    assert _pruned_at(own, [0.8] * 10) == 3  # a fifth of ten epochs is left alone
    assert not _pruned_at(own, [0.4] * 10)


def _pruned_at(own, curve):
    trial = own.ask()
    for epoch, loss in enumerate(curve, start=1):
        trial.report(loss, epoch)
        if trial.should_prune():
            own.tell(trial, state=TrialState.PRUNED)
            return epoch
    own.tell(trial, min(curve))
    return 0
