"""A search worker: takes the next trial of a shared study until the budget is spent. Any number may run."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from lstm.search import places
from lstm.search.arms import Arms
from lstm.search.objective import SearchTask, Stopped, train_trial
from lstm.search.sampler import Pruner, Sampler, SharedSearchSpace
from lstm.search.storage import SearchFailed
from lstm.search.study import STATES, budget_of, clean_study, fail_running, loaded
from lstm.training.checkpoint import EpochLoss
from lstm.training.device import choose_device, set_threads
from lstm.training.fit import Fit, fit

logger = logging.getLogger(__name__)

_SAME_FAILURES = 3
PAUSE_SECONDS = 1.0


class Observer(Protocol):
    """Told what happens to each trial, from the worker's own thread. What it raises fails the trial."""

    def started(self, number: int, params: dict[str, Any]) -> None:
        """A trial's parameters are drawn and its training begins."""

    def epoch(self, number: int, epoch: int, train_loss: float, validation_loss: float) -> None:
        """An epoch ended; epochs count from 1, and a resumed trial tells those before again."""

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """A trial that started has ended: `state` is finished, pruned or failed."""


def work(task: SearchTask, observer: Observer, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Run trials until the budget is spent or `should_stop` says so; returns how many were run.

    A failing trial is recorded with its reason and the next one begins. KeyboardInterrupt, SystemExit and
    `should_stop` (asked between epochs too) fail the running trial and queue it again: the next worker
    goes on from its checkpoint.

    Raises:
        SearchFailed: there is no such study, or three trials in a row failed for the same reason.
        DeviceMissing: CUDA was asked for and there is none.
    """
    prepare_device(task)
    with loaded(task.storage_url, task.study_name) as study:
        return Worker(task, observer, should_stop, study, Crew(task, study)).run()


def prepare_device(task: SearchTask) -> None:
    """One torch thread where a task trains on the CPU.

    Raises:
        DeviceMissing: CUDA was asked for and there is none.
    """
    if choose_device(task.device).type == "cpu":
        set_threads(1)


class Failures:
    """Ends a search whose trials keep failing for one reason. Threads may share one."""

    def __init__(self, study_name: str) -> None:
        self._study_name = study_name
        self._lock = threading.Lock()
        self._last, self._count = "", 0

    def note(self, trial: FrozenTrial) -> None:
        """Count a trial that has ended.

        Raises:
            SearchFailed: it is the third in a row that failed for the same reason.
        """
        with self._lock:
            if trial.state is not TrialState.FAIL:
                self._count = 0
                return
            reason = _reason(trial)
            self._count = self._count + 1 if _same(reason, self._last) else 1
            self._last = reason
            if self._count < _SAME_FAILURES:
                return
        raise SearchFailed(
            f"study {self._study_name}: {_SAME_FAILURES} trials in a row failed for the same reason: "
            f"{reason}. Remedy: see to the reason, then start the search again; it goes on"
        )


class Crew:
    """What the workers of one process share. Threads may use it at a time.

    Args:
        study: any of theirs.
        lanes: workers that train together.
    """

    def __init__(self, task: SearchTask, study: optuna.Study, lanes: int = 1) -> None:
        self.lanes = lanes
        self.failures = Failures(task.study_name)
        # To see to others takes the longer the more trials run.
        self._pause = 0.0 if lanes == 1 else PAUSE_SECONDS
        self.pruner = Pruner(budget_of(study), task.data_set.retrain.max_epochs)
        self.space = SharedSearchSpace()
        self._lock = threading.Lock()
        self._cleaned = -math.inf

    def clean(self, study: optuna.Study) -> None:
        """See to trials whose worker is gone, unless another one of these has just done so."""
        with self._lock:
            if time.monotonic() - self._cleaned >= self._pause:
                clean_study(study)
                self._cleaned = time.monotonic()


class Worker:
    """One worker and the trial that it runs.

    Args:
        study: open, and this worker's own.
        crew: this worker's.
        train: `fit`, or what has its contract.
    """

    def __init__(
        self,
        task: SearchTask,
        observer: Observer,
        should_stop: Callable[[], bool],
        study: optuna.Study,
        crew: Crew,
        train: Callable[..., Fit] = fit,
    ) -> None:
        self.task = task
        self.observer = observer
        self.should_stop = should_stop
        self.study = study
        self.crew = crew
        self.train = train
        self.budget = budget_of(study)
        seed = study.user_attrs["seed"]
        space = task.data_set.retrain.search_space
        arms = Arms(space, crew.lanes, seed) if crew.lanes > 1 else None
        self.sampler = Sampler(seed, self.budget, crew.space, arms)
        study.sampler = self.sampler
        study.pruner = crew.pruner
        self.told: int | None = None  # the trial that the observer knows and that has not ended
        self.interruption: BaseException | None = None

    def run(self) -> int:
        """Run trials until the budget is spent or `should_stop` says so; returns how many were run.

        Raises:
            SearchFailed: trials keep failing for the same reason.
        """
        count = 0
        while not self.should_stop():
            self.crew.clean(self.study)
            if places.is_spent(self.study.get_trials(deepcopy=False), self.budget):
                break
            trial = self._run_one()
            if places.BEYOND not in trial.user_attrs:
                count += 1
                if self.interruption is None:
                    self.crew.failures.note(trial)
        return count

    def _run_one(self) -> FrozenTrial:
        """The next trial, ended whatever happens; re-raises what interrupted it."""
        self.sampler.claimed = self.interruption = None
        try:
            self.study.optimize(self._objective, n_trials=1, catch=(Exception,))
        except BaseException as error:
            trial = self._end_early(error)
            if (interrupt := _interrupt_behind(error)) is not None:
                raise interrupt from None
            if trial is None or not _is_of_an_ended_trial(error):
                raise
            # It was taken for dead, failed and queued again by another worker.
            logger.warning("trial %d was ended by another process: %s", trial.number, error)
        else:
            trial = self._claimed()
            again = self.interruption is not None and places.queue_again(self.study, trial, killed=False)
            self._tell(trial, again)
        if self.interruption is not None and not isinstance(self.interruption, Stopped):
            raise self.interruption
        return trial

    def _objective(self, trial: optuna.Trial) -> float:
        """Optuna's objective: notes why a trial ends before Optuna closes it."""
        reason = ""
        try:
            trials = self.study.get_trials(deepcopy=False)
            if places.is_beyond(trials, trial.number, self.budget):
                trial.set_user_attr(places.BEYOND, True)
                raise SearchFailed("another worker took the budget's last place")
            deadline = time.monotonic() + self.budget.minutes * 60 - places.seconds(trials)
            return train_trial(
                self.task,
                trial,
                places.place(next(each for each in trials if each.number == trial.number)),
                started=lambda: self._started(trial),
                on_epoch=lambda epoch, loss: self._epoch(trial.number, epoch, loss),
                deadline=deadline,
                should_stop=self.should_stop,
                train=self.train,
            )
        except optuna.TrialPruned as error:
            reason = str(error)
            raise
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, Stopped):
                reason = _describe(error)
                raise
            # Ctrl-C, the end of the process, or an orchestrator's own signal.
            self.interruption = error
            reason = f"interrupted ({type(error).__name__})"
            raise Stopped(reason) from error
        finally:
            trial.set_user_attr(places.END, {"time": time.time(), "reason": reason})

    def _started(self, trial: optuna.Trial) -> None:
        self.told = trial.number
        self.observer.started(trial.number, dict(trial.params))

    def _epoch(self, number: int, epoch: int, loss: EpochLoss) -> None:
        assert loss.validation is not None
        self.observer.epoch(number, epoch, loss.train, loss.validation)

    def _claimed(self) -> FrozenTrial:
        """The newest trial of this worker, as the storage holds it."""
        assert self.sampler.claimed is not None
        return self.study._storage.get_trial(self.sampler.claimed)

    def _end_early(self, error: BaseException) -> FrozenTrial | None:
        """See that nothing of ours stays running when Optuna was left on the way in or out of a trial."""
        if self.sampler.claimed is None:
            return None
        trial = self._claimed()
        if trial.state is TrialState.RUNNING:
            fail_running(self.study, trial, _describe(error), killed=False)
        trial = self._claimed()
        self._tell(trial, again=trial.state is TrialState.FAIL)
        return trial

    def _tell(self, trial: FrozenTrial, again: bool) -> None:
        """Tell the observer and the log how a trial ended; drop its checkpoint unless it will go on."""
        if not again:
            self.task.checkpoint(places.place(trial)).unlink(missing_ok=True)
        value = trial.value if trial.state is TrialState.COMPLETE else None
        state, reason = STATES[trial.state], _reason(trial)
        if self.told == trial.number:
            self.told = None
            logger.info("trial %d %s: %s", trial.number, state, reason or f"{value:.4f}")
            self.observer.ended(trial.number, state, value, reason)


def _reason(trial: FrozenTrial) -> str:
    """Why it ended; nothing of one that finished."""
    reason = str(trial.user_attrs.get(places.END, {}).get("reason", ""))
    return "its process was taken for dead" if trial.state is TrialState.FAIL and not reason else reason


def _interrupt_behind(error: BaseException | None) -> BaseException | None:
    """The interrupt that an error hides: cut short while closing a trial, Optuna trips over its own state."""
    while error is not None and isinstance(error, Exception):
        error = error.__context__
    return error


def _is_of_an_ended_trial(error: BaseException | None) -> bool:
    """Whether Optuna refused to end a trial that had ended, whatever it makes of that on its way out."""
    while error is not None:
        is_refusal = isinstance(error, ValueError) and str(error).startswith("Cannot tell a ")
        if is_refusal or isinstance(error, UpdateFinishedTrialError):
            return True
        error = error.__context__
    return False


def _describe(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _same(reason: str, other: str) -> bool:
    """Equal but for numbers, such as an epoch or an amount of memory."""
    return re.sub(r"\d+", "#", reason) == re.sub(r"\d+", "#", other)
