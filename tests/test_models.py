"""The network: shapes, quantiles that do not cross, initial weights, normalisation, what it may depend on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from data.retrain import HEAD_SIZE
from lstm.models.forecaster import ForecasterConfig, build
from lstm.models.heads import CalendarHead, SegmentHead, median_index, rising
from lstm.models.layers import initialise
from lstm.models.recurrent import RecurrentEncoder
from lstm.models.transformer import TransformerEncoder, sinusoids

CONFIG = ForecasterConfig(
    cell="gru",
    hidden_size=8,
    num_layers=1,
    dropout=0.0,
    segment_length=4,
    lookback=12,
    horizon=5,
    quantiles=(0.1, 0.5, 0.9),
    columns=2,
    calendar_features=3,
)


KNOWN = {"future_covariates": 2, "static_features": 3, "series": 6, "series_embedding": 4}


def batch(config: ForecasterConfig = CONFIG, size: int = 6) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    features = config.calendar_features + config.future_covariates
    plain = (
        torch.randn(size, config.lookback, config.columns, generator=generator),
        torch.ones(size, config.lookback, config.columns),
        torch.randn(size, config.horizon, features, generator=generator),
    )
    if not config.known:
        return plain
    return (
        *plain,
        torch.randn(size, config.lookback, config.future_covariates, generator=generator),
        torch.randn(size, config.static_features, generator=generator),
        torch.arange(size),
    )


def made(config: ForecasterConfig) -> nn.Module:
    torch.manual_seed(0)
    return build(config).eval()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "transformer"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"segment_length": 1},
        {"num_layers": 2, "dropout": 0.3},
        {"linear": False},
        {"head": "segments"},
        {"head": "linear", "normalisation": "none"},
        {"pooling": "attention", "channels": "independent", "normalisation": "last_value"},
        {"bidirectional": True, "num_layers": 2, "head": "segments"},
        {"bidirectional": True, "pooling": "attention", "positions": "sinusoidal"},
        KNOWN,
        {**KNOWN, "head": "segments", "channels": "independent"},
        {**KNOWN, "head": "linear", "static_features": 0},
    ],
)
def test_shape_and_gradient_of_every_parameter(cell: Any, changes: dict[str, Any]) -> None:
    config = replace(CONFIG, cell=cell, **{"hidden_size": 16, **changes})
    model = made(config)
    y_BHQ = model(*batch(config))
    assert y_BHQ.shape == (6, 5, 3)
    assert (y_BHQ.diff(dim=-1) > 0).all()
    y_BHQ.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 7), seed=st.integers(0, 999), data=st.data())
def test_quantiles_never_cross_and_the_median_is_its_own_output(
    count: int, seed: int, data: st.DataObject
) -> None:
    median = data.draw(st.integers(0, count - 1))
    raw_BHQ = torch.randn(2, 3, count, generator=torch.Generator().manual_seed(seed)) * 3
    y_BHQ = rising(raw_BHQ, median)
    assert y_BHQ.shape == raw_BHQ.shape
    assert (y_BHQ.diff(dim=-1) > 0).all()
    assert torch.equal(y_BHQ[..., median], raw_BHQ[..., median])
    gaps = nn.functional.softplus(raw_BHQ)
    if median > 0:
        torch.testing.assert_close(y_BHQ[..., 0], raw_BHQ[..., median] - gaps[..., :median].sum(-1))


def test_median_index() -> None:
    assert median_index((0.1, 0.5)) == 1
    with pytest.raises(ValueError, match="not in"):
        median_index((0.1, 0.9))


@pytest.mark.parametrize(
    ("normalisation", "scales"), [("none", False), ("last_value", False), ("instance", True)]
)
def test_normalisation_makes_forecasts_follow_level_and_scale(normalisation: Any, scales: bool) -> None:
    model = made(replace(CONFIG, normalisation=normalisation))
    x_BLC, *rest = batch()
    y_BHQ = model(x_BLC, *rest)
    higher = model(x_BLC + 3, *rest)
    assert torch.allclose(higher, y_BHQ + 3, atol=1e-4) == (normalisation != "none")
    wider = model(2 * x_BLC, *rest)
    assert torch.allclose(wider, 2 * y_BHQ, atol=1e-4) == scales


def test_last_value_and_instance_normalise_by_what_they_say() -> None:
    x_BLC, *rest = batch()
    flat = x_BLC.clone()
    flat[..., 0] = 1.5
    for normalisation in ("last_value", "instance"):
        model = made(replace(CONFIG, normalisation=normalisation))  # type: ignore[arg-type]
        y_BHQ = model(flat, *rest)
        assert torch.isfinite(y_BHQ).all()
        torch.testing.assert_close(model(flat + torch.tensor([2.0, 0.0]), *rest), y_BHQ + 2)


def test_instance_normalisation_takes_mean_and_standard_deviation_off_each_window() -> None:
    x_BLC, observed_BLC, *_ = batch()
    x_BLC = 3 * x_BLC + 5
    read_BLD, loc_B1, scale_B1 = made(replace(CONFIG, normalisation="instance")).encoder_inputs(
        x_BLC, observed_BLC
    )
    mean_B1C, spread_B1C = x_BLC.mean(1, keepdim=True), x_BLC.std(1, keepdim=True, unbiased=False)
    torch.testing.assert_close(read_BLD[..., : CONFIG.columns], (x_BLC - mean_B1C) / spread_B1C)
    torch.testing.assert_close((loc_B1, scale_B1), (mean_B1C[..., 0], spread_B1C[..., 0]))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), level=st.floats(-50, 50), factor=st.floats(0.01, 100))
def test_with_instance_normalisation_the_target_s_level_and_scale_are_the_forecast_s(
    data: st.DataObject, level: float, factor: float
) -> None:
    changes = {
        "cell": data.draw(st.sampled_from(["lstm", "gru", "rnn", "transformer"])),
        "head": data.draw(st.sampled_from(["calendar", "segments", "linear"])),
        "pooling": data.draw(st.sampled_from(["last", "attention"])),
        "hidden_size": 16,
    }
    model = made(replace(CONFIG, **changes))
    x_BLC, *rest = batch()
    target = torch.tensor([1.0, 0.0])
    other = x_BLC * (1 + (factor - 1) * target) + level * target
    expected = model(x_BLC, *rest) * factor + level
    torch.testing.assert_close(model(other, *rest), expected, rtol=1e-3, atol=1e-3 * (1 + abs(level)))
    constant = x_BLC * (1 - target) + level * target
    torch.testing.assert_close(model(constant, *rest), torch.full((6, 5, 3), level))


def test_an_independent_channel_reads_the_target_alone() -> None:
    model = made(replace(CONFIG, channels="independent"))
    x_BLC, observed_BLC, *rest = batch()
    past = torch.tensor([0.0, 1.0])
    y_BHQ = model(x_BLC, observed_BLC, *rest)
    assert torch.equal(model(x_BLC + past, observed_BLC - past, *rest), y_BHQ)
    assert not torch.allclose(model(x_BLC + 1 - past, observed_BLC, *rest), y_BHQ)


def test_the_segment_head_decodes_every_segment_from_the_memory_alone() -> None:
    torch.manual_seed(0)
    head = SegmentHead("lstm", 4, 5, 2, 3, 0.0, 2).eval()
    h_BK, future_BHF = torch.randn(6, 4), torch.randn(6, 5, 3)
    y_BHQ = head(h_BK, future_BHF)
    changed = future_BHF.clone()
    changed[:, 2] += 1
    moved = (head(h_BK, changed) - y_BHQ).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.tolist() == [False, False, True, True, False]


def test_a_backward_direction_ends_at_the_oldest_step_and_a_forward_one_at_the_newest() -> None:
    torch.manual_seed(0)
    encoder = RecurrentEncoder("gru", 1, 4, 1, 0.0, 1, bidirectional=True)
    x_BLD = torch.randn(3, 6, 1)
    states_BGK = encoder.layers[0](x_BLD)[0]
    expected = encoder.join(torch.cat([states_BGK[:, -1, :4], states_BGK[:, 0, 4:]], dim=-1))
    torch.testing.assert_close(encoder(x_BLD), expected)


def test_attention_is_torch_s() -> None:
    torch.manual_seed(0)
    encoder = TransformerEncoder(3, 32, 1, 0.0, 2, 6)
    block = encoder.blocks[0]
    theirs = nn.MultiheadAttention(32, 32 // HEAD_SIZE, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": block.query_key_value.weight,
            "in_proj_bias": block.query_key_value.bias,
            "out_proj.weight": block.attended.weight,
            "out_proj.bias": block.attended.bias,
        }
    )
    h_BGK = torch.randn(5, 6, 32)
    torch.testing.assert_close(
        block.attended(block._attend(h_BGK)), theirs(h_BGK, h_BGK, h_BGK, need_weights=False)[0]
    )


def test_sinusoids_tell_segments_apart() -> None:
    waves_GK = sinusoids(50, 16)
    assert waves_GK.shape == (50, 16)
    assert torch.cdist(waves_GK, waves_GK).add(torch.eye(50)).min() > 0.1
    torch.testing.assert_close(waves_GK[0], torch.tensor([0.0] * 8 + [1.0] * 8))


def test_forecast_depends_on_every_input_and_a_step_only_on_its_own_future_calendar() -> None:
    config = replace(CONFIG, **KNOWN)
    model = made(config)
    inputs = batch(config)
    y_BHQ = model(*inputs)
    for number, tensor in enumerate(inputs):
        changed = list(inputs)
        if tensor.dim() == 3:
            changed[number] = tensor + torch.linspace(-1, 1, tensor.shape[1])[:, None]
        else:
            changed[number] = tensor.flip(0)
        assert not torch.allclose(model(*changed), y_BHQ, atol=1e-3), f"input {number} is not read"
    future = inputs[2].clone()
    future[:, 2] += 1
    moved = (model(*inputs[:2], future, *inputs[3:]) - y_BHQ).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.tolist() == [False, False, True, False, False]


def test_windows_of_a_batch_are_independent() -> None:
    model = made(CONFIG)
    inputs = batch()
    alone = model(*(tensor[2:3] for tensor in inputs))
    torch.testing.assert_close(model(*inputs)[2:3], alone)


def test_the_shortcut_starts_at_zero_and_moves_all_quantiles_alike() -> None:
    model = made(CONFIG)
    y_BHQ = model(*batch())
    with torch.no_grad():
        model.shortcut.bias.fill_(1.0)
    moved_BHQ = model(*batch()) - y_BHQ
    assert (moved_BHQ > 0).all()
    torch.testing.assert_close(moved_BHQ[..., 0], moved_BHQ[..., 2])


def test_segments_keep_the_order_of_steps() -> None:
    torch.manual_seed(0)
    encoder = RecurrentEncoder("gru", 1, 4, 1, 0.0, segment_length=3)
    seen = []
    encoder.embed.project.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    encoder(torch.arange(6.0).reshape(1, 6, 1))
    assert seen[0].tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_dropout_is_between_layers() -> None:
    assert len(RecurrentEncoder("lstm", 1, 4, 1, 0.3, 1).between) == 0
    assert [drop.p for drop in RecurrentEncoder("lstm", 1, 4, 3, 0.3, 1).between] == [0.3, 0.3]


def test_initial_weights() -> None:
    lstm = nn.LSTM(3, 4, 2)
    initialise(lstm)
    for layer in range(2):
        recurrent = getattr(lstm, f"weight_hh_l{layer}")
        for gate in recurrent.split(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(4), atol=1e-5, rtol=0)
        assert getattr(lstm, f"bias_ih_l{layer}").tolist() == [0] * 4 + [1] * 4 + [0] * 8
        assert not getattr(lstm, f"bias_hh_l{layer}").any()
    gru = nn.GRU(3, 4)
    initialise(gru)
    assert not gru.bias_ih_l0.any()


def test_head_shape() -> None:
    assert CalendarHead(8, 5, 3, 0.1, 2)(torch.zeros(7, 8), torch.zeros(7, 5, 3)).shape == (7, 5, 2)


def test_config_is_json_safe_and_checked() -> None:
    config = replace(CONFIG, normalisation="last_value", linear=False)
    assert ForecasterConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(TypeError, match="surprise"):
        ForecasterConfig.from_dict({**config.to_dict(), "surprise": 1})
    with pytest.raises(ValueError, match="lookback 13 is not a multiple of segment_length 4"):
        replace(CONFIG, lookback=13)
    with pytest.raises(ValueError, match="hidden_size 8 of a transformer is not a multiple of 16"):
        replace(CONFIG, cell="transformer")
    with pytest.raises(ValueError, match=r"0\.5"):
        replace(CONFIG, quantiles=(0.1, 0.9))
