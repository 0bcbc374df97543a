"""Lanes: each equals its solo run, whatever runs beside it, and padding stays zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks import traffic
from data.calendar import Frequency
from data.panel import Panel
from data.splits import Span
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel, Scaler
from lstm.training.fit import run
from lstm.training.lanes import Lanes, bucket
from lstm.training.loss import Loss
from lstm.training.padding import unpadded
from lstm.training.recipe import TrainingConfig
from lstm.training.trainer import Trainer, TrainingDiverged
from lstm.windows import Windows, windows

pytestmark = pytest.mark.usefixtures("in_float32")

CPU = torch.device("cpu")
GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)
MODEL = ForecasterConfig("gru", 6, 2, 0.2, 12, 48, 12, (0.1, 0.5, 0.9), 2, 18)
TRAINING = TrainingConfig(learning_rate=1e-2, batch_size=32, max_epochs=4, windows_per_epoch=128)


@cache
def data() -> tuple[ScaledPanel, Windows, Windows]:
    steps = np.arange(400)
    noise = np.random.default_rng(0).normal(0, 0.2, (400, 2))
    values = np.stack([np.sin(steps * np.pi / 12), np.cos(steps * np.pi / 7)], axis=1) + noise
    values[np.random.default_rng(1).random(values.shape) < 0.05] = np.nan
    start, first, offsets = np.datetime64("2024-01-01", "us"), np.array([0]), np.array([0, 400])
    panel = Panel("made", Frequency("h"), "load", ("wind",), ("",), start, first, offsets, values)
    scaled = Scaler.fit(panel, 299).scale(panel, 12)
    return scaled, windows(panel, Span(0, 299), 48, 12), windows(panel, Span(300, 399), 48, 12)


def trainer(
    model: ForecasterConfig = MODEL, training: TrainingConfig = TRAINING, validated: bool = True
) -> Trainer:
    panel, train, validation = data()
    return Trainer(model, training, panel, train, validation if validated else None, CPU, None)


def train_together(trainers: Sequence[Trainer], epochs: int = 1) -> Lanes:
    lanes = Lanes(trainers, *trainers[0].batches)
    for _ in range(epochs):
        for one, losses in zip(trainers, lanes.train_epoch(trainers), strict=True):
            one.record(*losses)
    for one in trainers:
        lanes.put_back(one)
    return lanes


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """What lanes compute in: the one on a CPU, the other as on a GPU."""
    monkeypatch.setattr("lstm.training.lanes.network_type", lambda device: request.param)
    chosen: torch.dtype = request.param
    return chosen


def difference(one: Trainer, two: Trainer) -> float:
    """The largest difference of weights and averages."""
    tensors = [[*each.model.parameters(), *each.average.parameters()] for each in (one, two)]
    return max(float((a - b).detach().abs().max()) for a, b in zip(*tensors, strict=True))


def moved(one: Trainer) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each parameter with AdamW's first moment, after one step a tenth of the gradient, and its average."""
    averages = one.average.parameters()
    return [
        (p.detach(), one.optimizer.state[p]["exp_avg"], average)
        for p, average in zip(one.model.parameters(), averages, strict=True)
    ]


def lane(
    draw: st.DrawFn, shared: dict[str, Any], loss: Loss, batch_size: int, windows: int
) -> tuple[Any, Any]:
    model = ForecasterConfig(
        hidden_size=16 if shared["cell"] == "transformer" else draw(st.integers(1, 12)),
        dropout=draw(st.sampled_from([0.0, 0.1, 0.5])),
        normalisation=draw(st.sampled_from(["instance", "last_value", "none"])),
        lookback=48,
        horizon=12,
        quantiles=(0.1, 0.5, 0.9) if loss == "pinball" else (0.5,),
        columns=2,
        calendar_features=18,
        **shared,
    )
    training = TrainingConfig(
        learning_rate=draw(st.floats(1e-4, 2e-2)),
        batch_size=batch_size,
        weight_decay=draw(st.sampled_from([0.0, 0.01, 0.3])),
        gradient_clip=draw(st.sampled_from([0.05, 1.0, 100.0])),
        max_epochs=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 10**6)),
        windows_per_epoch=windows,
        average_decay=draw(st.sampled_from([0.0, 0.9, 0.98])),
        loss=loss,
    )
    return model, training


