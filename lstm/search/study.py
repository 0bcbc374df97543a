"""The study of one night: create it, ask how it is doing, choose its trial, clean up after the dead."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial, TrialState

from data.retrain import Budget
from lstm.evaluation.conformal import Calibration
from lstm.search import places
from lstm.search.choice import choose
from lstm.search.storage import GRACE_SECONDS, SearchFailed, opened, prepare
from lstm.training.recipe import Recipe

STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_KILLED = "its process was killed"
# Fewer trials say nothing about which parameter mattered.
_FEWEST_FOR_IMPORTANCE = 4


@dataclass(frozen=True)
class Progress:
    """How a search is doing, over all workers.

    Attributes:
        trials: places of the budget that are taken; a trial that is run again takes one place.
        complete, pruned, failed, running, waiting: their states. A waiting one needs a worker.
        best_value: the lowest validation loss of a complete trial.
        seconds: time in which at least one trial ran.
        spent: no further trial will start. Trials may still be running.
    """

    trials: int
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int
    best_value: float | None
    seconds: float
    spent: bool


@dataclass(frozen=True)
class Chosen:
    """The complete trial to go on with, of all or of a normalisation.

    Attributes:
        value: its lowest validation loss.
        calibration: of its quantiles, by its errors on the validation windows.
        reason: what there is to say about the choice (`lstm.search.choice`).
    """

    number: int
    value: float
    recipe: Recipe
    calibration: Calibration
    params: dict[str, Any]
    reason: str

    def __str__(self) -> str:
        return f"Trial {self.number}{self.reason and ', ' + self.reason}"


@dataclass(frozen=True)
class TrialRow:
    """One trial as tables and pictures show it.

    Attributes:
        state: finished, pruned, failed, running or waiting.
        value: its best validation loss; None unless it finished.
        curve: validation loss after each epoch.
        train_curve: training loss of each epoch.
        seconds: how long it ran.
        reason: why it was pruned or failed, else empty.
    """

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    curve: tuple[float, ...]
    train_curve: tuple[float, ...]
    seconds: float
    reason: str


def create(
    storage_url: str, name: str, budget: Budget, seed: int, first: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Create the study, its database and tables, or set an existing study's budget and clean it up.

    A study that has spent its budget without one finished trial starts over.

    Workers race for a fresh database: the process that starts them calls this before.

    Args:
        seed: of the sampler, fixed when the study is created.
        first: parameters that are known already (`lstm.search.choice`), tried in this order before the
            sampler draws any, as many as the budget has trials for; ignored for a study that has trials.

    Raises:
        SearchFailed: the database cannot be reached or written.
    """
    prepare(storage_url)
    with opened(storage_url) as storage:
        study = _create(storage, name)
        if _is_hopeless(study, budget):
            optuna.delete_study(study_name=name, storage=storage)
            study = _create(storage, name)
        study.set_user_attr("budget", budget.model_dump(mode="json"))
        if "seed" not in study.user_attrs:
            for params in first[: budget.trials]:
                study.enqueue_trial(dict(params), skip_if_exists=True)
            study.set_user_attr(places.KNOWN, len(study.get_trials(deepcopy=False)))
            # The last: whoever is killed on the way to it leaves a study that is filled again.
            study.set_user_attr("seed", seed)
    clean(storage_url, name)


def progress(storage_url: str, name: str) -> Progress:
    """How the search is doing.

    Raises:
        SearchFailed: there is no such study.
    """
    with loaded(storage_url, name) as study:
        trials, budget = study.get_trials(deepcopy=False), budget_of(study)
        own = places.paid(trials, budget)
        states = Counter(trial.state for trial in own.values())
        values = [
            trial.value
            for trial in own.values()
            if trial.state is TrialState.COMPLETE and trial.value is not None
        ]
        return Progress(
            trials=len(own),
            complete=states[TrialState.COMPLETE],
            pruned=states[TrialState.PRUNED],
            failed=states[TrialState.FAIL],
            running=states[TrialState.RUNNING],
            waiting=states[TrialState.WAITING],
            best_value=min(values, default=None),
            seconds=places.seconds(trials),
            spent=places.is_spent(trials, budget),
        )


