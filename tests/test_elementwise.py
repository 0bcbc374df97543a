"""What stands around a recurrence: native code and torch's formula are one, wherever either runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lstm.kernels import elementwise, library, using
from lstm.models.dropout import Dropout, set_key
from lstm.models.normalise import Normaliser

NATIVE = pytest.mark.skipif(not library.widths(), reason="no native code for this processor")
KINDS = st.sampled_from(["none", "last_value", "instance"])


@NATIVE
@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 300)),
    key=st.integers(-(2**63), 2**63 - 1),
    p=st.floats(0.01, 0.99),
    place=st.integers(0, 4),
    seed=st.integers(0, 99),
)
@example((3, 2, 64), -(2**63), 0.5, 0, 0)
@example((3, 2, 257), 2**63 - 1, 0.5, 4, 0)
def test_dropped_units_and_their_gradients_are_torchs_bit_for_bit(
    shape: tuple[int, ...], key: int, p: float, place: int, seed: int
) -> None:
    drop = Dropout(p, place).train()
    set_key(drop, torch.tensor(key))
    torch.manual_seed(seed)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(shape)
    x.data.view(-1)[:3] = torch.tensor([float("nan"), float("inf"), -0.0])[: x.numel()]
    seen = []
    for kernel in ("auto", "torch"):
        with using(kernel):  # type: ignore[arg-type]
            y = drop(x)
            seen.append((y.detach(), *torch.autograd.grad((y * weight).sum(), x)))
    for ours, torchs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=0, atol=0, equal_nan=True)


@NATIVE
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 5), st.integers(1, 40), st.integers(1, 70)),
    count=st.integers(1, 70),
    known=st.integers(0, 3),
    kind=KINDS,
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_windows_are_normalised_as_by_torch(
    sizes: tuple[int, int, int], count: int, known: int, kind: Any, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(sizes) * scale + torch.randn(sizes[2])
    x[:, :, ::3] = x[:, :1, ::3]  # without variation
    x[1:2, -1:, :1] = float("nan")
    observed = torch.rand(sizes) < 0.7
    arguments = x, observed, torch.randn(*sizes[:2], known) if known else None, min(count, sizes[2])
    ours = Normaliser(kind)(*arguments)
    with using("torch"):
        torchs = Normaliser(kind)(*arguments)
    # Rounding of the numbers before their location is off is rounding of what is divided by the scale.
    for read, _, divisor in (ours, torchs):
        read[..., : arguments[3]] *= divisor.clamp_min(1e-4)
    rounding = 1e-6 * float(x.nan_to_num().abs().max()) if x.numel() else 0.0
    for one, other in zip(ours, torchs, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-5, atol=rounding, equal_nan=True)


@NATIVE
def test_a_long_window_far_from_zero_loses_nothing() -> None:
    x = torch.randn(3, 10_000, 2) + 1_000
    _, location, spread = Normaliser("instance")(x, torch.ones_like(x, dtype=torch.bool), None, 2)
    torch.testing.assert_close(location[:, 0].double(), x.double().mean(1), rtol=1e-7, atol=0)
    torch.testing.assert_close(spread[:, 0].double(), x.double().std(1, correction=0), rtol=1e-5, atol=0)


@NATIVE
def test_what_does_not_lie_in_one_piece_is_read_all_the_same() -> None:
    x = torch.randn(4, 3, 10).transpose(1, 2)
    observed, known = x > 0, torch.randn(2, 4, 10)[0, :, :, None].expand(4, 10, 3)
    drop = Dropout(0.5, 0).train()
    ours = drop(x), *Normaliser("instance")(x, observed, known, 2)
    with using("torch"):
        torchs = drop(x), *Normaliser("instance")(x, observed, known, 2)
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_what_does_not_go_together_is_refused_or_left_to_what_reads_it(kernel: Any) -> None:
    x, known = torch.randn(2, 4, 2), torch.randn(2, 4, 1)
    observed = x > 0
    with using(kernel):
        for wrong in (known[:, :2], known[:1]):
            with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
                Normaliser("instance")(x, observed, wrong, 2)
        # Of columns that are not there nothing is made up.
        assert Normaliser("last_value")(x, observed, known, 3)[0].shape == (2, 4, 5)
        assert Normaliser("none")(x, observed[..., :1], known, 2)[0].shape == (2, 4, 4)


@pytest.mark.parametrize("kind", ["instance", "last_value", "none"])
def test_under_autocast_windows_are_written_in_its_type(kind: Any) -> None:
    x, known = torch.randn(4, 6, 2), torch.randn(4, 6, 1)
    normalise = Normaliser(kind)
    with using("torch"):
        whole, *taken = normalise(x, x > 0, known, 2)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, *others = normalise(x, x > 0, known, 2)
    assert torch.equal(rounded, whole.to(torch.bfloat16))
    assert all(torch.equal(one, other) for one, other in zip(taken, others, strict=True))


def test_numbers_may_stand_for_what_was_observed() -> None:
    x = torch.randn(4, 6, 2)
    observed = torch.rand(4, 6, 2) < 0.5
    for one, other in zip(
        Normaliser("instance")(x, observed, None, 2),
        Normaliser("instance")(x, observed.float(), None, 2),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_a_gradient_reaches_what_asks_for_one() -> None:
    x, known = torch.randn(2, 5, 2, requires_grad=True), torch.randn(2, 5, 1, requires_grad=True)
    read, location, _ = Normaliser("instance")(x, torch.ones(2, 5, 2, dtype=torch.bool), known, 2)
    by_x, by_known = torch.autograd.grad(
        (read[..., 0].square() * read[..., 4]).sum() + location.sum(), [x, known]
    )
    assert by_x.abs().sum() > 0
    assert by_known.abs().sum() > 0


@NATIVE
def test_native_code_reads_plain_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4, 3)
    assert elementwise.fits(x, torch.nn.Parameter(x))
    assert not elementwise.fits(x, torch.empty(1, device="meta"))
    wrapped = []
    torch.vmap(lambda row: wrapped.append(elementwise.fits(row)) or row)(x)
    torch.func.grad(lambda row: (wrapped.append(elementwise.fits(row)), row.sum())[1])(x)
    assert wrapped == [False, False]
    with using("torch"):
        assert not elementwise.fits(x)
    monkeypatch.setenv("NIGHTCAST_KERNEL", "torch")
    assert not elementwise.fits(x)


def test_a_graph_has_torchs_formula() -> None:
    drop, normalise = Dropout(0.5, 0).train(), Normaliser("instance")
    set_key(drop, torch.tensor(7))

    def both(x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        return drop(x), normalise(x, observed, None, 2)[0]

    x = torch.randn(3, 5, 2)
    graph = torch.compile(both, backend="eager", fullgraph=True)
    for one, other in zip(graph(x, x > 0), both(x, x > 0), strict=True):
        torch.testing.assert_close(one, other)
