"""The recurrent kernels equal torch's modules: in value, in gradient, whatever the shape."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from data.errors import SettingsError
from lstm import kernels
from lstm.kernels import dispatch, memory, native
from lstm.kernels.checks import WrongInput

PAIRS: dict[str, tuple[type[nn.RNNBase], type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (kernels.LSTM, nn.LSTM, {}),
    "gru": (kernels.GRU, nn.GRU, {}),
    "tanh": (kernels.RNN, nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (kernels.RNN, nn.RNN, {"nonlinearity": "relu"}),
}


NATIVE = pytest.mark.skipif(not native.widths(), reason="the native kernel is not built here")
KERNELS = ["reference", pytest.param("native", marks=NATIVE)]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """That many threads of torch's inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def twins(cell: str, *arguments: Any, **options: Any) -> tuple[nn.RNNBase, nn.RNNBase]:
    """Ours and torch's, of the same weights."""
    own, torch_own, extra = PAIRS[cell]
    torch.manual_seed(0)
    ours, theirs = own(*arguments, **options, **extra), torch_own(*arguments, **options, **extra)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def flat(results: Any) -> list[Tensor]:
    """Outputs and final states, in order."""
    y, state = results
    return [y, *(state if isinstance(state, tuple) else (state,))]


def both_ways(module: nn.Module, x: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> list[Tensor]:
    """Results, and gradients by every input and parameter of a weighted sum of all results."""
    inputs = [tensor.clone().requires_grad_() for tensor in (x, *state)]
    hx = None if not state else tuple(inputs[1:]) if isinstance(module, nn.LSTM) else inputs[1]
    results = flat(module(inputs[0], hx))
    loss = sum((r * w).sum() for r, w in zip(results, weights, strict=True))
    gradients = torch.autograd.grad(loss, [*inputs, *module.parameters()])
    return [*results, *gradients]


def is_at_a_kink(module: nn.Module, x: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> bool:
    """True where rounding may turn a unit of relu on or off: its gradient jumps there, for everybody."""
    exact = copy.deepcopy(module).double()
    double = [tensor.double() for tensor in weights]
    plain = both_ways(exact, x.double(), tuple(part.double() for part in state), double)
    for _ in range(4):
        moved = [tensor.double() + 1e-5 * torch.randn(tensor.shape).double() for tensor in (x, *state)]
        for a, b in zip(both_ways(exact, moved[0], tuple(moved[1:]), double), plain, strict=True):
            if (a - b).abs().max() > 1e-3 * max(1.0, float(b.detach().abs().max())):
                return True
    return False


SHAPES = {
    "cell": st.sampled_from(sorted(PAIRS)),
    "batch": st.integers(1, 70),
    "steps": st.integers(1, 40),
    "inputs": st.integers(1, 12),
    "hidden": st.integers(1, 40),
    "layers": st.integers(1, 3),
    "bias": st.booleans(),
    "batch_first": st.booleans(),
    "bidirectional": st.booleans(),
    "has_state": st.booleans(),
    "threads": st.integers(1, 3),
    "seed": st.integers(0, 999),
}


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=40, deadline=None)
@given(**SHAPES)
# One unit of one row within rounding of 0.
@example("relu", 32, 21, 2, 32, 2, True, False, True, True, 1, 1)
def test_values_and_gradients_equal_torchs(
    kernel: Any, cell: str, batch: int, steps: int, inputs: int, hidden: int, layers: int, bias: bool,
    batch_first: bool, bidirectional: bool, has_state: bool, threads: int, seed: int,
) -> None:  # fmt: skip
    ours, theirs = twins(
        cell, inputs, hidden, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional
    )
    torch.manual_seed(seed)
    x = torch.randn((batch, steps, inputs) if batch_first else (steps, batch, inputs))
    count = layers * (2 if bidirectional else 1)
    parts = (2 if cell == "lstm" else 1) if has_state else 0
    state = tuple(torch.randn(count, batch, hidden) for _ in range(parts))
    weights = [torch.randn_like(r) for r in flat(theirs(x))]
    assume(cell != "relu" or not is_at_a_kink(theirs, x, state, weights))
    with kernels.using(kernel), torch_threads(threads):
        seen = both_ways(ours, x, state, weights)
    for a, b in zip(seen, both_ways(theirs, x, state, weights), strict=True):
        # Sums of many terms of either sign: relative to the largest number, or to their own size of about 1.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, float(b.detach().abs().max())))


@pytest.mark.parametrize("cell", sorted(PAIRS))
def test_the_reference_passes_gradcheck_in_double_precision(cell: str) -> None:
    ours, _ = twins(cell, 2, 3, 2, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    with kernels.using("reference"):
        assert torch.autograd.gradcheck(lambda x: tuple(flat(ours(x))), (x,))


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="fastest"), kernels.using("fastest"):  # type: ignore[arg-type]
        pass


@NATIVE
@pytest.mark.parametrize("cell", sorted(PAIRS))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_goes_through_as_in_torch(cell: str, value: float) -> None:
    """In the row and from the step where it stands, forward; in everything it touches, backward."""
    ours, theirs = twins(cell, 3, 7, batch_first=True)
    x = torch.randn(9, 6, 3)
    x[4, 2, 1] = value
    weights = [torch.randn_like(r) for r in flat(theirs(x))]
    with kernels.using("native"):
        seen = both_ways(ours, x, (), weights)
    for a, b in zip(seen, both_ways(theirs, x, (), weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


@NATIVE
@pytest.mark.parametrize("cell", sorted(PAIRS))
def test_inputs_and_gradients_need_not_be_contiguous(cell: str) -> None:
    ours, theirs = twins(cell, 3, 5, batch_first=True)
    x = torch.randn(6, 3, 2 * 8)[:, :, ::2].transpose(1, 2)
    for module in (ours, theirs):
        y, _ = module(x)
        with kernels.using("native" if module is ours else "torch"):
            y, _ = module(x)
            y[:, ::2].transpose(0, 2).sum(0).square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5)


@NATIVE
@pytest.mark.parametrize("cell", sorted(PAIRS))
def test_the_last_state_alone(cell: str) -> None:
    ours, theirs = twins(cell, 3, 5, 2)
    x = torch.randn(7, 6, 3)
    expected = theirs(x)[0][-1]
    for kernel in ("native", "torch", "reference"):
        with kernels.using(kernel):  # type: ignore[arg-type]
            torch.testing.assert_close(ours.last(x), expected)  # type: ignore[operator]
            torch.testing.assert_close(ours.last(x[:, 2]), expected[2])  # type: ignore[operator]


@NATIVE
def test_what_is_not_asked_for_is_not_computed() -> None:
    """Frozen weights, an input without gradient, no gradients at all."""
    ours, theirs = twins("lstm", 3, 5, 2, batch_first=True)
    x = torch.randn(6, 4, 3)
    with kernels.using("native"):
        with torch.no_grad():
            assert ours(x)[0].grad_fn is None
        ours.requires_grad_(False)
        assert ours(x)[0].grad_fn is None
        ours.weight_hh_l1.requires_grad_()
        ours(x)[0].square().sum().backward()
    theirs(x)[0].square().sum().backward()
    torch.testing.assert_close(ours.weight_hh_l1.grad, theirs.weight_hh_l1.grad, rtol=1e-5, atol=1e-5)


@NATIVE
def test_dropout_between_layers_drops_and_only_in_training() -> None:
    ours, theirs = twins("gru", 3, 5, 3, batch_first=True, dropout=1.0)
    x = torch.randn(6, 4, 3)
    with kernels.using("native"):
        torch.testing.assert_close(ours(x)[0], theirs(x)[0])
        torch.testing.assert_close(ours.eval()(x)[0], theirs.eval()(x)[0])


@NATIVE
def test_a_compiled_and_an_exported_graph_hold_the_operator() -> None:
    ours, theirs = twins("lstm", 3, 32, batch_first=True)
    x = torch.randn(64, 50, 3)
    with kernels.using("native"), torch._dynamo.config.patch(allow_rnn=True):  # type: ignore[attr-defined]
        compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
        compiled(x)[0].square().sum().backward()
        exported = torch.export.export(ours, (x,))
    theirs(x)[0].square().sum().backward()
    torch.testing.assert_close(ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad, rtol=1e-5, atol=1e-5)
    assert "nightcast.recurrent" in str(exported.graph)
    torch.testing.assert_close(exported.module()(x)[0], theirs(x)[0])


@NATIVE
@pytest.mark.parametrize("cell", ["lstm", "relu"])
def test_the_operator_keeps_torchs_rules(cell: str) -> None:
    """Schema, fake tensors, autograd registration: what `torch.compile` relies on."""
    ours, _ = twins(cell, 3, 8, batch_first=True)
    x, h = torch.randn(16, 5, 3, requires_grad=True), torch.zeros(16, 8)
    c = torch.zeros(16, 8) if cell == "lstm" else None
    torch.library.opcheck(
        torch.ops.nightcast.recurrent.default, (cell, x, h, c, *ours.parameters(), True, True)
    )


BAD = [
    (torch.zeros(3), None, r"shape \(3,\)"),
    (torch.zeros(2, 2, 2, 3), None, r"shape \(2, 2, 2, 3\)"),
    (torch.zeros(2, 4, 5), None, "has 5 inputs, not 3"),
    (torch.zeros(0, 4, 3), None, r"shape \(0, 4, 3\) is empty"),
    (torch.zeros(2, 0, 3), None, r"shape \(2, 0, 3\) is empty"),
    (torch.zeros(2, 4, 3, dtype=torch.float64), None, "float64 on cpu, the weights are torch.float32"),
    (torch.zeros(2, 4, 3, dtype=torch.int64), None, "int64"),
    (torch.zeros(2, 4, 3, device="meta"), None, "on meta"),
    (torch.zeros(2, 4, 3), torch.zeros(1, 2, 5), "not a pair"),
    (torch.zeros(2, 4, 3), (torch.zeros(1, 3, 5), torch.zeros(1, 2, 5)), r"\(1, 3, 5\), not \(1, 2, 5\)"),
    (torch.zeros(2, 4, 3), (torch.zeros(1, 2, 5), torch.zeros(1, 2, 6)), r"\(1, 2, 6\), not \(1, 2, 5\)"),
    (torch.zeros(4, 3), (torch.zeros(1, 1, 5), torch.zeros(1, 1, 5)), r"\(1, 1, 5\), not \(1, 5\)"),
]


@pytest.mark.parametrize("kernel", ["auto", "torch", "reference"])
@pytest.mark.parametrize(("x", "state", "text"), BAD)
def test_what_does_not_fit_is_refused_in_shapes(kernel: Any, x: Tensor, state: Any, text: str) -> None:
    with kernels.using(kernel), pytest.raises(WrongInput, match=text):
        kernels.LSTM(3, 5, batch_first=True)(x, state)


def test_a_state_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(WrongInput, match="list, not a tensor"):
        kernels.GRU(3, 5)(torch.zeros(4, 2, 3), [torch.zeros(1, 2, 5)])


@NATIVE
def test_too_little_memory_is_an_error_that_names_the_shapes() -> None:
    module = kernels.LSTM(1, 2048, batch_first=True)
    x = torch.zeros(1, 1, 1).expand(4096, 100_000, 1)
    with (
        kernels.using("native"),
        pytest.raises(MemoryError, match=r"batch 4096, 100000 steps.*smaller"),
    ):
        module.last(x)


@NATIVE
def test_memory_is_used_again_and_never_while_it_is_in_use() -> None:
    first = memory.take(1_000_000)
    at = first.data_ptr()
    second = memory.take(1_000_000)
    assert second.data_ptr() != at
    view = first[10:20]
    del first
    third = memory.take(1_000_000)
    assert third.data_ptr() != at, "a view still holds it"
    del view
    assert memory.take(900_000).data_ptr() == at


@NATIVE
def test_threads_and_their_number_change_nothing_but_the_last_bits() -> None:
    """The same number of threads gives the same bits."""
    ours, _ = twins("lstm", 5, 33, batch_first=True)
    x = torch.randn(70, 40, 5)

    def gradient(threads: int) -> Tensor:
        ours.zero_grad()
        with kernels.using("native"), torch_threads(threads):
            ours(x)[0].square().sum().backward()
        assert ours.weight_hh_l0.grad is not None
        return ours.weight_hh_l0.grad.clone()

    assert torch.equal(gradient(2), gradient(2))
    torch.testing.assert_close(gradient(1), gradient(3), rtol=1e-5, atol=1e-4)


def test_fewer_threads_than_one_are_refused() -> None:
    with pytest.raises(ValueError, match="0 threads"):
        kernels.set_threads(0)
    assert not native.has_own_threads()


@pytest.mark.parametrize(
    ("batch", "threads", "plan"),
    [
        (16, 1, (16, 1)),
        (64, 1, (16, 2)),
        (32, 2, (16, 1)),
        (16, 2, (8, 1)),
        # Vectors of 2 and 1 are done sooner than of 1 and 1 + 1; of 2 + 2 and 2 later than of three each.
        (40, 2, (16, 2)),
        (96, 2, (16, 1)),
        (256, 2, (16, 2)),
    ],
)
def test_rows_walk_in_twos_unless_a_thread_would_wait(
    monkeypatch: pytest.MonkeyPatch, batch: int, threads: int, plan: tuple[int, int]
) -> None:
    monkeypatch.setattr(native, "_widths", (16, 8))
    assert native.plan(batch, threads) == plan


@NATIVE
def test_threads_may_change_between_forward_and_backward() -> None:
    ours, theirs = twins("lstm", 5, 33, batch_first=True)
    x = torch.randn(70, 40, 5)
    with kernels.using("native"), torch_threads(3):
        loss = ours(x)[0].square().sum()
    with torch_threads(1):
        loss.backward()
    theirs(x)[0].square().sum().backward()
    torch.testing.assert_close(ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad, rtol=1e-4, atol=1e-4)


@NATIVE
def test_beside_several_threads_of_torchs_the_native_kernel_takes_long_batches_and_small_layers() -> None:
    module, small = (kernels.LSTM(1, size, batch_first=True) for size in (17, 16))
    short, long, narrow = torch.zeros(64, 24, 1), torch.zeros(64, 1000, 1), torch.zeros(16, 1000, 1)
    with torch_threads(2):
        assert dispatch.choose(module, short) is None
        assert dispatch.choose(small, short) is native.layer
        assert dispatch.choose(small, short[:2]) is None
        assert dispatch.choose(module, long) is native.layer
        assert dispatch.choose(module, narrow) is native.layer
        with torch.inference_mode():
            assert dispatch.choose(module, long) is native.layer
            assert dispatch.choose(module, narrow) is None
        try:
            kernels.set_threads(2)
            assert dispatch.choose(module, short) is native.layer
        finally:
            kernels.set_threads(None)


@NATIVE
def test_on_one_thread_torch_trains_what_is_shortest() -> None:
    module, short = kernels.LSTM(1, 17, batch_first=True), torch.zeros(64, 24, 1)
    with torch_threads(1):
        assert dispatch.choose(module, short) is native.layer
        assert dispatch.choose(module, short[:2]) is None
        assert dispatch.choose(module, short[:16]) is None
        with torch.inference_mode():
            assert dispatch.choose(module, short[:16]) is native.layer


def test_what_it_cannot_run_is_left_to_torch() -> None:
    x = torch.randn(8, 6, 3)
    packed = nn.utils.rnn.pack_padded_sequence(
        x, torch.tensor([6, 1, 2, 3, 4, 5, 6, 6]), batch_first=True, enforce_sorted=False
    )
    ours, theirs = twins("lstm", 3, 5, batch_first=True)
    torch.testing.assert_close(ours(packed)[0].data, theirs(packed)[0].data)
    with pytest.warns(UserWarning, match="projections"):
        assert kernels.LSTM(3, 5, batch_first=True, proj_size=2)(x)[0].shape == (8, 6, 2)
    assert ours.double()(x.double())[0].dtype is torch.float64


def test_an_environment_variable_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTCAST_KERNEL", "torch")
    assert kernels.describe() == "torch (NIGHTCAST_KERNEL=torch)"
    monkeypatch.setenv("NIGHTCAST_KERNEL", "fast")
    with pytest.raises(SettingsError, match="auto, native or torch"):
        kernels.LSTM(3, 5)(torch.zeros(1, 1, 3))


def test_without_native_code_torch_does_the_work_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "widths", lambda: ())
    monkeypatch.setattr(native, "library", lambda: None)
    dispatch._say_once.cache_clear()
    ours, theirs = twins("lstm", 3, 5, batch_first=True)
    x = torch.randn(8, 6, 3)
    for _ in range(2):
        assert torch.equal(ours(x)[0], theirs(x)[0])
    assert [record.message for record in caplog.records] == [
        "LSTM, GRU and RNN run on torch's own kernels: the native one is not built: no C compiler at the "
        "install, or built for another machine"
    ]
    assert kernels.describe().startswith("torch (not built")
    monkeypatch.setenv("NIGHTCAST_KERNEL", "native")
    with pytest.raises(SettingsError, match="install with a C compiler"):
        ours(x)
