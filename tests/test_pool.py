"""The pool: threads' trainings in common epochs, who join, leave, fail and diverge each by themselves."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_lanes import CPU, MODEL, TRAINING, data

from lstm.models.forecaster import ForecasterConfig
from lstm.training.checkpoint import EpochLoss
from lstm.training.fit import Fit, Interrupted, fit, run
from lstm.training.lanes import Lanes
from lstm.training.pool import LanePool, LaunchFailed, _Seat, _Team
from lstm.training.recipe import TrainingConfig
from lstm.training.trainer import Trainer, TrainingDiverged

pytestmark = pytest.mark.usefixtures("in_float32")

SEEDS = [replace(TRAINING, seed=seed) for seed in range(4)]


class Counted(LanePool):
    """A pool that remembers the seeds of each launch."""

    def __init__(self) -> None:
        super().__init__(4)
        self.launches: list[list[int]] = []

    def _launch(self, team: Any, trainers: Sequence[Trainer]) -> Any:
        self.launches.append(sorted(trainer.training.seed for trainer in trainers))
        return super()._launch(team, trainers)

    def wait_for(self, count: int) -> None:
        """Until so many trainings have a seat; for whoever must not run ahead."""
        deadline = time.monotonic() + 60
        while sum(len(team.seats) for team in list(self._teams.values())) < count:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def train(
    pool: LanePool,
    training: TrainingConfig,
    model: ForecasterConfig = MODEL,
    on_epoch: Callable[[int, EpochLoss], None] | None = None,
    checkpoint: Path | None = None,
) -> Fit:
    panel, windows, validation = data()
    return pool.train(
        model, training, panel, windows, validation, device=CPU, on_epoch=on_epoch, checkpoint=checkpoint
    )


def alone(training: TrainingConfig, model: ForecasterConfig = MODEL) -> Fit:
    panel, windows, validation = data()
    return fit(model, training, panel, windows, validation, device=CPU)


def close(one: Fit, two: Fit) -> bool:
    pairs = list(zip(one.history, two.history, strict=True))
    losses = [(a.train, b.train) for a, b in pairs] + [(a.validation, b.validation) for a, b in pairs]
    weights = [torch.cat([part.flatten() for part in fitted.state.values()]) for fitted in (one, two)]
    return (
        one.best_epoch == two.best_epoch
        and list(one.state) == list(two.state)
        and all(a == pytest.approx(b, rel=1e-3) for a, b in losses)
        and float((weights[0] - weights[1]).norm() / weights[1].norm()) < 1e-3
    )


def test_each_thread_gets_its_solo_result_and_is_told_in_its_own_thread() -> None:
    pool, threads = Counted(), []
    models = [replace(MODEL, hidden_size=size) for size in (3, 6, 8)] + [replace(MODEL, cell="rnn")]

    def one(training: TrainingConfig, model: ForecasterConfig) -> Fit:
        def told(epoch: int, losses: EpochLoss) -> None:
            threads.append((training.seed, epoch, threading.get_ident()))
            if epoch == 1:
                pool.wait_for(4)

        return train(pool, training, model, told)

    with pool, ThreadPoolExecutor(4) as executor:
        results = list(executor.map(one, SEEDS, models))
    assert all(close(result, alone(*each)) for result, *each in zip(results, SEEDS, models, strict=True))
    for seed in range(4):
        own = [(epoch, thread) for number, epoch, thread in threads if number == seed]
        assert [epoch for epoch, _ in own] == [1, 2, 3, 4]
        assert len({thread for _, thread in own}) == 1
    # Three share launches; the fourth is of another bucket.
    assert [0, 1, 2] in pool.launches
    assert [3] in pool.launches
    assert all(3 not in seeds for seeds in pool.launches if len(seeds) > 1)
    assert pool._teams == {}


def test_the_place_of_one_who_leaves_is_filled_between_two_epochs() -> None:
    """Seed 0 is pruned after its first epoch; its thread goes on with seed 2 while seed 1 trains."""
    pool = Counted()

    class Pruned(Exception):
        pass

    def pruned(epoch: int, losses: EpochLoss) -> None:
        pool.wait_for(2)
        raise Pruned

    def first() -> Fit:
        with pytest.raises(Pruned):
            train(pool, SEEDS[0], on_epoch=pruned)
        return train(pool, SEEDS[2])

    def second(epoch: int, losses: EpochLoss) -> None:
        if epoch == 1:
            pool.wait_for(2)

    with pool, ThreadPoolExecutor(2) as executor:
        newcomer = executor.submit(first)
        stayer = executor.submit(train, pool, SEEDS[1], MODEL, second)
        assert close(stayer.result(60), alone(SEEDS[1]))
        assert close(newcomer.result(60), alone(SEEDS[2]))
    assert [1, 2] in pool.launches


def test_one_that_diverges_ends_alone() -> None:
    pool = Counted()
    wild = replace(SEEDS[1], learning_rate=1e30, gradient_clip=1e30)

    def gather(epoch: int, losses: EpochLoss) -> None:
        if epoch == 1 and pool.launches == [[0]]:
            pool.wait_for(2)

    with pool, ThreadPoolExecutor(2) as executor:
        fine = executor.submit(train, pool, SEEDS[0], MODEL, gather)
        lost = executor.submit(train, pool, wild)
        with pytest.raises(TrainingDiverged):
            lost.result(60)
        assert close(fine.result(60), alone(SEEDS[0]))


def test_an_epoch_that_cannot_be_trained_is_said_to_all_who_took_part() -> None:
    class Broken(Counted):
        def _launch(self, team: Any, trainers: Sequence[Trainer]) -> Any:
            if len(trainers) == 2:
                # Orders of different lengths cannot be stacked.
                trainers[0].plan = lambda: replace(trainers[1].plan(), order=np.arange(3))
            return super()._launch(team, trainers)

    pool = Broken()

    def gather(epoch: int, losses: EpochLoss) -> None:
        pool.wait_for(2)

    with pool, ThreadPoolExecutor(2) as executor:
        both = [executor.submit(train, pool, training, MODEL, gather) for training in SEEDS[:2]]
        for each in both:
            with pytest.raises(
                LaunchFailed, match=r"2 lanes could not be trained: ValueError: .* smaller NIGHT"
            ):
                each.result(60)
        assert close(train(pool, SEEDS[2]), alone(SEEDS[2]))
    assert pool._teams == {}


def test_it_resumes_what_a_solo_training_began(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(epoch: int, losses: EpochLoss) -> None:
        if epoch == 2:
            raise Stop

    path = tmp_path / "checkpoint.safetensors"
    panel, windows, validation = data()
    with pytest.raises(Stop):
        fit(MODEL, TRAINING, panel, windows, validation, device=CPU, checkpoint=path, on_epoch=stop)
    told: list[int] = []
    with LanePool(4) as pool:
        result = train(pool, TRAINING, on_epoch=lambda epoch, _: told.append(epoch), checkpoint=path)
    assert told == [1, 2, 3, 4]
    assert close(result, alone(TRAINING))


def test_a_solo_training_goes_on_where_one_in_lanes_was_interrupted(tmp_path: Path) -> None:
    """Its checkpoint was not due, and is written all the same."""

    def stop(epoch: int, losses: EpochLoss) -> None:
        if epoch == 2:
            raise Interrupted

    path = tmp_path / "checkpoint.safetensors"
    with LanePool(4) as pool, pytest.raises(Interrupted):
        train(pool, TRAINING, on_epoch=stop, checkpoint=path)
    panel, windows, validation = data()
    told: list[tuple[int, EpochLoss]] = []
    result = fit(
        MODEL, TRAINING, panel, windows, validation, device=CPU, checkpoint=path,
        on_epoch=lambda *epoch: told.append(epoch),
    )  # fmt: skip
    assert close(result, alone(TRAINING))
    # The first two epochs are those of the lane, to the bit.
    first = Trainer(MODEL, TRAINING, panel, windows, validation, CPU, None)
    lanes = Lanes([first], *first.batches)
    for _, seen in told[:2]:
        first.record(*lanes.train_epoch([first])[0])
        assert first.progress.history[-1] == seen


@pytest.mark.parametrize(("least", "made"), [(1, 6), (8, 1)])
def test_lanes_are_seldom_made_anew_while_trainings_join(least: int, made: int) -> None:
    panel, windows, validation = data()
    trainers = [Trainer(MODEL, each, panel, windows, validation, CPU, None) for each in SEEDS * 2]
    team, seen = _Team(*trainers[0].batches, least), []
    for count in range(1, 9):
        for trainer, losses in zip(trainers, team.train_epoch(trainers[:count]), strict=False):
            trainer.record(*losses)
        seen.append(team.lanes)
    assert len({id(lanes) for lanes in seen}) == made


def test_the_team_goes_first_whose_trainings_have_waited_longest_in_sum() -> None:
    panel, windows, validation = data()
    pool = LanePool(4)

    def team(*since: float) -> _Team:
        seats = [_Seat(pool, MODEL, TRAINING, panel, windows, validation, CPU, None) for _ in since]
        for seat, moment in zip(seats, since, strict=True):
            seat.since = time.monotonic() - moment
        return _Team(None, None, 1, seats=seats)  # type: ignore[arg-type]

    pool._teams = {"three": team(10, 10, 10), "one": team(25), "not ready": team(100, 100, -np.inf)}
    assert pool._next() is pool._teams["three"]
    pool._teams["one"].seats[0].since -= 10
    assert pool._next() is pool._teams["one"]
    pool._teams.pop("one")
    pool._teams.pop("three")
    assert pool._next() is None


def test_a_lane_that_ends_costs_no_optimizer() -> None:
    """Which would bring its weights to the device one by one."""
    panel, windows, validation = data()
    with LanePool(4) as pool:
        seat = _Seat(pool, MODEL, TRAINING, panel, windows, validation, CPU, 1)
        assert close(run(seat, None, None), fit(MODEL, TRAINING, *data(), device=CPU, epochs=1))
    assert "optimizer" not in vars(seat)


@pytest.mark.parametrize(("lanes", "least"), [(2, 2), (16, 8)])
def test_few_lanes_need_no_more_places_than_they_are(lanes: int, least: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("lstm.training.pool._LEAST_PLACES", {"cpu": 8})
    seen: list[int] = []
    with LanePool(lanes) as pool:
        train(pool, TRAINING, on_epoch=lambda *_: seen.extend(team.least for team in pool._teams.values()))
    assert set(seen) == {least}


def test_what_a_team_holds_goes_with_it() -> None:
    """A GPU's memory knows nothing of the garbage collector."""
    held: list[weakref.ref[Lanes]] = []

    def note(epoch: int, losses: EpochLoss) -> None:
        held.extend(weakref.ref(team.lanes) for team in pool._teams.values() if team.lanes)

    gc.collect()
    gc.disable()
    try:
        with LanePool(4) as pool:
            train(pool, replace(TRAINING, max_epochs=2), on_epoch=note)
            # The pool's thread has let go of the launch once it waits for the next one.
            deadline = time.monotonic() + 60
            while held[0]() is not None:
                assert time.monotonic() < deadline
                time.sleep(0.005)
    finally:
        gc.enable()