def chosen(storage_url: str, name: str) -> Chosen:
    """The complete trial to go on with: see `lstm.search.choice`.

    Raises:
        SearchFailed: there is no such study, or no trial of it finished; says what became of them. Or one
            of those that finished was run by a worker of another version, which left too little.
    """
    with loaded(storage_url, name) as study:
        return _chosen(study, _complete(study))


def chosen_of_each(storage_url: str, name: str) -> tuple[Chosen, ...]:
    """The complete trial to go on with of each normalisation, the one with the lowest loss first.

    Raises:
        SearchFailed: as of `chosen`, for any of them.
    """
    with loaded(storage_url, name) as study:
        complete = _complete(study)
        kinds = dict.fromkeys(places.normalisation(trial) for trial in complete)
        alike = ([t for t in complete if places.normalisation(t) == kind] for kind in kinds)
        return tuple(
            sorted((_chosen(study, each) for each in alike), key=lambda one: (one.value, one.number))
        )


def trials(storage_url: str, name: str) -> list[TrialRow]:
    """Every trial in the order of its start, without those that came after the budget's last place.

    Raises:
        SearchFailed: there is no such study.
    """
    with loaded(storage_url, name) as study:
        return [
            _row(trial) for trial in study.get_trials(deepcopy=False) if places.BEYOND not in trial.user_attrs
        ]


def importance(storage_url: str, name: str) -> dict[str, float]:
    """How much each parameter that was varied mattered for the loss (functional ANOVA), the largest first;
    sums to 1.

    Empty where too few trials finished, all with the same loss, or all of one configuration.

    Raises:
        SearchFailed: there is no such study.
    """
    with loaded(storage_url, name) as study:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < _FEWEST_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
            return {}
        varied = [name for name in complete[0].params if len({trial.params[name] for trial in complete}) > 1]
        if not varied:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)


def clean(storage_url: str, name: str) -> int:
    """Fail the trials whose process died and queue them again; returns how many were failed.

    A process on this host is known to be dead at once, one elsewhere by its heartbeat after a minute.

    Raises:
        SearchFailed: there is no such study.
    """
    with loaded(storage_url, name) as study:
        return clean_study(study)


@contextlib.contextmanager
def loaded(
    storage_url: str,
    name: str,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
    cached: Callable[[optuna.storages.RDBStorage], _CachedStorage] = _CachedStorage,
) -> Iterator[optuna.Study]:
    """An existing study, open until the end of the block.

    Args:
        cached: makes of the database what the study reads and writes.

    Raises:
        SearchFailed: there is no such study.
    """
    with opened(storage_url, _queue_stale) as storage:
        try:
            study = optuna.load_study(
                study_name=name, storage=cached(storage), sampler=sampler, pruner=pruner
            )
        except KeyError as error:
            raise SearchFailed(f"no study {name}. Remedy: create it before its workers start") from error
        yield study


@contextlib.contextmanager
def beside(study: optuna.Study) -> Iterator[optuna.Study]:
    """An open study once more, for a thread of its own; both read the database through one cache."""
    storage = study._storage
    assert isinstance(storage, _CachedStorage)
    try:
        yield optuna.load_study(study_name=study.study_name, storage=storage)
    finally:
        # The thread's own.
        storage._backend.remove_session()


def budget_of(study: optuna.Study) -> Budget:
    """The budget that `create` stored."""
    return Budget.model_validate(study.user_attrs["budget"])


