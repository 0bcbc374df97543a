"""Dropout by counter: unbiased, and a mask that depends on key, place, row and unit alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lstm.models.dropout import Dropout, set_key
from lstm.models.forecaster import ForecasterConfig, build

KEYS = st.integers(-(2**63), 2**63 - 1)


def mask(key: int, shape: tuple[int, ...] = (400, 24, 10), p: float = 0.3, place: int = 0) -> Tensor:
    """True where a unit was dropped."""
    drop = Dropout(p, place).train()
    set_key(drop, torch.tensor(key))
    return drop(torch.ones(shape)) == 0


@settings(max_examples=50, deadline=None)
@given(key=KEYS, p=st.floats(0.01, 0.95))
def test_it_drops_a_share_of_p_and_keeps_the_mean(key: int, p: float) -> None:
    drop = Dropout(p, 3).train()
    set_key(drop, torch.tensor(key))
    y = drop(torch.ones(500, 8, 30))
    kept = y[y != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=2e-4, atol=0)
    deviation = (p * (1 - p) / y.numel()) ** 0.5
    assert abs(float((y == 0).double().mean()) - p) < 5 * deviation + 2**-16


@settings(max_examples=50, deadline=None)
@given(key=KEYS, size=st.integers(1, 9), padded=st.integers(0, 9), rows=st.integers(1, 20))
def test_padding_and_further_rows_change_no_mask(key: int, size: int, padded: int, rows: int) -> None:
    whole = mask(key, (rows + 3, size + padded))
    assert torch.equal(mask(key, (rows, size)), whole[:rows, :size])
    assert torch.equal(mask(key, (1, rows, size))[0], whole[:rows, :size])


@settings(max_examples=20, deadline=None)
@given(keys=st.lists(KEYS, min_size=2, max_size=4), rates=st.lists(st.floats(0, 0.9), min_size=4, max_size=4))
def test_each_network_of_a_stack_has_the_masks_that_it_has_alone(keys: list[int], rates: list[float]) -> None:
    alone = [Dropout(p, 1).train() for p in rates[: len(keys)]]
    x = torch.ones(len(keys), 5, 6)
    for drop, key in zip(alone, keys, strict=True):
        set_key(drop, torch.tensor(key))
    names = ("key", "threshold", "scale")
    buffers = {name: torch.stack([drop.get_buffer(name) for drop in alone]) for name in names}
    template = Dropout(0.5, 1).train()
    stacked = torch.vmap(lambda own, x: torch.func.functional_call(template, own, (x,)))(buffers, x)
    for place, drop in enumerate(alone):
        assert torch.equal(stacked[place], drop(x[place]))


def test_keys_places_rows_and_units_are_independent() -> None:
    """Correlations of many pairs of masks are those of chance: below five standard deviations."""
    one = mask(17).reshape(-1, 10).double() - 0.3
    count, variance = len(one), 0.3 * 0.7
    others = [mask(18), mask(-17), mask(17 + 2**40), mask(17, place=1), mask(17, place=2)]
    pairs = [(one, (other.reshape(-1, 10).double() - 0.3)) for other in others]
    pairs += [(one[:-lag], one[lag:]) for lag in (1, 2, 3, 4, 24)]
    for left, right in pairs:
        correlations = (left.T @ right) / (len(left) * variance)
        assert correlations.abs().max() < 5 / len(left) ** 0.5
    between_units = (one.T @ one) / (count * variance) - torch.eye(10)
    assert between_units.abs().max() < 5 / count**0.5
    # Four elements at the corners of a rectangle: where a hash of row and unit that only adds them up fails.
    corners = one[0::2, 0::2] * one[1::2, 0::2] * one[0::2, 1::2] * one[1::2, 1::2]
    assert abs(corners.mean()) / variance**2 < 5 / corners.numel() ** 0.5


def test_nothing_is_dropped_outside_training_or_at_zero() -> None:
    x = torch.randn(4, 5)
    assert torch.equal(Dropout(0.5, 0).eval()(x), x)
    assert torch.equal(Dropout(0.0, 0).train()(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_passes_where_units_are_kept(dtype: torch.dtype) -> None:
    drop = Dropout(0.5, 0).train()
    x = torch.ones(8, 8, dtype=dtype, requires_grad=True)
    y = drop(x)
    y.sum().backward()
    assert y.dtype == dtype
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize(("cell", "count"), [("lstm", 2 + 3), ("transformer", 2 + 2 * 4)])
@pytest.mark.parametrize("head", ["calendar", "segments", "linear"])
def test_every_dropout_of_the_network_has_a_place_of_its_own_and_no_weights(
    cell: Any, head: Any, count: int
) -> None:
    config = ForecasterConfig(cell, 16, 4, 0.3, 2, 6, 2, (0.5,), 1, 3, head=head, pooling="attention")
    model: nn.Module = build(config)
    places = [module.place for module in model.modules() if isinstance(module, Dropout)]
    assert len(set(places)) == len(places) == count - (head != "calendar")
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    set_key(model, torch.tensor(5))
    assert {int(b) for name, b in model.named_buffers() if name.endswith(".key")} == {5}
    assert "p=0.3, place=" in repr(model)
