"""Optuna's storage for many trials of one process, whose writes go to the database together.

Optuna writes each number in a transaction of its own, and reads every running trial anew whenever somebody
asks for the trials. With 64 lanes that was most of a trial's time. Here the process's own running trials are
known, since nobody else writes to them; their writes wait for the next `flush`, and what other processes do
is read once a pause.
"""

from __future__ import annotations

import copy
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from lstm.search.storage import SearchFailed, cause_of

_INSERT: Mapping[str, Callable[[Any], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
# What may be written late: the table, and the columns that identify a row of it.
_PARAM = (models.TrialParamModel, "trial_id", "param_name")
_VALUE = (models.TrialIntermediateValueModel, "trial_id", "step")
_USER_ATTR = (models.TrialUserAttributeModel, "trial_id", "key")
_SYSTEM_ATTR = (models.TrialSystemAttributeModel, "trial_id", "key")

_Table = tuple[Any, str, str]


class TogetherStorage(_CachedStorage):
    """A storage for threads that each run a trial.

    A trial's state is written at once, after everything that was written of it before; so is the first
    attribute, by which its process signs it. All else of it reaches the database with the next `flush`. That
    is what Optuna asks of a storage that caches.

    Args:
        backend: the database.
        pause: seconds for which what was read of other processes' trials will do.
    """

    def __init__(self, backend: RDBStorage, pause: float) -> None:
        super().__init__(backend)
        # The base class's, which methods of both take.
        self._lock = threading.RLock()  # type: ignore[assignment]
        self._beating = threading.Lock()
        self._pause = pause
        self._own: set[int] = set()  # trials that run in this process
        self._unsigned: set[int] = set()  # those of which nothing has been written
        self._rows: dict[_Table, dict[tuple[int, Any], dict[str, Any]]] = {}
        self._study_ids: dict[str, int] = {}
        self._study_attrs: dict[int, dict[str, Any]] = {}
        self._read_at = self._looked_at = self._flushed_at = -math.inf

    def flush(self) -> None:
        """Write what waits, in one transaction; nothing of it is lost if that fails.

        What waits of a trial that another process has ended meanwhile is dropped: its next write says so.

        Raises:
            SearchFailed: the database cannot be reached or written.
        """
        with self._lock:
            self._flushed_at = time.monotonic()
            trials = sorted({trial_id for rows in self._rows.values() for trial_id, _ in rows})
            if not trials:
                return
            try:
                running = self._write(trials)
            except SQLAlchemyError as error:
                raise SearchFailed(
                    f"what {len(trials)} trials have found cannot be written to the study database: "
                    f"{cause_of(error)}. Remedy: see that it is up and can be written, then start the search "
                    "again; it goes on"
                ) from error
            self._rows.clear()
            for trial_id in set(trials) - running:
                self._leave(trial_id)

    def flush_if_due(self) -> None:
        """`flush`, if the last time is a pause ago."""
        if time.monotonic() - self._flushed_at >= self._pause:
            self.flush()

    def get_study_id_from_name(self, study_name: str) -> int:
        """As the base class, read once."""
        with self._lock:
            if study_name not in self._study_ids:
                self._study_ids[study_name] = super().get_study_id_from_name(study_name)
            return self._study_ids[study_name]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """As the base class, read once: a study has them before anybody works on it."""
        with self._lock:
            if study_id not in self._study_attrs:
                self._study_attrs[study_id] = super().get_study_user_attrs(study_id)
            return self._study_attrs[study_id]

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As the base class; a trial without a template runs here."""
        with self._lock:
            trial_id = super().create_new_trial(study_id, template_trial)
            if template_trial is None:
                self._take(trial_id)
            return trial_id

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As the base class, after everything else of the trial."""
        with self._lock:
            is_own = trial_id in self._own
            if is_own and state is TrialState.RUNNING:
                # Another thread has just taken it.
                return False
            if is_own:
                self.flush()
            try:
                is_done = super().set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                self._leave(trial_id)
                raise
            if is_own and is_done:
                self._end(trial_id, state, values)
            else:
                self._leave(trial_id)
            if is_done and state is TrialState.RUNNING:
                self._take(trial_id)
            return is_done

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """As the base class. The first of its name in a study goes to the database at once."""
        with self._lock:
            known = self._study_of(trial_id).param_distribution.get(param_name)
            if known is None or trial_id not in self._own:
                super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
            else:
                check_distribution_compatibility(known, distribution)
                text = distribution_to_json(distribution)
                self._put(
                    _PARAM, trial_id, param_name, param_value=param_value_internal, distribution_json=text
                )
            value = distribution.to_external_repr(param_value_internal)
            self._note(trial_id, _params={param_name: value}, _distributions={param_name: distribution})

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """As the base class."""
        with self._lock:
            if trial_id not in self._own:
                super().set_trial_intermediate_value(trial_id, step, intermediate_value)
                return
            stored, kind = _VALUE[0].intermediate_value_to_stored_repr(intermediate_value)
            self._put(_VALUE, trial_id, step, intermediate_value=stored, intermediate_value_type=kind)
            self._note(trial_id, intermediate_values={step: intermediate_value})

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As the base class."""
        with self._lock:
            if trial_id not in self._own:
                super().set_trial_user_attr(trial_id, key, value)
                return
            self._put(_USER_ATTR, trial_id, key, value_json=json.dumps(value))
            self._note(trial_id, _user_attrs={key: value})
            if trial_id in self._unsigned:
                self.flush()
                self._unsigned.discard(trial_id)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As the base class."""
        with self._lock:
            if trial_id not in self._own:
                super().set_trial_system_attr(trial_id, key, value)
                return
            self._put(_SYSTEM_ATTR, trial_id, key, value_json=json.dumps(value))
            self._note(trial_id, _system_attrs={key: value})

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As the base class; of a trial that runs here the caller may change what it gets."""
        with self._lock:
            if trial_id not in self._own:
                return super().get_trial(trial_id)
            return _changed(self._known(trial_id), {})

    def record_heartbeat(self, trial_id: int) -> None:
        """As the base class, in turn: SQLite lets those wait long who come at a time.

        It waits for no other writes, so that no trial seems dead while these wait for the database.
        """
        with self._beating:
            super().record_heartbeat(trial_id)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        """Read the other processes' trials if that is due, or if one is missing."""
        with self._lock:
            trials = self._studies.setdefault(study_id, _StudyInfo()).trials
            is_whole = len(trials) == max(trials, default=-1) + 1
            if is_whole and time.monotonic() - self._read_at < self._pause:
                return
            # Trials are numbered in the order in which they become visible.
            first = next(number for number in range(len(trials) + 1) if number not in trials)
            newest = trials[first - 1]._trial_id if first else -1
            others = {
                trial._trial_id
                for trial in trials.values()
                if not trial.state.is_finished() and trial._trial_id not in self._own
            }
            found = self._backend._get_trials(study_id, None, others, newest)
            news = [trial for trial in found if trial._trial_id not in self._own]
            self._add_trials_to_cache(study_id, news)
            self._read_at = time.monotonic()

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """As the base class, and none where it has just been asked."""
        with self._lock:
            if time.monotonic() - self._looked_at < self._pause:
                return []
            self._looked_at = time.monotonic()
        return super()._get_stale_trial_ids(study_id)

    def _write(self, trials: Sequence[int]) -> set[int]:
        """Write the rows of these trials that still run; returns which those are."""
        with self._backend.engine.begin() as connection:
            running = _running(connection, trials)
            for table, rows in self._rows.items():
                own = [row for (trial_id, _), row in rows.items() if trial_id in running]
                if own:
                    connection.execute(_upsert(connection.dialect.name, table), own)
        return running

    def _take(self, trial_id: int) -> None:
        self._own.add(trial_id)
        self._unsigned.add(trial_id)

    def _end(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> None:
        """An own trial has this state from now on."""
        ended = _changed(self._known(trial_id), {})
        ended.state, ended.values, ended.datetime_complete = state, values, datetime.now()  # noqa: DTZ005 - as Optuna does
        self._own.discard(trial_id)
        self._unsigned.discard(trial_id)
        self._add_trials_to_cache(self._trial_id_to_study_id_and_number[trial_id][0], [ended])

    def _leave(self, trial_id: int) -> None:
        """The trial is not this process's any more, or not yet: it is as the database has it."""
        self._own.discard(trial_id)
        self._unsigned.discard(trial_id)
        for rows in self._rows.values():
            for key in [key for key in rows if key[0] == trial_id]:
                del rows[key]
        if trial_id in self._trial_id_to_study_id_and_number:
            study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
            self._add_trials_to_cache(study_id, [self._backend.get_trial(trial_id)])

    def _put(self, table: _Table, trial_id: int, name: Any, **columns: Any) -> None:
        """Have a row written; one of the same name that still waits is replaced."""
        row = {table[1]: trial_id, table[2]: name, **columns}
        self._rows.setdefault(table, {})[trial_id, name] = row

    def _note(self, trial_id: int, **entries: Mapping[Any, Any]) -> None:
        """Add entries to dictionaries of a trial. Whoever was given the trial keeps it as it was."""
        study_id, number = self._trial_id_to_study_id_and_number[trial_id]
        trials = self._studies[study_id].trials
        trials[number] = _changed(trials[number], entries)

    def _known(self, trial_id: int) -> FrozenTrial:
        return self._study_of(trial_id).trials[self._trial_id_to_study_id_and_number[trial_id][1]]

    def _study_of(self, trial_id: int) -> _StudyInfo:
        return self._studies[self._trial_id_to_study_id_and_number[trial_id][0]]


def _changed(trial: FrozenTrial, entries: Mapping[str, Mapping[Any, Any]]) -> FrozenTrial:
    """A copy with more entries in some of its dictionaries, all of which are its own."""
    other = copy.copy(trial)
    for name in ("_params", "_distributions", "_user_attrs", "_system_attrs", "intermediate_values"):
        setattr(other, name, {**getattr(trial, name), **entries.get(name, {})})
    return other


def _running(connection: Connection, trials: Sequence[int]) -> set[int]:
    """Those of these trials that run, which nobody ends before the transaction does."""
    model = models.TrialModel
    query = select(model.trial_id).where(model.trial_id.in_(trials), model.state == TrialState.RUNNING)
    return set(connection.execute(query.order_by(model.trial_id).with_for_update()).scalars())


@cache
def _upsert(dialect: str, table: _Table) -> Any:
    """The statement that inserts rows, or replaces those of the same names."""
    model, *names = table
    columns = [column.name for column in model.__table__.columns if not column.primary_key]
    insert = _INSERT[dialect](model.__table__).values({name: bindparam(name) for name in columns})
    others = {name: insert.excluded[name] for name in columns if name not in names}
    return insert.on_conflict_do_update(index_elements=names, set_=others)
