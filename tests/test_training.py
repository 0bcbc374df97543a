"""The parts of a training: loss, schedule, recipe, device, batches."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recurrent_twins import torch_threads

from data.panel import Panel
from data.splits import Span
from lstm import kernels
from lstm.features import day_features, time_features
from lstm.kernels import native
from lstm.models.forecaster import ForecasterConfig, build
from lstm.scaling import Scaler
from lstm.training.batches import Batches
from lstm.training.device import DeviceMissing, choose_device, set_threads, threads_for
from lstm.training.initial import seeded
from lstm.training.loss import forecast_loss
from lstm.training.predict import network
from lstm.training.recipe import Recipe, TrainingConfig
from lstm.training.schedule import learning_rate
from lstm.windows import windows

MakePanel = Callable[..., Panel]
CPU = torch.device("cpu")


def test_pinball_by_hand() -> None:
    y_BHQ = torch.tensor([[[0.0, 2.0], [1.0, 1.0]]])
    target_BH = torch.tensor([[1.0, 100.0]])
    observed_BH = torch.tensor([[True, False]])
    levels_Q = torch.tensor([0.1, 0.5])
    # .1 x 1 under the target, .5 x 1 over it, over two levels; the second step was not observed.
    assert forecast_loss("pinball", y_BHQ, target_BH, observed_BH, levels_Q).item() == pytest.approx(
        (0.1 + 0.5) / 2
    )


def test_pinball_of_nothing_observed_is_zero_and_has_a_gradient() -> None:
    y_BHQ = torch.ones(1, 2, 1, requires_grad=True)
    loss = forecast_loss(
        "pinball", y_BHQ, torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool), torch.tensor([0.5])
    )
    loss.backward()
    assert loss.item() == 0
    assert y_BHQ.grad is not None
    assert not y_BHQ.grad.any()


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_the_quantile_minimises_the_pinball_loss(level: float) -> None:
    target_BH = torch.arange(1.0, 100.0)[None]
    losses = [
        forecast_loss(
            "pinball", torch.full((1, 99, 1), float(value)), target_BH, target_BH > 0, torch.tensor([level])
        ).item()
        for value in range(1, 100)
    ]
    assert abs(int(np.argmin(losses)) + 1 - 100 * level) <= 1


@given(total=st.integers(1, 500), peak=st.floats(1e-5, 1.0))
def test_the_schedule_warms_up_then_falls_and_stays_positive(total: int, peak: float) -> None:
    rates = np.array([learning_rate(step, total, peak) for step in range(total)])
    top = int(rates.argmax())
    assert (rates > 0).all()
    assert rates.max() == pytest.approx(peak)
    assert (np.diff(rates[: top + 1]) >= 0).all()
    assert (np.diff(rates[top:]) <= 0).all()
    assert top <= 0.1 * total + 1


def test_the_schedule_at_known_steps() -> None:
    assert learning_rate(0, 100, 1.0) == pytest.approx(0.1)
    assert learning_rate(9, 100, 1.0) == pytest.approx(1.0)
    assert learning_rate(55, 100, 1.0) == pytest.approx(0.51)
    assert learning_rate(100, 100, 1.0) == learning_rate(150, 100, 1.0) == pytest.approx(0.02)


def test_a_recipe_is_json_safe() -> None:
    model = ForecasterConfig("lstm", 8, 2, 0.1, 4, 12, 5, (0.1, 0.5, 0.9), 2, 3)
    recipe = Recipe(model, TrainingConfig(learning_rate=1e-3, seed=7), epochs=9)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    with pytest.raises(TypeError, match="surprise"):
        TrainingConfig.from_dict({"surprise": 1})


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(DeviceMissing, match="NIGHTCAST_DEVICE=auto"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device().type == choose_device("cuda").type == "cuda"
    assert choose_device("cpu") == CPU


def test_no_network_is_built_while_another_draws_its_initial_weights() -> None:
    config = ForecasterConfig(
        cell="gru", hidden_size=4, num_layers=1, dropout=0.0, segment_length=1, lookback=8, horizon=2,
        quantiles=(0.5,), columns=1, calendar_features=3,
    )  # fmt: skip
    with seeded(1):
        alone = torch.rand(3)
    state = build(config).state_dict()
    other = threading.Thread(target=network, args=(config, state))
    with seeded(1):
        other.start()
        other.join(0.2)
        assert other.is_alive()
        assert torch.rand(3).tolist() == alone.tolist()
    other.join()


@pytest.mark.parametrize("are_shared", [True, False])
def test_threads(monkeypatch: pytest.MonkeyPatch, are_shared: bool) -> None:
    """Where the recurrent kernel has threads of its own, torch keeps to one."""
    before = torch.get_num_threads()
    monkeypatch.setattr(kernels, "shares_threads", lambda: are_shared)
    try:
        set_threads(3)
        assert torch.get_num_threads() == (3 if are_shared else 1)
        assert native._threads == 3
    finally:
        torch.set_num_threads(before)
        kernels.set_threads(None)


def test_one_thread_works_on_a_few_numbers() -> None:
    with torch_threads(3):
        with threads_for(1_000):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with pytest.raises(KeyError), threads_for(1_000):
            raise KeyError
        assert torch.get_num_threads() == 3
        with threads_for(10**6):
            assert torch.get_num_threads() == 3
    with torch_threads(1), threads_for(1_000):
        assert torch.get_num_threads() == 1


def test_batches_hold_the_window_and_what_follows(make_panel: MakePanel) -> None:
    panel = make_panel(steps=60, series=("a", "b"), covariates=("wind",), first_steps=(0, 7), missing=0.2)
    scaler = Scaler.fit(panel, 59)
    scaled = scaler.scale(panel, 4)
    found = windows(panel, Span(30, 59), 6, 4)
    batches = Batches(scaled, found, 6, 4, CPU)
    hours = np.arange(24 * 3 + 4)
    calendar_TF = time_features(panel.frequency, hours % 24 * 3600, scaler.cycles)
    # The first day of 2024.
    calendar_TF += day_features(panel.frequency, 19723 + hours // 24, scaler.cycles)
    chosen = torch.tensor([len(found) - 1, 0])
    inputs = batches.inputs(chosen)
    target_BH, observed_BH = batches.targets(chosen)
    for place, number in enumerate(chosen.tolist()):
        row, step = int(found.origins[number]), int(found.steps[number])
        np.testing.assert_array_equal(inputs.x_BLC[place], scaled.values[row - 5 : row + 1])
        np.testing.assert_array_equal(inputs.observed_BLC[place], scaled.observed[row - 5 : row + 1])
        np.testing.assert_array_equal(inputs.future_BHF[place], calendar_TF[step + 1 : step + 5])
        np.testing.assert_array_equal(target_BH[place], scaled.values[row + 1 : row + 5, 0])
        np.testing.assert_array_equal(observed_BH[place], scaled.observed[row + 1 : row + 5, 0])
    assert inputs.observed_BLC.dtype == torch.bool
    again = batches.inputs(chosen[:, None].expand(2, 3))
    assert again.x_BLC.shape == (2, 3, 6, 2)
    np.testing.assert_array_equal(
        again.future_BHF[1, 2], calendar_TF[found.steps[0] + 1 : found.steps[0] + 5]
    )
    assert torch.cat(list(batches.in_order(7))).tolist() == list(range(len(batches)))


def test_a_graph_that_needs_the_batch_before_says_so(make_panel: MakePanel) -> None:
    panel = make_panel(steps=60)
    batches = Batches(Scaler.fit(panel, 59).scale(panel, 4), windows(panel, Span(30, 50), 6, 4), 6, 4, CPU)
    weight = torch.ones((), requires_grad=True)
    for name in ("x_BLC", "future_BHF"):
        loss = (getattr(batches.inputs(torch.tensor([0])), name) * weight).sum()
        batches.inputs(torch.tensor([1]))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_horizon_beyond_the_scaled_calendar_is_an_error(make_panel: MakePanel) -> None:
    panel = make_panel(steps=60)
    scaled = Scaler.fit(panel, 59).scale(panel, 4)
    Batches(scaled, windows(panel, Span(30, 59), 6, 4), 6, 4, CPU)
    with pytest.raises(ValueError, match="shorter horizon than 10"):
        Batches(scaled, windows(panel, Span(30, 59), 6, 4), 6, 10, CPU)


@pytest.mark.parametrize("series", [1, 400])
def test_memory_grows_with_the_panel_alone(make_panel: MakePanel, series: int) -> None:
    """A point costs 4 bytes scaled and 1 of mask beside the panel's own 8; another 1 while it is made."""

    def peak(points: int) -> int:
        names = tuple(map(str, range(series)))
        panel = make_panel(steps=points // series, series=names, frequency="1min")
        tracemalloc.start()
        try:
            scaled = Scaler.fit(panel, panel.n_steps - 1).scale(panel, 4)
            found = windows(panel, Span(0, panel.n_steps - 1), 6, 4)
            batches = Batches(scaled, found, 6, 4, CPU)
            batches.inputs(torch.arange(100))
            batches.targets(torch.arange(100))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = 200_000, 600_000
    assert peak(large) - peak(small) < 7 * (large - small)
