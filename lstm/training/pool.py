"""A pool of lanes: trainings of many threads, one a thread, whose epochs are trained together.

Trainings join and leave between epochs, as requests do on a server with continuous batching (Yu et al.
2022, "Orca"): nobody waits for a training to end, and one that ends early leaves its place to the next.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from data.errors import NightcastError
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel
from lstm.training.batches import Batches
from lstm.training.fit import Fit, OnEpoch, run
from lstm.training.lanes import Lanes, bucket
from lstm.training.recipe import TrainingConfig
from lstm.training.trainer import Trainer
from lstm.windows import Windows

CHECKPOINT_SECONDS = 10.0
"""Between two checkpoints of a lane: its epochs take far less time than writing all of it would."""

# A GPU computes a few empty places faster than lanes are made anew, and their steps captured.
_LEAST_PLACES = {"cuda": 8}


class LaunchFailed(NightcastError):
    """An epoch of several lanes that could not be trained."""


_Outcome = tuple[float, float | None] | LaunchFailed


class _Seat(Trainer):
    """A training whose epochs a pool trains.

    Attributes:
        told: notified when its epoch is over.
        team: its own, from its first epoch on.
        since: when it began to wait for an epoch; infinite while it does not.
        outcome: its newest epoch's losses, or why there are none.
    """

    def __init__(self, pool: LanePool, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.told = threading.Condition(pool.lock)
        self.team: _Team | None = None
        self.since = math.inf
        self.outcome: _Outcome | None = None
        self._pool = pool

    @cached_property
    def bucket(self) -> Hashable:
        """Whose launches it can share."""
        return bucket(self)

    @property
    def is_waiting(self) -> bool:
        """True from the wish for an epoch to its end."""
        return self.since < math.inf

    def train_epoch(self) -> None:
        """As the base class, together with its team.

        Raises:
            LaunchFailed: the epoch could not be trained.
            TrainingDiverged: a loss is not finite.
        """
        outcome = self._pool.epoch(self)
        if isinstance(outcome, LaunchFailed):
            raise LaunchFailed(str(outcome)) from outcome.__cause__
        self.record(*outcome)

    def tell(self, outcome: _Outcome) -> None:
        """Its epoch is over. The caller holds the pool's lock."""
        self.since, self.outcome = math.inf, outcome
        self.told.notify()

    # It does not wait for an epoch while it does what follows, so its team has no launch meanwhile.

    def best(self) -> dict[str, Tensor]:
        """As the base class."""
        if self.team is not None and self.team.lanes is not None:
            self.team.lanes.bring_best(self)
        return super().best()

    def save(self, path: Path) -> None:
        """As the base class."""
        if self.team is not None and self.team.lanes is not None:
            self.team.lanes.put_back(self)
        super().save(path)


@dataclass(eq=False)
class _Team:
    """The trainings of one bucket, their data on the device, and how many places they have at least."""

    train: Batches
    validation: Batches | None
    least: int
    lanes: Lanes | None = None
    seats: list[_Seat] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        """True if every seat waits for its next epoch."""
        return all(seat.is_waiting for seat in self.seats)

    def waited(self, now: float) -> float:
        """Seconds for which its seats have waited, in sum."""
        return sum(now - seat.since for seat in self.seats)

    def train_epoch(self, trainers: Sequence[Trainer]) -> list[tuple[float, float | None]]:
        """An epoch in the team's lanes, or in new ones where they do not suit these any more."""
        if self.lanes is None or not self.lanes.suit(trainers):
            self.lanes = self._renewed(trainers)
        return self.lanes.train_epoch(trainers)

    def _renewed(self, trainers: Sequence[Trainer]) -> Lanes:
        lanes = Lanes(trainers, self.train, self.validation, self.least)
        if self.lanes is not None:
            lanes.take_over(self.lanes, trainers)
        return lanes


_Turn = tuple[_Team, list[_Seat]]