@st.composite
def buckets(draw: st.DrawFn, steps: int) -> list[tuple[ForecasterConfig, TrainingConfig]]:
    """One to four configurations that may share a launch of so many steps."""
    shared = {
        "cell": draw(st.sampled_from(["lstm", "gru", "rnn", "transformer"])),
        "head": draw(st.sampled_from(["calendar", "segments", "linear"])),
        "pooling": draw(st.sampled_from(["last", "attention"])),
        "bidirectional": draw(st.booleans()),
        "channels": draw(st.sampled_from(["joint", "independent"])),
        "positions": draw(st.sampled_from(["learned", "sinusoidal"])),
        "num_layers": draw(st.integers(1, 3)),
        "segment_length": draw(st.sampled_from([1, 12, 48])),
        "linear": draw(st.booleans()),
    }
    loss: Loss = draw(st.sampled_from(["pinball", "squared"]))
    batch_size = draw(st.sampled_from([8, 32, 50]))
    # The last batch is smaller than the others where there is more than one.
    windows = batch_size if steps == 1 else steps * batch_size - 3
    return [lane(draw, shared, loss, batch_size, windows) for _ in range(draw(st.integers(1, 4)))]


@settings(max_examples=20, deadline=None)
@given(bucket=buckets(steps=1))
def test_one_step_of_a_lane_equals_its_solo_run(bucket: list[tuple[Any, Any]]) -> None:
    """Losses, gradients and weights. AdamW's first step is little but the gradient's sign, so weights are
    compared where the gradient stands clear of rounding."""
    alone, together = ([trainer(*each) for each in bucket] for _ in range(2))
    train_together(together)
    for one, two in zip(alone, together, strict=True):
        one.train_epoch()
        losses, others = one.progress.history[0], two.progress.history[0]
        assert losses.train == pytest.approx(others.train, abs=1e-5)
        assert losses.validation == pytest.approx(others.validation, abs=1e-5)
        gradients, twins = ([moment for _, moment, _ in moved(each)] for each in (one, two))
        largest = max(float(gradient.abs().max()) for gradient in gradients)
        assert all(
            torch.allclose(g, h, rtol=0, atol=1e-5 * largest) for g, h in zip(gradients, twins, strict=True)
        )
        for (weight, gradient, average), (twin, _, twin_average) in zip(moved(one), moved(two), strict=True):
            clear = gradient.abs() > 1e-4 * largest
            assert torch.allclose(weight[clear], twin[clear], rtol=0, atol=1e-5)
            assert torch.allclose(average[clear], twin_average[clear], rtol=0, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(bucket=buckets(steps=4))
def test_an_epoch_of_a_lane_has_the_losses_of_its_solo_run(bucket: list[tuple[Any, Any]]) -> None:
    alone, together = ([trainer(*each) for each in bucket] for _ in range(2))
    train_together(together)
    for one, two in zip(alone, together, strict=True):
        one.train_epoch()
        for key in ("train", "validation"):
            losses = [getattr(each.progress.history[0], key) for each in (one, two)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@settings(max_examples=5, deadline=None)
@given(bucket=buckets(steps=4))
def test_in_bfloat16_as_on_a_gpu_an_epoch_has_nearly_these_losses(bucket: list[tuple[Any, Any]]) -> None:
    whole, rounded = ([trainer(*each) for each in bucket] for _ in range(2))
    train_together(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lstm.training.lanes.network_type", lambda device: torch.bfloat16)
        lanes = train_together(rounded)
    assert lanes.weights_PN.dtype is torch.float32
    for one, two in zip(whole, rounded, strict=True):
        for key in ("train", "validation"):
            losses = [getattr(each.progress.history[0], key) for each in (one, two)]
            assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("head", ["calendar", "segments"])
def test_in_bfloat16_a_step_moves_little_more_than_half(cell: Any, head: Any) -> None:
    """Of all that the networks keep nothing is left in float32; the optimizer's numbers are."""
    model = replace(MODEL, cell=cell, head=head, hidden_size=48)
    trainers = [trainer(model, replace(TRAINING, batch_size=128), validated=False)]
    train, _ = trainers[0].batches
    whole, rounded = (traffic.epoch(trainers, train, None, kind) for kind in (torch.float32, torch.bfloat16))
    # Of which the optimizer's 118 bytes or so a parameter are in float32 in both.
    rest = 118 * sum(parameter.numel() for parameter in trainers[0].model.parameters())
    assert rounded.moved - rest < 0.6 * (whole.moved - rest)


def test_several_epochs_then_alone_and_together_again() -> None:
    """What a lane puts back is all that its next epoch needs, alone or in other company."""
    small = replace(MODEL, hidden_size=3)
    alone, moved = trainer(small), trainer(small)
    train_together([moved, trainer()], epochs=2)
    moved.train_epoch()
    train_together([trainer(replace(MODEL, hidden_size=9)), moved])
    for _ in range(4):
        alone.train_epoch()
    assert difference(alone, moved) < 1e-4
    assert moved.progress.best_epoch == alone.progress.best_epoch
    for one, two in zip(alone.progress.history, moved.progress.history, strict=True):
        assert one.train == pytest.approx(two.train, rel=1e-3)
        assert one.validation == pytest.approx(two.validation, rel=1e-3)


def test_without_validation() -> None:
    alone, together = trainer(validated=False), trainer(validated=False)
    train_together([together, trainer(validated=False)])
    alone.train_epoch()
    assert together.progress.history[0].validation is None
    assert difference(alone, together) < 1e-5


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {"cell": "lstm"},
        {"cell": "gru", "head": "segments"},
        {"cell": "rnn", "head": "linear", "pooling": "attention"},
        {"cell": "lstm", "head": "segments", "bidirectional": True},
        {"cell": "gru", "segment_length": 1},
    ],
)
def test_padding_stays_exactly_zero(changes: dict[str, Any], layers: int) -> None:
    """Through dropout, weight decay, clipping and averaging; and all else moves."""
    training = replace(TRAINING, weight_decay=0.3, learning_rate=0.05)
    model = replace(MODEL, num_layers=layers, **changes)
    sizes = [3, 8, 5]
    trainers = [trainer(replace(model, hidden_size=size), training) for size in sizes]
    lanes = train_together(trainers)
    stacks = [lanes.weights_PN, lanes.average_PN, lanes.first_PN, lanes.second_PN, lanes.best_PN]
    assert all(stack_PN.isfinite().all() and stack_PN.any() for stack_PN in stacks)
    for place, one in enumerate(trainers):
        for stack_PN in stacks:
            stack_PN[place, lanes._index(one)] = 0
    # Every lane's own elements are gone: what is left is padding.
    assert not any(stack_PN.any() for stack_PN in stacks)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_lane_without_a_finite_loss_changes_no_other_bit(broken: int) -> None:
    def three() -> list[Trainer]:
        return [trainer(training=replace(TRAINING, seed=seed)) for seed in range(3)]

    healthy, others = three(), three()
    train_together(healthy)
    with torch.no_grad():
        others[broken].model.head.out.bias[0] = torch.nan
    lanes = Lanes(others, *others[0].batches)
    outcomes = lanes.train_epoch(others)
    for place, (one, two) in enumerate(zip(healthy, others, strict=True)):
        if place == broken:
            with pytest.raises(TrainingDiverged, match="epoch 1: the training loss is nan"):
                two.record(*outcomes[place])
            # Masked: its moments hold nothing of the steps that followed.
            assert not lanes.first_PN[place].any()
        else:
            two.record(*outcomes[place])
            lanes.put_back(two)
            assert two.progress.history == one.progress.history
            assert difference(one, two) == 0


def test_a_lane_that_diverges_within_the_epoch_is_masked_from_there() -> None:
    wild = replace(TRAINING, learning_rate=1e30, gradient_clip=1e30)
    trainers = [trainer(), trainer(training=wild)]
    lanes = Lanes(trainers, *trainers[0].batches)
    (fine, _), (lost, _) = lanes.train_epoch(trainers)
    assert np.isfinite(fine)
    assert not np.isfinite(lost)
    assert lanes.weights_PN[0].isfinite().all()


def test_a_checkpoint_of_one_is_resumed_by_the_other(tmp_path: Path) -> None:
    whole = run(trainer(), None, None)
    lane, path = trainer(), tmp_path / "checkpoint.safetensors"
    train_together([lane, trainer(replace(MODEL, hidden_size=8))], epochs=2)
    lane.save(path)
    result = run(trainer(), path, None)
    assert len(result.history) == len(whole.history)
    assert result.best_loss == pytest.approx(whole.best_loss, rel=1e-3)


def test_lanes_are_taken_over_to_the_bit() -> None:
    """By fewer places, of a larger network; who is not among those to be taken over has no place there."""
    dropouts = (0.2, 0.5, 0.1, 0.3, 0.4)
    staying, moving = (
        [trainer(replace(MODEL, dropout=p), replace(TRAINING, seed=n)) for n, p in enumerate(dropouts)]
        for _ in range(2)
    )
    train_together(staying)
    other = Lanes(moving, *moving[0].batches)
    for one, losses in zip(moving, other.train_epoch(moving), strict=True):
        one.record(*losses)
    larger = trainer(replace(MODEL, hidden_size=9))
    lanes = Lanes([*moving[3:], larger], *larger.batches)
    lanes.take_over(other, moving[3:])
    assert len(lanes.weights_PN) < len(other.weights_PN)
    for one in moving:
        lanes.put_back(one)
    assert [difference(one, two) == 0 for one, two in zip(staying, moving, strict=True)] == [False] * 3 + [
        True
    ] * 2
    for one, two in zip(staying[3:], moving[3:], strict=True):
        assert all(
            torch.equal(one.progress.best[name], two.progress.best[name]) for name in one.progress.best
        )
        states = [each.optimizer.state_dict()["state"] for each in (one, two)]
        assert all(
            torch.equal(states[0][number][part], states[1][number][part])
            for number in states[0]
            for part in ("step", "exp_avg", "exp_avg_sq")
        )
    # What makes their masks came along.
    losses = lanes.train_epoch(moving[3:])
    for one, (loss, _) in zip(staying[3:], losses, strict=True):
        one.train_epoch()
        assert one.progress.history[-1].train == pytest.approx(loss, rel=1e-3)


META = torch.device("meta")
"""A device that computes nothing, and refuses to compute with tensors of others."""


def on_meta(cell: Any, **changes: Any) -> Trainer:
    panel, train, validation = data()
    model = replace(MODEL, cell=cell, hidden_size=16)
    return Trainer(model, replace(TRAINING, **changes), panel, train, validation, META, None)


@pytest.mark.parametrize("pretrained", [0, 1])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "transformer"])
def test_a_training_is_on_its_device_from_its_first_step(cell: Any, pretrained: int) -> None:
    one = on_meta(cell, pretrain_epochs=pretrained)
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta"):
        one.pretrain() if pretrained else one.train_epoch()
    assert {parameter.device for parameter in one.model.parameters()} == {META}


