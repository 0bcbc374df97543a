"""What networks are found to do: gates over a window, gradients by lag, and what forecasts rest on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data.panel import Panel
from data.retrain import Head
from data.splits import Span
from lstm import kernels
from lstm.features import feature_names
from lstm.models.forecaster import ForecasterConfig, build
from lstm.scaling import ScaledPanel, Scaler
from lstm.training.batches import Inputs
from lstm.training.diagnostics.gates import trace_gates
from lstm.training.diagnostics.gradients import EXPLODING, VANISHING, by_lag, compare_cells
from lstm.training.diagnostics.importance import Part, importance, increases
from lstm.windows import newest, windows

MakePanel = Callable[..., Panel]
LOOKBACK, HORIZON = 24, 6


def config_of(panel: Panel, **changes: Any) -> ForecasterConfig:
    """A tiny forecaster of a panel."""
    config = ForecasterConfig(
        cell="lstm",
        hidden_size=5,
        num_layers=1,
        dropout=0.0,
        segment_length=1,
        lookback=LOOKBACK,
        horizon=HORIZON,
        quantiles=(0.1, 0.5, 0.9),
        columns=len(panel.columns),
        calendar_features=len(feature_names(panel.frequency)),
    )
    return replace(config, **changes)


def weights_of(config: ForecasterConfig) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build(config).state_dict()


def scaled_of(panel: Panel) -> ScaledPanel:
    return Scaler.fit(panel, panel.n_steps - 1).scale(panel, HORIZON)


@pytest.mark.parametrize(
    ("cell", "names", "state"),
    [
        ("lstm", ["input_gate", "forget_gate", "output_gate"], "cell_state"),
        ("gru", ["reset_gate", "update_gate"], "hidden_state"),
        ("rnn", [], "hidden_state"),
    ],
)
@pytest.mark.parametrize(("layers", "segment"), [(1, 1), (2, 6)])
def test_gates_of_a_window(
    make_panel: MakePanel, cell: str, names: list[str], state: str, layers: int, segment: int
) -> None:
    panel = make_panel(steps=100, series=("a", "b"), covariates=("wind",), missing=0.1)
    config = config_of(panel, cell=cell, num_layers=layers, segment_length=segment)
    window = newest(panel, LOOKBACK).select(np.array([1]))
    found = trace_gates(config, weights_of(config), scaled_of(panel), window)
    assert found is not None
    assert (found.cell, found.layers, found.segment, found.state_name) == (cell, layers, segment, state)
    assert list(found.gates) == names
    for name, gate_TU in found.gates.items():
        assert gate_TU.shape == (LOOKBACK // segment, 5), name
        assert ((gate_TU >= 0) & (gate_TU <= 1)).all()
    if cell == "rnn":
        assert found.kept is None
    else:
        keeps = found.gates[names[1]]
        assert found.kept is not None
        np.testing.assert_allclose(found.kept ** len(keeps), keeps.prod(axis=0), rtol=1e-4)


def test_gates_are_of_one_window(make_panel: MakePanel) -> None:
    panel = make_panel(steps=100, series=("a", "b"))
    config = config_of(panel)
    with pytest.raises(ValueError, match="2 windows, not one"):
        trace_gates(config, weights_of(config), scaled_of(panel), newest(panel, LOOKBACK))


@pytest.mark.parametrize("head", ["calendar", "segments"])
def test_a_transformer_has_no_gates(make_panel: MakePanel, head: Head) -> None:
    """Nor has it those of a head that decodes with a recurrent cell."""
    panel = make_panel(steps=100)
    config = config_of(panel, cell="transformer", hidden_size=16, segment_length=6, head=head)
    assert trace_gates(config, weights_of(config), scaled_of(panel), newest(panel, LOOKBACK)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"bidirectional": True},
        {"pooling": "attention"},
        {"bidirectional": True, "num_layers": 2, "pooling": "attention"},
        {"head": "segments", "segment_length": 6},
        {"channels": "independent"},
    ],
    ids=str,
)
def test_gates_are_the_encoders_forward_in_time(make_panel: MakePanel, changes: dict[str, Any]) -> None:
    panel = make_panel(steps=100, covariates=("wind",))
    config = config_of(panel, **changes)
    state = weights_of(config)
    found = trace_gates(config, state, scaled_of(panel), newest(panel, LOOKBACK))
    assert found is not None
    assert found.layers == config.num_layers
    assert found.parts_TU["hidden_state"].shape == (LOOKBACK // config.segment_length, 5)
    assert found.segment == config.segment_length


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from([kernels.LSTM, kernels.GRU, kernels.RNN]),
    steps=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_what_the_lags_add_sums_to_the_gradient(kind: Any, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    module = kind(2, 3, batch_first=True, dtype=torch.float64)
    x_BTI = torch.randn(4, steps, 2, dtype=torch.float64)
    parts_TP = by_lag(module, x_BTI, lambda h_BH: h_BH.square().sum())
    module.last(x_BTI).square().sum().backward()
    whole_P = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    assert parts_TP.shape == (steps, len(whole_P))
    torch.testing.assert_close(parts_TP.sum(dim=0), whole_P)


def test_lags_of_a_network_of_one_unit_are_as_by_hand() -> None:
    """h2 = tanh(u x2 + w h1), h1 = tanh(u x1): the chain rule, term by term."""
    u, w, x1, x2 = 0.7, -1.3, 0.5, 0.25
    module = kernels.RNN(1, 1, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), (u, w, 0.0, 0.0), strict=True):
            parameter.fill_(value)
    parts_TP = by_lag(module, torch.tensor([[[x1], [x2]]], dtype=torch.float64), torch.sum)
    h1 = math.tanh(u * x1)
    slope1, slope2 = 1 - h1**2, 1 - math.tanh(u * x2 + w * h1) ** 2
    newest_P = [slope2 * x2, slope2 * h1, slope2, slope2]
    oldest_P = [slope2 * w * slope1 * x1, 0.0, slope2 * w * slope1, slope2 * w * slope1]
    torch.testing.assert_close(parts_TP, torch.tensor([newest_P, oldest_P], dtype=torch.float64))


def test_gradients_vanish_explode_and_are_clipped(make_panel: MakePanel) -> None:
    panel = make_panel(steps=400, noise=1.0)
    scaled, some = scaled_of(panel), windows(panel, Span(100, 399), 96, HORIZON)
    found = compare_cells(scaled, some, 96, clip=1.0)
    again = compare_cells(scaled, some, 96, clip=1.0)
    assert {len(lags_K) for lags_K in found.by_lag_K.values()} == {96}
    for name, lags_K in found.by_lag_K.items():
        np.testing.assert_array_equal(lags_K, again.by_lag_K[name])
        assert found.total[name] <= lags_K.sum() * 1.0001, "no sum is longer than its parts"
        assert found.total[name] * found.factor(name) <= 1.0001
    vanishing, exploding = found.by_lag_K[VANISHING], found.by_lag_K[EXPLODING]
    assert vanishing[-1] < 1e-12 * vanishing[0]
    assert exploding[-1] > exploding[0]
    assert found.reach(EXPLODING) is None
    reach = {name: found.reach(name) for name in (VANISHING, "LSTM")}
    assert reach[VANISHING] < reach["LSTM"]  # type: ignore[operator]
    kept, lost = found.losses_S["clipped"], found.losses_S["not clipped"]
    assert np.isfinite(kept).all()
    assert kept[-5:].mean() < kept[0]
    assert np.nanmax(lost) > 100 or not np.isfinite(lost[-1])


def inputs_of(windows_: int = 30, columns: int = 3, features: int = 2) -> Inputs:
    shapes = ((LOOKBACK, columns), (LOOKBACK, columns), (HORIZON, features))
    x_BLC, observed_BLC, future_BHF = (torch.randn(windows_, *shape) for shape in shapes)
    known_BLK, static_BD = torch.zeros(windows_, LOOKBACK, 0), torch.randn(windows_, 2)
    return Inputs(x_BLC, observed_BLC, future_BHF, known_BLK, static_BD, torch.arange(windows_))


@settings(max_examples=20, deadline=None)
@given(ignored=st.integers(0, 2), used=st.integers(0, 2), seed=st.integers(0, 99))
def test_what_a_model_ignores_has_importance_0(ignored: int, used: int, seed: int) -> None:
    inputs = inputs_of()
    target = inputs.x_BLC[:, -1, used]

    def error(given: Inputs) -> float:
        return float((given.x_BLC[:, -1, used] - target).abs().mean())

    every = slice(None)
    groups = {
        "ignored": [Part("x_BLC", (every, [ignored]))],
        "older": [Part("x_BLC", (slice(0, LOOKBACK - 1),))],
        "newest": [Part("x_BLC", (slice(LOOKBACK - 1, LOOKBACK),))],
        "calendar": [Part("future_BHF", (every, [0, 1]))],
    }
    before = [tensor.clone() for tensor in inputs]
    found = increases(error, inputs, groups, np.random.default_rng(seed))
    assert (found["older"] == 0).all()
    assert (found["calendar"] == 0).all()
    assert (found["newest"] > 0).all()
    assert ((found["ignored"] == 0).all()) == (ignored != used)
    for tensor, was in zip(inputs, before, strict=True):
        assert torch.equal(tensor, was)


def test_parts_of_a_group_are_exchanged_together() -> None:
    inputs = inputs_of()._replace(observed_BLC=torch.zeros(30, LOOKBACK, 3))
    inputs.observed_BLC[:] = inputs.x_BLC

    def error(given: Inputs) -> float:
        return float((given.x_BLC - given.observed_BLC).abs().max())

    together = [Part(name, (slice(3, 9), [0, 2])) for name in ("x_BLC", "observed_BLC")]
    found = increases(error, inputs, {"both": together, "one": together[:1]}, np.random.default_rng(0))
    assert (found["both"] == 0).all()
    assert (found["one"] > 0).all()


def test_importance_of_a_forecaster_that_ignores_a_covariate(make_panel: MakePanel) -> None:
    panel = make_panel(steps=300, covariates=("wind", "rain"), missing=0.05)
    config = config_of(panel)
    state = weights_of(config)
    # Values of all columns come first, then their masks.
    state["encoder.layers.0.weight_ih_l0"][:, [1, 1 + 3]] = 0
    some = windows(panel, Span(100, 299), LOOKBACK, HORIZON)
    found = importance(config, state, panel, scaled_of(panel), some, 24)
    assert list(found.columns_R) == ["load", "wind", "rain", "hour_of_day", "day_of_week", "day_of_year"]
    assert (found.columns_R["wind"] == 0).all()
    assert (found.columns_R["rain"] != 0).all()
    assert (found.columns_R["hour_of_day"] != 0).all()
    assert list(found.lags_R) == [(first, first + 1) for first in range(0, LOOKBACK, 2)]
    assert found.windows == 128
    assert found.mae > 0
    np.testing.assert_allclose(found.share("load") * found.mae, found.columns_R["load"])


def test_lags_go_by_season_where_that_can_be_read(make_panel: MakePanel) -> None:
    panel = make_panel(steps=300)
    config = config_of(panel, lookback=60)
    some = windows(panel, Span(200, 299), 60, HORIZON)
    state = weights_of(config)
    by_season = importance(config, state, panel, scaled_of(panel), some, season=8)
    assert [*by_season.lags_R][:2] == [(0, 7), (8, 15)]
    assert [*by_season.lags_R][-1] == (56, 59)
    with pytest.raises(ValueError, match="nothing can be exchanged"):
        importance(config, state, panel, scaled_of(panel), some.select(np.array([0])), 8)


def test_importance_of_what_is_known_ahead_and_of_the_series(make_panel: MakePanel) -> None:
    panel = make_panel(steps=200, series=("a", "b"), covariates=("wind", "price"))
    ahead = np.random.default_rng(0).normal(size=(2, HORIZON, 1))
    static = {"rooms": (3.0, 5.0)}
    panel = replace(panel, covariates=("wind",), future=("price",), ahead=ahead, static=static, holidays="DE")
    scaled = scaled_of(panel)
    config = config_of(panel, **scaled.sizes)
    state = weights_of(config)
    some = windows(panel, Span(100, 199), LOOKBACK, HORIZON)
    found = importance(config, state, panel, scaled, some, 24)
    cycles = ["hour_of_day", "day_of_week", "day_of_year", "holiday"]
    assert list(found.columns_R) == ["load", "wind", "price", *cycles, "series"]
    assert (found.columns_R["price"] != 0).all()
    assert (found.columns_R["series"] != 0).all()
    window = newest(panel, LOOKBACK).select(np.array([1]))
    assert trace_gates(config, state, scaled, window) is not None
