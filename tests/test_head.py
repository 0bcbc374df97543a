"""The calendar head in native code: torch's numbers and gradients, wherever it runs."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lstm.kernels import head, library, memory, native, using
from lstm.models.dropout import set_key
from lstm.models.heads import CalendarHead

pytestmark = pytest.mark.skipif(not library.widths(), reason="no native code for this processor")


def made(hidden: int, steps: int, features: int, dropout: float, outputs: int) -> CalendarHead:
    """A head with weights large enough that its activations bend."""
    network = CalendarHead(hidden, steps, features, dropout, outputs)
    for parameter in network.parameters():
        parameter.data *= 2
    set_key(network, torch.tensor(-77))
    return network


def answers(network: CalendarHead, h_BK: Tensor, future_BHF: Tensor, weight_BHQ: Tensor) -> list[Tensor]:
    """Outputs, and the gradients by all there is."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (h_BK, future_BHF)]
    out_BHQ = network(*inputs)
    loss = (out_BHQ * weight_BHQ).sum()
    return [out_BHQ.detach(), *torch.autograd.grad(loss, [*inputs, *network.parameters()])]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(
        st.integers(1, 80), st.integers(1, 20), st.integers(1, 40), st.integers(1, 20), st.integers(1, 9)
    ),
    dropout=st.sampled_from([0.0, 0.1, 0.5]),
    is_training=st.booleans(),
    width=st.sampled_from(library.widths()) if library.widths() else st.nothing(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@example((1, 1, 1, 1, 1), 0.0, True, max(library.widths(), default=0), 1, 0)
@example((300, 9, 33, 3, 5), 0.1, True, max(library.widths(), default=0), 2, 0)
def test_outputs_and_gradients_are_torchs(
    sizes: tuple[int, ...], dropout: float, is_training: bool, width: int, threads: int, seed: int
) -> None:
    batch, steps, hidden, features, outputs = sizes
    torch.manual_seed(seed)
    network = made(hidden, steps, features, dropout, outputs).train(is_training)
    given_ = (
        torch.randn(batch, hidden),
        torch.randn(batch, steps, features),
        torch.randn(batch, steps, outputs),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_widths", (width,))
        patch.setattr(native, "_threads", threads)
        patch.setattr(native, "_WORTH_A_THREAD", 0)
        with using("native"):
            ours = answers(network, *given_)
    exact = answers(network.double(), *(tensor.double() for tensor in given_))
    for one, other in zip(ours, exact, strict=True):
        assert one.shape == other.shape
        scale = float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5 * max(scale, 1.0))


def seen_by(call: Any, *arguments: Any) -> tuple[Any, int]:
    """What a call returns, and how often it came to native heads."""
    count, original = 0, head.calendar_head

    def counted(*given: Any) -> Tensor:
        nonlocal count
        count += 1
        return original(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "calendar_head", counted)
        return call(*arguments), count


def test_it_runs_where_it_is_faster_and_fits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made(8, 3, 2, 0.0, 5)
    h_BK, future_BHF = torch.randn(4, 8), torch.randn(4, 3, 2)
    assert seen_by(network, h_BK, future_BHF)[1] == 1
    wide = made(256, 3, 2, 0.0, 5)
    for threads, rows, count in ((2, 31, 0), (2, 32, 1), (1, 31, 1)):
        monkeypatch.setattr(native, "_threads", threads)
        assert seen_by(wide, torch.randn(rows, 256), torch.randn(rows, 3, 2))[1] == count
    with using("torch"):
        assert seen_by(network, h_BK, future_BHF)[1] == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert seen_by(network, h_BK, future_BHF)[1] == 0
    assert seen_by(torch.compile(network, backend="eager", fullgraph=True), h_BK, future_BHF)[1] == 0
    assert seen_by(torch.vmap(network), h_BK[None], future_BHF[None])[1] == 0
    assert seen_by(network.double(), h_BK.double(), future_BHF.double())[1] == 0


def test_all_ways_agree() -> None:
    network = made(8, 3, 2, 0.0, 5)
    h_BK, future_BHF = torch.randn(4, 8), torch.randn(4, 3, 2)
    ours = network(h_BK, future_BHF)
    for other in (torch.compile(network, backend="eager", fullgraph=True), torch.vmap(network, (0, 0))):
        is_vmap = not isinstance(other, torch.nn.Module)
        y = other(h_BK[:, None], future_BHF[:, None])[:, 0] if is_vmap else other(h_BK, future_BHF)
        torch.testing.assert_close(ours, y)


@pytest.mark.parametrize("wrong", [(4, 7, 4, 3, 2), (4, 8, 5, 3, 2), (4, 8, 4, 2, 2), (4, 8, 4, 3, 1)])
def test_what_does_not_go_together_is_refused_by_shape(wrong: tuple[int, ...]) -> None:
    batch, hidden, others, steps, features = wrong
    with pytest.raises(RuntimeError, match=r"shape|size|must match"):
        made(8, 3, 2, 0.0, 5)(torch.randn(batch, hidden), torch.randn(others, steps, features))


def test_an_empty_batch_is_empty() -> None:
    assert made(8, 3, 2, 0.0, 5)(torch.randn(0, 8), torch.randn(0, 3, 2)).shape == (0, 3, 5)


@pytest.mark.parametrize("kind", ["turned", "spread", "part"])
def test_what_does_not_lie_in_one_piece_is_read_all_the_same(kind: str) -> None:
    network = made(8, 6, 4, 0.3, 5)
    # No weight of them lies as it would by itself.
    for parameter in network.parameters():
        if parameter.dim() == 2:
            parameter.data = parameter.data.T.contiguous().T
    future_BHF = {
        "turned": torch.randn(33, 4, 6).transpose(1, 2),
        "spread": torch.randn(1, 6, 4).expand(33, 6, 4),
        "part": torch.randn(33, 9, 12)[:, 2:8, 4:8],
    }[kind]
    memory_BK = torch.randn(8, 33).T.requires_grad_()
    weight_BHQ = torch.randn(5, 6, 33).permute(2, 1, 0)
    results = []
    for kernel in ("native", "torch"):
        with using(kernel):  # type: ignore[arg-type]
            out_BHQ = network(memory_BK, future_BHF)
            by = [memory_BK, *network.parameters()]
            results.append([out_BHQ, *torch.autograd.grad((out_BHQ * weight_BHQ).sum(), by)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_weights_of_other_shapes_are_torchs() -> None:
    network = made(8, 3, 2, 0.0, 5)
    network.mix, network.out = torch.nn.Linear(8, 16), torch.nn.Linear(16, 5)
    y, count = seen_by(network, torch.randn(4, 8), torch.randn(4, 3, 2))
    assert (tuple(y.shape), count) == ((4, 3, 5), 0)


def test_what_is_frozen_has_no_gradient() -> None:
    network = made(8, 3, 2, 0.0, 5).requires_grad_(False)
    h_BK, future_BHF = torch.randn(4, 8), torch.randn(4, 3, 2)
    assert not network(h_BK, future_BHF).requires_grad
    network.place_HK.requires_grad_()
    network(h_BK, future_BHF).sum().backward()
    assert network.place_HK.grad is not None
    assert network.mix.weight.grad is None
    with torch.no_grad():
        assert not network(h_BK, future_BHF).requires_grad


def test_weights_that_changed_before_backward_are_noticed() -> None:
    network = made(8, 3, 2, 0.0, 5)
    loss = network(torch.randn(4, 8), torch.randn(4, 3, 2)).sum()
    with torch.no_grad():
        network.mix.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_gradient_has_none_of_its_own() -> None:
    network = made(8, 3, 2, 0.0, 5)
    loss = network(torch.randn(4, 8), torch.randn(4, 3, 2)).square().sum()
    (by_weight,) = torch.autograd.grad(loss, network.mix.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by_weight.sum().backward()


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little there is to do."""
    monkeypatch.setattr(native, "_threads", 2)
    monkeypatch.setattr(native, "_WORTH_A_THREAD", 0)


@pytest.mark.usefixtures("two_threads")
def test_other_threads_meanwhile_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Python's, which call it at the same time; and another number of ours before its backward pass."""
    network = made(16, 24, 4, 0.2, 5)
    given_ = torch.randn(100, 16), torch.randn(100, 24, 4), torch.randn(100, 24, 5)
    expected = answers(network, *given_)
    with ThreadPoolExecutor(4) as pool:
        for seen in pool.map(lambda _: answers(network, *given_), range(12)):
            assert all(torch.equal(one, other) for one, other in zip(expected, seen, strict=True))
    out_BHQ = network(*given_[:2])
    monkeypatch.setattr(native, "_threads", 1)
    by_weight = torch.autograd.grad((out_BHQ * given_[2]).sum(), list(network.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(expected[3:], by_weight, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_goes_where_torch_lets_it_go(value: float) -> None:
    network = made(8, 3, 2, 0.0, 5)
    h_BK, future_BHF, weight_BHQ = torch.randn(40, 8), torch.randn(40, 3, 2), torch.randn(40, 3, 5)
    future_BHF[1, 2, 0] = value
    ours = answers(network, h_BK, future_BHF, weight_BHQ)
    with using("torch"):
        torchs = answers(network, h_BK, future_BHF, weight_BHQ)
    for one, other in zip(ours, torchs, strict=True):
        assert torch.equal(one.isfinite(), other.isfinite())


def test_gelu_is_as_exact_as_torchs_everywhere() -> None:
    x_HK = torch.cat([torch.linspace(-12, 12, 9_999), torch.tensor([-90.0, -30, -0.0, 30, 90, 1e30])])[
        :, None
    ]
    network = CalendarHead(1, len(x_HK), 1, 0.0, 1)
    network.load_state_dict(
        {
            "memory.weight": torch.zeros(1, 1),
            "memory.bias": torch.zeros(1),
            "calendar.weight": torch.zeros(1, 1),
            "place_HK": x_HK,
            "mix.weight": torch.ones(1, 1),
            # Beyond 12 gelu is the identity, so that the second activation shows the first.
            "mix.bias": torch.tensor([20.0]),
            "out.weight": torch.ones(1, 1),
            "out.bias": torch.tensor([-20.0]),
        }
    )
    seen, exact = [], torch.nn.functional.gelu(x_HK.double())
    for kernel in ("native", "torch"):
        with using(kernel):  # type: ignore[arg-type]
            y_HK = network(torch.zeros(1, 1), torch.zeros(1, len(x_HK), 1))[0]
            by_x_HK = torch.autograd.grad(y_HK.sum(), network.place_HK)[0]
        seen.append((y_HK, by_x_HK))
    (ours, our_slope), (torchs, torch_slope) = seen
    # Adding 20 and taking it off again rounds to 2e-6.
    torch.testing.assert_close(ours.double(), exact, rtol=3e-7, atol=4e-6)
    torch.testing.assert_close(ours, torchs, rtol=3e-7, atol=4e-6)
    torch.testing.assert_close(our_slope, torch_slope, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("two_threads")
def test_the_same_call_gives_the_same_bits_with_several_threads() -> None:
    network = made(16, 24, 4, 0.2, 5)
    given_ = torch.randn(200, 16), torch.randn(200, 24, 4), torch.randn(200, 24, 5)
    first = answers(network, *given_)
    for _ in range(5):
        assert all(
            torch.equal(one, other) for one, other in zip(first, answers(network, *given_), strict=True)
        )


def test_too_little_memory_names_the_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(floats: int) -> Tensor:
        raise MemoryError(f"{4 * floats / 1e9:.1f} GB wanted")

    monkeypatch.setattr(memory, "take", none)
    with pytest.raises(MemoryError, match=r"head of batch 40, 3 steps, hidden size 8: .* smaller batches"):
        made(8, 3, 2, 0.0, 5)(torch.randn(40, 8), torch.randn(40, 3, 2))