def test_a_training_comes_to_its_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU torch lays a recurrent layer's weights out anew whenever it is moved, wherever it is."""
    one, moves = trainer(), []
    for network in (one.model, one.average):
        monkeypatch.setattr(network, "to", moves.append)
    one.pretrain()
    one.train_epoch()
    one.train_epoch()
    assert moves == [CPU, CPU]


@pytest.mark.parametrize("cell", ["rnn", "transformer"])
def test_lanes_are_on_their_device_from_their_first_step(cell: Any) -> None:
    """Whether a trainer lies there already, or not yet, or was resumed."""
    trainers = [on_meta(cell) for _ in range(3)]
    _ = trainers[0].optimizer
    _ = trainers[1].optimizer
    trainers[1].record(1.0, 1.0)
    lanes = Lanes(trainers, *trainers[0].batches)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        lanes.train_epoch(trainers)
    assert {parameter.device for parameter in trainers[2].model.parameters()} == {CPU}
    more = Lanes([*trainers, *(on_meta(cell) for _ in range(2))], *trainers[0].batches)
    more.take_over(lanes, trainers)


def test_buckets_part_what_cannot_share_a_launch() -> None:
    def key(training: dict[str, Any] | None = None, validated: bool = True, **model: Any) -> Any:
        return bucket(trainer(replace(MODEL, **model), replace(TRAINING, **(training or {})), validated))

    free = {"learning_rate": 1e-3, "seed": 5, "weight_decay": 0.0, "max_epochs": 9, "average_decay": 0.5}
    assert key(free, hidden_size=9, dropout=0.0, normalisation="none") == key()
    parted: list[Callable[[], Any]] = [
        lambda: key(cell="lstm"),
        lambda: key(num_layers=1),
        lambda: key(segment_length=6),
        lambda: key(linear=False),
        lambda: key(cell="transformer", hidden_size=16),
        lambda: key(cell="transformer", hidden_size=32),
        lambda: key(head="segments"),
        lambda: key({"batch_size": 16}),
        lambda: key({"loss": "squared"}, quantiles=(0.5,)),
        lambda: key(quantiles=(0.5,)),
        lambda: key({"windows_per_epoch": 64}),
        lambda: key(validated=False),
    ]
    assert len({key(), *(make() for make in parted)}) == len(parted) + 1


