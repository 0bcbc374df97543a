"""One trial: from a suggested configuration to its validation loss."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState
from torch import Tensor

from data.catalog import DataSet
from data.panel import Integers, Panel
from data.retrain import Normalisation
from data.splits import Span, Splits
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel, Scaler
from lstm.search import places
from lstm.search.space import suggest
from lstm.search.validation import validate
from lstm.training.checkpoint import EpochLoss
from lstm.training.device import Wanted, choose_device
from lstm.training.fit import Fit, Interrupted, OnEpoch, fit
from lstm.training.recipe import Recipe, TrainingConfig
from lstm.windows import Windows, shared_windows, windows

logger = logging.getLogger(__name__)

_LOG_SECONDS = 1.0


@dataclass(frozen=True)
class SearchTask:
    """What a worker needs.

    Args:
        data_set: its `retrain` block holds the search space; the budget is the study's.
        panel: the night's data.
        splits: train and validation spans are used, the judge span is not looked at.
        storage_url: SQLAlchemy URL of the study's database.
        study_name: the study, created before.
        checkpoints: a folder of this study's own, shared by its workers where they share a file system.
        device: ``auto``, ``cpu`` or ``cuda``.
        rivals: lookbacks of other studies, whose trials are to be compared with this one's.
    """

    data_set: DataSet
    panel: Panel
    splits: Splits
    storage_url: str
    study_name: str
    checkpoints: Path
    device: Wanted = "auto"
    rivals: tuple[int, ...] = ()

    @cached_property
    def scaled(self) -> ScaledPanel:
        """The panel, scaled by what was observed in the training span."""
        train = self.splits.train
        scaler = Scaler.fit(self.panel, train.last, train.first)
        return scaler.scale(self.panel, self.data_set.retrain.horizon)

    def windows(self, span: Span, lookback: int) -> Windows:
        """The windows of a span for one lookback. Those found once are kept."""
        found = self._windows.get((span, lookback))
        if found is None:
            found = windows(self.panel, span, lookback, self.data_set.retrain.horizon)
            self._windows[span, lookback] = found
        return found

    @cached_property
    def _windows(self) -> dict[tuple[Span, int], Windows]:
        return {}

    @cached_property
    def validation_origins(self) -> Integers:
        """Origins that make a window for every lookback of the space, so that all trials are compared on
        the same targets."""
        retrain = self.data_set.retrain
        lookbacks = (*retrain.search_space.lookback, *self.rivals)
        return shared_windows(self.panel, self.splits.validation, lookbacks, retrain.horizon).origins

    def validation(self, lookback: int) -> Windows:
        """The validation windows for one lookback, at the shared origins."""
        own = self.windows(self.splits.validation, lookback)
        return own.select(np.flatnonzero(np.isin(own.origins, self.validation_origins)))

    def checkpoint(self, place: int) -> Path:
        """The checkpoint of a place of the budget: a trial that is run again goes on from it."""
        return self.checkpoints / f"trial-{place}.safetensors"


class Stopped(Interrupted):
    """The worker was asked to stop; its trial is queued again."""


def train_trial(
    task: SearchTask,
    trial: optuna.Trial,
    place: int,
    started: Callable[[], None],
    on_epoch: OnEpoch,
    deadline: float,
    should_stop: Callable[[], bool],
    train: Callable[..., Fit] = fit,
) -> float:
    """Train one suggested configuration and return its lowest validation loss.

    Its recipe, with the epochs found by early stopping, is stored with the trial, and how it did on the
    validation windows.

    Args:
        place: the trial's place of the budget.
        started: called once the parameters are drawn.
        on_epoch: called after each epoch.
        deadline: of ``time.monotonic``; a trial that runs past it is pruned, unless no trial of the study
            has finished yet.
        train: `fit`, or what has its contract.

    Raises:
        optuna.TrialPruned: at the deadline, or by the pruner, which leaves what is needed: see `_is_needed`.
        Stopped: `should_stop` said so after an epoch.
        TrainingDiverged: the loss is not finite.
    """
    model, training = suggest(trial, task.data_set, **task.scaled.sizes)
    training = replace(training, seed=training.seed + place)
    started()
    log = _EpochLog(trial)

    def report(epoch: int, loss: EpochLoss) -> None:
        assert loss.validation is not None
        log.add(loss.train)
        trial.report(loss.validation, epoch)
        on_epoch(epoch, loss)
        if should_stop():
            raise Stopped
        if trial.should_prune() and not _is_needed(task, trial, place, model):
            raise optuna.TrialPruned(f"worse than the median of the trials before at epoch {epoch}")
        if time.monotonic() > deadline and _finished(trial.study):
            raise optuna.TrialPruned(f"the search's time was over at epoch {epoch}")

    try:
        result = _train(task, train, model, training, place, report)
    except BaseException:
        log.write_or_say()
        raise
    log.write()
    assert result.best_loss is not None
    _leave(task, trial, Recipe(model, training, result.best_epoch), result.state)
    return result.best_loss


def _train(
    task: SearchTask,
    train: Callable[..., Fit],
    model: ForecasterConfig,
    training: TrainingConfig,
    place: int,
    report: OnEpoch,
) -> Fit:
    return train(
        model,
        training,
        task.scaled,
        task.windows(task.splits.train, model.lookback),
        task.validation(model.lookback),
        device=choose_device(task.device),
        checkpoint=task.checkpoint(place),
        on_epoch=report,
    )


class _EpochLog:
    """The training losses of a trial's epochs, and when the newest ended, for whoever looks at the study."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self._losses: list[float] = []
        self._written = -math.inf
        self._is_new = False

    def add(self, loss: float) -> None:
        """Note an epoch that has ended. It is written at once, unless one was less than a second ago."""
        self._losses.append(loss)
        self._is_new = True
        if time.monotonic() - self._written >= _LOG_SECONDS:
            self.write()

    def write_or_say(self) -> None:
        """As `write`; what goes wrong must not take the place of what ended the trial."""
        try:
            self.write()
        except Exception as error:  # noqa: BLE001 - said; what ended the trial goes on
            logger.warning("trial %d: its newest epochs could not be noted: %s", self._trial.number, error)

    def write(self) -> None:
        """Write what is not yet written."""
        if self._is_new:
            self._trial.set_user_attr(
                places.EPOCHS, {"time": time.time(), "train_losses": list(self._losses)}
            )
            self._is_new, self._written = False, time.monotonic()


def _leave(task: SearchTask, trial: optuna.Trial, recipe: Recipe, state: Mapping[str, Tensor]) -> None:
    """Store what the choice among the trials goes by, and what a challenger needs if it is this one."""
    found = validate(task.scaled, task.validation(recipe.model.lookback), recipe.model, state)
    trial.set_user_attr(places.RECIPE, recipe.to_dict())
    trial.set_user_attr(places.LOSSES, found.loss_G)
    trial.set_user_attr(places.CALIBRATION, found.calibration.to_dict())


def _is_needed(task: SearchTask, trial: optuna.Trial, number: int, model: ForecasterConfig) -> bool:
    """What was known before stands beside the best in the end; and an ensemble wants a network of each
    normalisation, however it does beside the others."""
    if number < places.known(trial.study):
        return True
    return task.data_set.retrain.ensemble and not _finished(trial.study, model.normalisation)


def _finished(study: optuna.Study, normalisation: Normalisation | None = None) -> list[float]:
    """The losses of the trials that have finished so far: of all, or of one normalisation."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [
        trial.value
        for trial in complete
        if trial.value is not None and normalisation in (None, places.normalisation(trial))
    ]
