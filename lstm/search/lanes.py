"""A search worker that trains several trials at a time, as lanes of common launches: a thread a trial."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from functools import partial

import optuna
from optuna.exceptions import ExperimentalWarning

from lstm.search.objective import SearchTask
from lstm.search.study import beside, loaded
from lstm.search.together import TogetherStorage
from lstm.search.worker import PAUSE_SECONDS, Crew, Observer, Worker, prepare_device
from lstm.training.pool import LanePool

_POLL_SECONDS = 0.1


def work_in_lanes(
    task: SearchTask,
    observe: Callable[[], Observer],
    lanes: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """As `lstm.search.worker.work`, with `lanes` trials at a time, whose epochs are trained together.

    Each trial reports, is pruned and sends its heartbeat by itself, in a thread of its own; the next trial
    takes its place at once. What ends one thread (an interruption, or trials that keep failing) ends all
    after their epoch, their trials queued again. `should_stop` is asked in the caller's thread only, where
    interruptions arrive as well.

    Args:
        observe: makes the observer of one lane, which is told of its trials from the lane's own thread.

    Raises:
        SearchFailed: there is no such study, its database cannot be written, or three trials in a row failed
            for the same reason.
        DeviceMissing: CUDA was asked for and there is none.
    """
    prepare_device(task)
    together = partial(TogetherStorage, pause=PAUSE_SECONDS)
    with loaded(task.storage_url, task.study_name, cached=together) as study:
        team = _Lanes(task, study, lanes)
        team.work(observe, should_stop)
    if team.errors:
        raise team.errors[0]
    return team.count


class _Lanes:
    """The lanes of one worker."""

    def __init__(self, task: SearchTask, study: optuna.Study, lanes: int) -> None:
        assert isinstance(study._storage, TogetherStorage)
        self.task = task
        self.study = study
        self.storage = study._storage
        self.crew = Crew(task, study, lanes)
        self.pool = LanePool(lanes)
        self.stop = threading.Event()
        self.ended = threading.Event()
        self.errors: list[BaseException] = []
        self.count = 0
        self._lock = threading.Lock()

    def work(self, observe: Callable[[], Observer], should_stop: Callable[[], bool]) -> None:
        """All lanes to their end."""
        # Optuna and we silence this one for a moment each. The filters are one list for all threads, so that
        # of two such moments that overlap the second could be cut short, or left behind.
        with self.pool, warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # Computed once, before threads race for them.
            _ = self.task.scaled, self.task.validation_origins
            threads = [
                threading.Thread(target=self.run, args=(observe(),), name=f"lane-{number}", daemon=True)
                for number in range(self.crew.lanes)
            ]
            try:
                for thread in threads:
                    thread.start()
                while any(thread.is_alive() for thread in threads) and not should_stop():
                    self.ended.wait(_POLL_SECONDS)
                    self.ended.clear()
                    self.storage.flush_if_due()
            finally:
                self.stop.set()
                for thread in threads:
                    if thread.ident is not None:
                        thread.join()

    def run(self, observer: Observer) -> None:
        """One lane, until the budget is spent or another lane's error ends all."""
        try:
            with beside(self.study) as study:
                worker = Worker(self.task, observer, self.stop.is_set, study, self.crew, self.pool.train)
                count = worker.run()
            with self._lock:
                self.count += count
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self.errors.append(error)
            self.stop.set()
        finally:
            self.ended.set()