class LanePool:
    """Trains what threads bring, each thread one training at a time.

    The trainings of one bucket are a team. Once all of it wait for their next epoch it is ready for a launch,
    by the pool's own thread. Of several teams that are ready the one goes first that has waited longest,
    summed over its trainings: large ones go often, and small ones, whose launches cost nearly as much, have
    grown until it is their turn. It trains inside its `with` block only, with which its thread ends.

    Args:
        lanes: threads that will train at a time, at most.

    Attributes:
        lock: held by whoever looks at teams and seats.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self.lock = threading.Lock()
        self._teams: dict[Hashable, _Team] = {}
        self._is_ready = threading.Condition(self.lock)
        self._is_over = False
        # A step is captured by the thread that has run it before: CUDA's libraries set themselves up for each
        # thread, which no capture survives.
        self._device = threading.Thread(target=self._run, name="lanes", daemon=True)

    def __enter__(self) -> Self:
        self._device.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.lock:
            self._is_over = True
            self._is_ready.notify()
        self._device.join()

    def train(
        self,
        config: ForecasterConfig,
        training: TrainingConfig,
        panel: ScaledPanel,
        train: Windows,
        validation: Windows | None = None,
        *,
        device: torch.device,
        epochs: int | None = None,
        checkpoint: Path | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> Fit:
        """As `lstm.training.fit.fit`, with epochs trained beside those of other threads.

        The result is that of `fit` up to rounding, which depends on the company; a checkpoint of one is
        resumed by the other. `on_epoch` runs in the caller's thread; what it raises ends this training only.

        Raises:
            LaunchFailed: an epoch could not be trained, for every training that took part; or this is not
                inside the pool's block.
            TrainingDiverged: the loss is not finite.
            ValueError: no training or validation windows.
        """
        seat = _Seat(self, config, training, panel, train, validation, device, epochs)
        try:
            return run(seat, checkpoint, on_epoch, CHECKPOINT_SECONDS)
        finally:
            self._leave(seat)

    def epoch(self, seat: _Seat) -> _Outcome:
        """A seat's next epoch, with its team's."""
        with self.lock:
            if self._is_over or not self._device.is_alive():
                return LaunchFailed("a pool of lanes trains inside its `with` block only")
            if seat.team is None:
                if seat.bucket not in self._teams:
                    least = min(self._lanes, _LEAST_PLACES.get(seat.device.type, 1))
                    self._teams[seat.bucket] = _Team(*seat.batches, least)
                seat.team = self._teams[seat.bucket]
                seat.team.seats.append(seat)
            seat.since = time.monotonic()
            if seat.team.is_ready:
                self._is_ready.notify()
            seat.told.wait_for(lambda: not seat.is_waiting)
        assert seat.outcome is not None
        return seat.outcome

    def _leave(self, seat: _Seat) -> None:
        """Give the place up; those who waited for this training need not any more."""
        with self.lock:
            # Else what the team has on the device would live until the garbage collector comes.
            team, seat.team = seat.team, None
            if team is None:
                return
            team.seats.remove(seat)
            if not team.seats:
                del self._teams[seat.bucket]
            elif team.is_ready:
                self._is_ready.notify()

    def _run(self) -> None:
        """One launch after the other, until the pool is over."""
        try:
            while turn := self._wait():
                while turn:
                    turn = self._take_turn(*turn)
        finally:
            with self.lock:
                self._is_over = True
                for seat in [seat for team in self._teams.values() for seat in team.seats if seat.is_waiting]:
                    seat.tell(LaunchFailed("the pool of lanes ended before the epoch"))

    def _wait(self) -> _Turn | None:
        """Whose turn it is, once there is one; None if the pool is over."""
        with self.lock:
            self._is_ready.wait_for(lambda: self._is_over or self._next() is not None)
            return self._turn()

    def _take_turn(self, team: _Team, seats: list[_Seat]) -> _Turn | None:
        """An epoch of a team; whose turn is next. Nothing else of it is kept, an error least of all."""
        outcomes = self._launch(team, seats)
        with self.lock:
            for seat, outcome in zip(seats, outcomes, strict=True):
                seat.tell(outcome)
            # Before they are awake, and all want the lock.
            return self._turn()

    def _turn(self) -> _Turn | None:
        """Whose turn it is: a team and those of it who wait. The caller holds the lock."""
        team = None if self._is_over else self._next()
        return None if team is None else (team, list(team.seats))

    def _next(self) -> _Team | None:
        """The team that is ready and has waited longest. The caller holds the lock."""
        now = time.monotonic()
        ready = [team for team in self._teams.values() if team.is_ready]
        return max(ready, key=lambda team: team.waited(now), default=None)

    def _launch(self, team: _Team, trainers: Sequence[Trainer]) -> Sequence[_Outcome]:
        """An epoch of a team, or for each of it why there is none."""
        try:
            return team.train_epoch(trainers)
        except BaseException as error:  # noqa: BLE001 - every seat raises it; none may wait for ever
            failed = LaunchFailed(
                f"an epoch of {len(trainers)} lanes could not be trained: {type(error).__name__}: {error}. "
                "Remedy: a smaller NIGHTCAST_LANES if memory ran out"
            )
            # What its frames hold would fill the device for those who come next.
            traceback.clear_frames(error.__traceback__)
            failed.__cause__ = error
            return [failed] * len(trainers)