@settings(max_examples=50, deadline=None)
@given(gates=st.integers(1, 4), own=st.integers(1, 6), more=st.integers(0, 5), other=st.integers(1, 5))
def test_each_gate_is_padded_by_itself(gates: int, own: int, more: int, other: int) -> None:
    padded = torch.zeros(gates * (own + more), other)
    shape = (gates * own, other)
    part = unpadded(padded, shape, own)
    part.copy_(torch.arange(1.0, 1 + gates * own * other).view(part.shape))
    rows: Tensor = padded.view(gates, own + more, other)
    assert not rows[:, own:].any()
    assert rows[:, :own].reshape(-1).tolist() == list(range(1, 1 + gates * own * other))


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "transformer"])
@pytest.mark.parametrize("segments", [1, 12])
def test_lanes_that_are_joined_and_left_end_as_their_solo_runs(cell: Any, segments: int, device: str) -> None:
    """On a GPU in bfloat16, through steps as they are written, captured and repeated."""
    model = replace(MODEL, cell=cell, segment_length=segments, hidden_size=16, head="segments")
    panel, train, validation = data()

    def four() -> list[Trainer]:
        trainings = [replace(TRAINING, seed=seed, windows_per_epoch=128 - 3) for seed in range(4)]
        return [
            Trainer(model, each, panel, train, validation, torch.device(device), None) for each in trainings
        ]

    alone, together = four(), four()
    lanes = Lanes(together[:3], *together[0].batches)
    for members in (together[:3], together[:3], together[1:], together[1:]):
        for one, losses in zip(members, lanes.train_epoch(members), strict=True):
            one.record(*losses)
    for one in together[1:]:
        lanes.put_back(one)
    for one, two in zip(alone, together, strict=True):
        for losses in two.progress.history:
            one.train_epoch()
            assert one.progress.history[-1].train == pytest.approx(losses.train, rel=0.05)
            assert one.progress.history[-1].validation == pytest.approx(losses.validation, rel=0.05)
    for one, two in zip(alone[1:], together[1:], strict=True):
        assert one.progress.best.keys() == two.progress.best.keys()
        weights = [torch.cat([part.flatten() for part in each.progress.best.values()]) for each in (one, two)]
        assert float((weights[0] - weights[1]).norm() / weights[0].norm()) < 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_lane_that_diverges_on_a_cuda_device_changes_no_other_bit() -> None:
    panel, train, validation = data()
    wild = replace(TRAINING, learning_rate=1e30, gradient_clip=1e30, seed=1)

    def two(second: TrainingConfig) -> list[float]:
        trainers = [
            Trainer(MODEL, each, panel, train, validation, torch.device("cuda"), None)
            for each in (TRAINING, second)
        ]
        lanes = Lanes(trainers, *trainers[0].batches)
        first, _ = lanes.train_epoch(trainers)
        return [*first, *lanes.weights_PN[0].tolist()]

    assert two(wild) == two(replace(TRAINING, seed=1))
