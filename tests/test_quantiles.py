"""Quantiles and their loss in native code: torch's numbers and gradients, wherever they run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lstm.kernels import library, quantiles, using
from lstm.models.forecaster import ForecasterConfig, build
from lstm.models.heads import rising
from lstm.training.loss import forecast_loss

pytestmark = pytest.mark.skipif(not library.widths(), reason="no native code for this processor")


def torchs_rising(
    raw_BHQ: Tensor, base_BH: Tensor | None, location_B1: Tensor, scale_B1: Tensor, median: int
) -> Tensor:
    """The formula of `lstm.models.forecaster`."""
    y_BHQ = rising(raw_BHQ, median)
    if base_BH is not None:
        y_BHQ = y_BHQ + base_BH[..., None]
    return y_BHQ * scale_B1[..., None] + location_B1[..., None]


def with_gradients(y: Tensor, weight: Tensor, by: Sequence[Tensor | None]) -> list[Tensor]:
    """A result, and its gradients."""
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), [one for one in by if one is not None])]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 9), st.integers(1, 12)),
    place=st.floats(0, 0.999),
    has_base=st.booleans(),
    spread=st.sampled_from([1.0, 30.0, 1e4]),
    width=st.sampled_from(library.widths()) if library.widths() else st.nothing(),
    seed=st.integers(0, 99),
)
@example((1, 1, 1), 0.0, False, 1.0, max(library.widths(), default=0), 0)
@example((3, 5, 64), 0.5, True, 1.0, max(library.widths(), default=0), 0)
def test_quantiles_and_their_gradients_are_torchs(
    sizes: tuple[int, int, int], place: float, has_base: bool, spread: float, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    batch, steps, outputs = sizes
    median = int(place * outputs)
    raw = (torch.randn(sizes) * spread).requires_grad_()
    base = torch.randn(batch, steps, requires_grad=True) if has_base else None
    location, scale, weight = torch.randn(batch, 1), torch.rand(batch, 1), torch.randn(sizes)
    assert quantiles.fits(raw, base, location, scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_widths", (width,))
        ours = with_gradients(quantiles.rising(raw, base, location, scale, median), weight, (raw, base))
    twins = [one if one is None else one.detach().double().requires_grad_() for one in (raw, base)]
    exact = with_gradients(
        torchs_rising(twins[0], twins[1], location.double(), scale.double(), median),  # type: ignore[arg-type]
        weight,
        twins,
    )
    for one, other in zip(ours, exact, strict=True):
        assert one.shape == other.shape
        scale_of = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-6 * scale_of)
    if scale.min() > 0:
        assert (ours[0].diff(dim=-1) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 40), st.integers(1, 9), st.integers(1, 12)),
    observed=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    hits=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_loss_and_its_gradient_are_torchs(
    sizes: tuple[int, int, int], observed: float, hits: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    y = torch.randn(sizes, requires_grad=True)
    target, seen = torch.randn(sizes[:2]), torch.rand(sizes[:2]) < observed
    if hits:
        target = y.detach()[..., 0].clone()
    levels = (torch.arange(sizes[2]) + 1) / (sizes[2] + 1)
    results = []
    for kernel in ("auto", "torch"):
        with using(kernel):  # type: ignore[arg-type]
            loss = forecast_loss("pinball", y, target, seen, levels)
            results.append((loss.detach(), torch.autograd.grad(3 * loss, y)[0]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_goes_where_torch_lets_it_go(value: float) -> None:
    raw, base = torch.randn(20, 3, 5), torch.randn(20, 3)
    location, scale, weight = torch.randn(20, 1), torch.rand(20, 1), torch.randn(20, 3, 5)
    for place in range(5):
        spoilt = raw.clone()
        spoilt[17, 1, place] = value
        spoilt.requires_grad_()
        ours = with_gradients(quantiles.rising(spoilt, base, location, scale, 2), weight, [spoilt])
        torchs = with_gradients(torchs_rising(spoilt, base, location, scale, 2), weight, [spoilt])
        if place == 2:
            # Torch takes the median's softplus as well, and its gradient times 0.
            torchs[1][17, 1, 2] = ours[1][17, 1, 2]
        for one, other in zip(ours, torchs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)
    levels, seen = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]), torch.ones(20, 3, dtype=torch.bool)
    y = raw.clone()
    y[17, 1, 3] = value
    for is_seen in (True, False):
        seen[17, 1] = is_seen
        loss = forecast_loss("pinball", y, base, seen, levels)
        with using("torch"):
            torch.testing.assert_close(loss, forecast_loss("pinball", y, base, seen, levels), equal_nan=True)
        assert not loss.isfinite()


def test_what_native_code_does_not_take_is_torchs() -> None:
    raw, base, location, scale = torch.randn(4, 3, 5), torch.randn(4, 3), torch.randn(4, 1), torch.rand(4, 1)
    assert quantiles.fits(raw, base, location, scale)
    assert quantiles.fits(raw, None, location, scale)
    assert not quantiles.fits(raw, base, location, scale.clone().requires_grad_())
    assert not quantiles.fits(raw, base[:3], location, scale)
    assert not quantiles.fits(raw, base, location[:, 0], scale[:, 0])
    assert not quantiles.fits(raw.double(), base, location, scale)
    assert not quantiles.fits(torch.randn(4, 3, 65), base, location, scale)
    assert not quantiles.fits(raw[:0], base[:0], location[:0], scale[:0])
    levels, seen = torch.linspace(0.1, 0.9, 5), base > 0
    assert quantiles.fits_loss(raw, base, seen, levels)
    assert not quantiles.fits_loss(raw, base, seen.float(), levels)
    assert not quantiles.fits_loss(raw, base, seen[:3], levels)
    assert not quantiles.fits_loss(raw, base, seen, levels[:4])
    assert not quantiles.fits_loss(raw, base.clone().requires_grad_(), seen, levels)
    for off in (using("torch"), torch.autocast("cpu", torch.bfloat16)):
        with off:  # type: ignore[attr-defined]
            assert not quantiles.fits(raw, base, location, scale)
            assert not quantiles.fits_loss(raw, base, seen, levels)


@pytest.mark.parametrize("head", ["calendar", "segments", "linear"])
def test_a_forecaster_is_the_same_network_either_way(head: Any) -> None:
    config = ForecasterConfig("gru", 8, 1, 0.0, 4, 12, 5, (0.1, 0.5, 0.9), 2, 3, head=head)
    torch.manual_seed(0)
    network = build(config)
    x, future = torch.randn(40, 12, 2), torch.randn(40, 5, 3)
    target, levels = torch.randn(40, 5), torch.tensor(config.quantiles)
    results = []
    for kernel in ("auto", "torch"):
        with using(kernel):  # type: ignore[arg-type]
            y = network(x, x > -1, future)
            loss = forecast_loss("pinball", y, target, target > -1, levels)
            results.append([y.detach(), *torch.autograd.grad(loss, list(network.parameters()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