def clean_study(study: optuna.Study) -> int:
    """`clean`, for a study that is open."""
    failed = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if places.has_dead_owner(trial) or _is_unclaimed(trial):
            failed += fail_running(study, trial, _KILLED, killed=True)
    before = _count_failed(study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    return failed + _count_failed(study) - before


def fail_running(study: optuna.Study, trial: FrozenTrial, reason: str, *, killed: bool) -> bool:
    """Fail a running trial and queue its place again; False if another process has ended it already."""
    ended = trial.user_attrs.get(places.EPOCHS, trial.user_attrs.get(places.CLAIM, {})).get("time")
    end = {"time": ended if killed and ended else time.time(), "reason": reason}
    try:
        # One transaction reads and sets the state, so that of several cleaners one succeeds.
        study._storage.set_trial_user_attr(trial._trial_id, places.END, end)
        if not study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL):
            return False
    except UpdateFinishedTrialError:
        return False
    # With what its process wrote until the end.
    places.queue_again(study, study._storage.get_trial(trial._trial_id), killed=killed)
    return True


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, at least one, each with what it leaves for the choice among them."""
    own = study.get_trials(deepcopy=False)
    complete = [trial for trial in own if trial.state is TrialState.COMPLETE]
    if not complete:
        raise SearchFailed(f"study {study.study_name}: no trial finished; {_fates(own)}")
    for trial in complete:
        for left in (places.LOSSES, places.CALIBRATION):
            if left not in trial.user_attrs:
                raise SearchFailed(
                    f"study {study.study_name}: trial {trial.number} has no {left}; its worker runs another "
                    "version of Nightcast. Remedy: install the same one wherever trials run, then start the "
                    "search anew by another retrain.seed"
                )
    return complete


def _chosen(study: optuna.Study, complete: Sequence[FrozenTrial]) -> Chosen:
    """What the trial to go on with has left in its study."""
    trial, reason = choose(complete, places.known(study))
    assert trial.value is not None
    recipe = Recipe.from_dict(trial.user_attrs[places.RECIPE])
    calibration = Calibration.from_dict(trial.user_attrs[places.CALIBRATION])
    return Chosen(trial.number, trial.value, recipe, calibration, dict(trial.params), reason)


def _create(storage: optuna.storages.RDBStorage, name: str) -> optuna.Study:
    return optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)


def _is_hopeless(study: optuna.Study, budget: Budget) -> bool:
    """True if the budget is spent and no trial finished: going on with it could only fail again."""
    trials = study.get_trials(deepcopy=False)
    complete = any(trial.state is TrialState.COMPLETE for trial in trials)
    return (
        not complete
        and places.is_spent(trials, budget)
        and not any(trial.state is TrialState.RUNNING for trial in trials)
    )


def _queue_stale(study: optuna.Study, trial: FrozenTrial) -> None:
    places.queue_again(study, trial, killed=True)


def _is_unclaimed(trial: FrozenTrial) -> bool:
    """True if its process died in the moment between taking the trial and signing it."""
    if places.CLAIM in trial.user_attrs or trial.datetime_start is None:
        return False
    return time.time() - trial.datetime_start.timestamp() > GRACE_SECONDS


def _count_failed(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))


def _row(trial: FrozenTrial) -> TrialRow:
    end = trial.user_attrs.get(places.END, {})
    reason = end.get("reason", _KILLED if trial.state is TrialState.FAIL else "")
    return TrialRow(
        number=trial.number,
        state=STATES[trial.state],
        value=trial.value if trial.state is TrialState.COMPLETE else None,
        params=dict(trial.params),
        curve=tuple(value for _, value in sorted(trial.intermediate_values.items())),
        train_curve=tuple(trial.user_attrs.get(places.EPOCHS, {}).get("train_losses", ())),
        seconds=places.trial_seconds(trial),
        reason=reason,
    )


def _fates(trials: Sequence[FrozenTrial]) -> str:
    """What became of trials, in one line, with the reasons of those that failed."""
    rows = [_row(trial) for trial in trials if places.BEYOND not in trial.user_attrs]
    counts = Counter(row.state for row in rows)
    text = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none was started"
    reasons = dict.fromkeys(row.reason for row in rows if row.state == "failed" and row.reason)
    return f"{text}. Reasons: {'; '.join(list(reasons)[:3])}" if reasons else text
