"""A pool of lanes: trainings of many threads, one a thread, whose epochs are trained together.

Trainings join and leave between epochs, as requests do on a server with continuous batching (Yu et al.
2022, "Orca"): nobody waits for a training to end, and one that ends early leaves its place to the next.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

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


class LaunchFailed(NightcastError):
    """An epoch of several lanes that could not be trained."""


@dataclass(eq=False)
class _Seat:
    """A training in the pool, from its first epoch on; `outcome` is None while it waits for an epoch."""

    trainer: Trainer
    outcome: tuple[float, float | None] | LaunchFailed | None = None


@dataclass(eq=False)
class _Group:
    """The seats of one bucket, and their data on the device."""

    train: Batches
    validation: Batches | None
    lanes: Lanes | None = None
    seats: list[_Seat] = field(default_factory=list)
    is_running: bool = False

    @property
    def is_ready(self) -> bool:
        """True if every seat waits for its next epoch."""
        return not self.is_running and all(seat.outcome is None for seat in self.seats)


class LanePool:
    """Trains what threads bring, each thread one training at a time.

    Of the threads that wait for an epoch of one bucket, the first to notice that all do hands it to the
    pool's own, which alone trains epochs; then each goes on with its own losses. As a context manager the
    pool ends its thread with the block.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # A step is captured by the thread that has run it before: CUDA's libraries set themselves up for each
        # thread, which no capture survives.
        self._device = ThreadPoolExecutor(1, "lanes")
        self._groups: dict[Hashable, _Group] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._device.shutdown(cancel_futures=True)

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
            LaunchFailed: an epoch could not be trained, for every training that took part.
            TrainingDiverged: the loss is not finite.
            ValueError: no training or validation windows.
        """
        trainer = Trainer(config, training, panel, train, validation, device, epochs)
        seat, key = _Seat(trainer), bucket(trainer)
        try:
            return run(
                trainer,
                lambda: self._train_epoch(seat, key),
                checkpoint,
                on_epoch,
                lambda: self._bring_back(seat, key),
                CHECKPOINT_SECONDS,
            )
        finally:
            self._leave(seat, key)

    def _train_epoch(self, seat: _Seat, key: Hashable) -> None:
        """The seat's next epoch, with all others of its group."""
        with self._changed:
            group = self._join(seat, key)
            seat.outcome = None
            self._changed.wait_for(lambda: seat.outcome is not None or group.is_ready)
            if leads := seat.outcome is None:
                group.is_running, seats = True, list(group.seats)
        if leads:
            outcomes = self._launch(group, [each.trainer for each in seats])
            with self._changed:
                group.is_running = False
                for each, outcome in zip(seats, outcomes, strict=True):
                    each.outcome = outcome
                self._changed.notify_all()
        if isinstance(seat.outcome, LaunchFailed):
            raise LaunchFailed(str(seat.outcome)) from seat.outcome.__cause__
        assert seat.outcome is not None
        seat.trainer.record(*seat.outcome)

    def _launch(
        self, group: _Group, trainers: Sequence[Trainer]
    ) -> Sequence[tuple[float, float | None] | LaunchFailed]:
        """Have an epoch of a group trained; groups take turns on the device."""
        try:
            losses = self._device.submit(self._train, group, trainers).result()
        except BaseException as error:  # noqa: BLE001 - every seat raises it; none may wait for ever
            failed = LaunchFailed(
                f"an epoch of {len(trainers)} lanes could not be trained: {type(error).__name__}: {error}. "
                "Remedy: a smaller NIGHTCAST_LANES if memory ran out"
            )
            failed.__cause__ = error
            return [failed] * len(trainers)
        return losses

    def _train(self, group: _Group, trainers: Sequence[Trainer]) -> list[tuple[float, float | None]]:
        """In the group's lanes, or in new ones where they do not suit its trainings any more."""
        if group.lanes is None or not group.lanes.suit(trainers):
            if group.lanes is not None:
                for trainer in trainers:
                    group.lanes.put_back(trainer)
            # Before new ones need the memory.
            group.lanes = None
            group.lanes = Lanes(trainers, group.train, group.validation)
        return group.lanes.train_epoch(trainers)

    def _bring_back(self, seat: _Seat, key: Hashable) -> None:
        """What was trained of a seat, to its trainer."""
        group = self._groups.get(key)
        if group is not None:
            self._device.submit(self._put_back, group, seat.trainer).result()

    def _put_back(self, group: _Group, trainer: Trainer) -> None:
        if group.lanes is not None:
            group.lanes.put_back(trainer)

    def _join(self, seat: _Seat, key: Hashable) -> _Group:
        if key not in self._groups:
            self._groups[key] = _Group(*seat.trainer.batches)
        group = self._groups[key]
        if seat not in group.seats:
            group.seats.append(seat)
        return group

    def _leave(self, seat: _Seat, key: Hashable) -> None:
        """Give the place up; those who waited for this training need not any more."""
        with self._changed:
            group = self._groups.get(key)
            if group is not None and seat in group.seats:
                group.seats.remove(seat)
                if not group.seats:
                    del self._groups[key]
                self._changed.notify_all()