def test_pretrained_and_other_trainings_share_launches() -> None:
    """One is at once on the device, by its pre-training."""
    pool, trainings = Counted(), [replace(SEEDS[0], pretrain_epochs=1), SEEDS[1]]

    def gather(epoch: int, losses: EpochLoss) -> None:
        if epoch == 1:
            pool.wait_for(2)

    with pool, ThreadPoolExecutor(2) as executor:
        both = [executor.submit(train, pool, training, MODEL, gather) for training in trainings]
        assert all(close(one.result(60), alone(each)) for one, each in zip(both, trainings, strict=True))
    assert [0, 1] in pool.launches


def test_a_pool_trains_inside_its_block_only() -> None:
    with pytest.raises(LaunchFailed, match="inside its `with` block only"):
        train(LanePool(4), TRAINING)


def test_a_pool_that_ends_tells_those_who_wait() -> None:
    """One thread has trained an epoch and reports; the other waits for it when the block ends."""
    pool, holds, ends = LanePool(4), threading.Event(), threading.Event()

    def hold(epoch: int, losses: EpochLoss) -> None:
        holds.set()
        ends.wait(60)

    def waits() -> bool:
        with pool.lock:
            return [seat.is_waiting for team in pool._teams.values() for seat in team.seats].count(True) == 1

    with ThreadPoolExecutor(2) as executor:
        with pool:
            holder = executor.submit(train, pool, SEEDS[0], MODEL, hold)
            assert holds.wait(60)
            waiter = executor.submit(train, pool, SEEDS[1])
            deadline = time.monotonic() + 60
            while not waits():
                assert time.monotonic() < deadline
                time.sleep(0.005)
        with pytest.raises(LaunchFailed, match="ended before the epoch"):
            waiter.result(60)
        ends.set()
        with pytest.raises(LaunchFailed):
            holder.result(60)


def test_a_pool_ends_its_thread() -> None:
    before = set(threading.enumerate())
    with LanePool(4) as pool:
        train(pool, replace(TRAINING, max_epochs=1))
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before


def test_no_windows_is_an_error() -> None:
    panel, windows, validation = data()
    none = windows.select(np.arange(0))
    with pytest.raises(ValueError, match="no windows"):
        LanePool(4).train(MODEL, TRAINING, panel, none, validation, device=CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_threads_share_a_cuda_device() -> None:
    """Trainings begin, and bring their weights back, while others' steps are captured."""
    pool, cuda = LanePool(4), torch.device("cuda")
    panel, windows, validation = data()
    trainings = [replace(TRAINING, seed=seed, max_epochs=3 + seed % 3) for seed in range(9)]

    def one(training: TrainingConfig, method: Callable[..., Fit]) -> Fit:
        return method(MODEL, training, panel, windows, validation, device=cuda)

    with pool, ThreadPoolExecutor(4) as executor:
        together = list(executor.map(lambda training: one(training, pool.train), trainings))
    for training, result in zip(trainings, together, strict=True):
        expected = one(training, fit)
        assert [losses.train for losses in result.history] == pytest.approx(
            [losses.train for losses in expected.history], rel=0.05
        )
