"""The persistent kernel equals the reference, by Triton's interpreter on the CPU and on a CUDA device."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from recurrent_twins import PAIRS, both_ways, flat, is_at_a_kink, twins
from torch import Tensor
from torch._subclasses import FakeTensorMode

from data.errors import SettingsError
from lstm import kernels
from lstm.kernels import dispatch, measured, persistent
from lstm.kernels.persistent import GATES, ROWS, KernelUnavailable, shared_bytes, units, warps

TRITON = pytest.mark.skipif(not persistent.is_installed(), reason="needs Triton 3.5 or newer")
INTERPRETER = pytest.mark.skipif(
    find_spec("triton") is None or version("triton") < "3.7",
    reason="older Triton does not interpret with NumPy 2.4",
)
MOST_SHARED = 232_448
"""Bytes of shared memory that an H100 gives a block."""

Interpreted = Callable[..., Any]


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Interpreted]:
    """Calls functions in a process whose Triton interprets: it reads the variable when it is imported."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(len, ()).result()
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def assert_alike(seen: list[Tensor], expected: list[Tensor], equal_nan: bool = False) -> None:
    """To 1e-5 of the largest number, or of 1."""
    for a, b in zip(seen, expected, strict=True):
        most = float(b.detach().nan_to_num(0, 0, 0).abs().max())
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, most), equal_nan=equal_nan)


def compare(
    cell: str, batch: int, steps: int, inputs: int, hidden: int, layers: int, bias: bool, batch_first: bool,
    bidirectional: bool, has_state: bool, seed: int, device: str = "cpu",
) -> bool:  # fmt: skip
    """That values and gradients equal the reference's; False where relu has no one gradient."""
    ours, _ = twins(
        cell, inputs, hidden, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional
    )
    torch.manual_seed(seed)
    x = torch.randn((batch, steps, inputs) if batch_first else (steps, batch, inputs))
    parts = (2 if cell == "lstm" else 1) if has_state else 0
    state = tuple(torch.randn(layers * (1 + bidirectional), batch, hidden) for _ in range(parts))
    weights = [torch.randn_like(r) for r in flat(ours(x))]
    if cell == "relu" and is_at_a_kink(ours, x, state, weights):
        return False
    ours.to(device)
    moved = x.to(device), tuple(part.to(device) for part in state), [weight.to(device) for weight in weights]
    with kernels.using("persistent"):
        seen = both_ways(ours, *moved)
    with kernels.using("reference"):
        assert_alike(seen, both_ways(ours, *moved))
    return True


@INTERPRETER
@settings(max_examples=20, deadline=None)
@given(
    cell=st.sampled_from(sorted(PAIRS)),
    batch=st.integers(1, 9),
    steps=st.integers(1, 5),
    inputs=st.integers(1, 4),
    hidden=st.integers(1, 20),
    layers=st.integers(1, 2),
    bias=st.booleans(),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    has_state=st.booleans(),
    seed=st.integers(0, 99),
)
@example("lstm", 1, 1, 1, 1, 1, True, True, False, True, 0)
@example("gru", 1, 1, 1, 1, 1, True, True, False, True, 0)
@example("tanh", 1, 1, 1, 1, 1, False, True, False, False, 0)
@example("relu", 1, 1, 1, 1, 1, True, True, False, True, 0)
@example("lstm", 5, 3, 2, 64, 1, True, True, False, True, 0)
@example("gru", 4, 3, 2, 50, 1, True, True, False, True, 0)
def test_values_and_gradients_equal_the_references(
    interpreted: Interpreted, cell: str, batch: int, steps: int, inputs: int, hidden: int, layers: int,
    bias: bool, batch_first: bool, bidirectional: bool, has_state: bool, seed: int,
) -> None:  # fmt: skip
    shape = batch, steps, inputs, hidden, layers
    assume(interpreted(compare, cell, *shape, bias, batch_first, bidirectional, has_state, seed))


@pytest.mark.gpu
@TRITON
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cell", sorted(PAIRS))
@pytest.mark.parametrize("hidden", [1, 16, 32, 50, 64, 128])
@pytest.mark.parametrize("batch", [1, 257, 1024])
def test_a_cuda_device_computes_the_same(cell: str, hidden: int, batch: int) -> None:
    if cell == "lstm" and hidden == 128:
        pytest.skip("more shared memory than a block has")
    # Of many sums that relu takes, one is always so near 0 that its gradient is a matter of rounding.
    batch, steps = (min(batch, 5), 3) if cell == "relu" else (batch, 20)
    assert any(
        compare(cell, batch, steps, 3, hidden, 2, True, True, True, True, seed, "cuda") for seed in range(20)
    )


def use_one_result(cell: str) -> None:
    """Gradients by one of the results alone, whatever the others are for."""
    ours, _ = twins(cell, 3, 5, batch_first=True)
    x = torch.randn(6, 4, 3)

    def gradients(kernel: Any, number: int) -> list[Tensor]:
        with kernels.using(kernel):
            result = flat(ours(x))[number] if number >= 0 else ours.last(x)
        return list(torch.autograd.grad(result.square().sum(), list(ours.parameters())))

    for number in range(-1, 3 if cell == "lstm" else 2):
        assert_alike(gradients("persistent", number), gradients("reference", number))


def use_views(cell: str) -> None:
    """Inputs, states and gradients that do not lie in one piece."""
    ours, _ = twins(cell, 3, 5, batch_first=True)
    x = torch.randn(6, 3, 2 * 8)[:, :, ::2].transpose(1, 2)
    states = torch.randn(1, 1, 5, 2).expand(1, 6, 5, 2)
    hx = (states[..., 0], states[..., 1]) if cell == "lstm" else states[..., 0]
    gradients = []
    for kernel in ("persistent", "reference"):
        with kernels.using(kernel):  # type: ignore[arg-type]
            loss = ours(x, hx)[0][:, ::2].transpose(0, 2).sum(0).square().sum()
        gradients.append(list(torch.autograd.grad(loss, list(ours.parameters()))))
    assert_alike(*gradients)


def use_what_is_not_finite(cell: str) -> None:
    """It stands in its row from its step on, forward; in everything that it touches, backward."""
    for value in (float("nan"), float("inf"), -float("inf")):
        ours, _ = twins(cell, 3, 7, batch_first=True)
        for parameter in ours.parameters():
            parameter.data.abs_()  # an infinity stays one: no other sign makes it no number
        x = torch.randn(9, 6, 3)
        x[4, 2, 1] = value
        weights = [torch.randn_like(r) for r in flat(ours(x))]
        with kernels.using("persistent"):
            seen = both_ways(ours, x, (), weights)
        with kernels.using("reference"):
            expected = both_ways(ours, x, (), weights)
        assert_alike(seen, expected, equal_nan=True)


def use_no_gradients(cell: str) -> None:
    """No graph without a need for one; frozen weights get none."""
    ours, _ = twins(cell, 3, 5, batch_first=True)
    x = torch.randn(6, 4, 3)
    with kernels.using("reference"):
        expected = flat(ours(x))
    with kernels.using("persistent"):
        with torch.no_grad():
            assert_alike(flat(ours(x)), expected)
            assert_alike([ours.last(x)], [expected[1][0]])
        with torch.inference_mode():
            assert_alike(flat(ours(x)), expected)
        ours.requires_grad_(False)
        assert ours(x)[0].grad_fn is None
        ours.bias_ih_l0.requires_grad_()
        ours(x)[0].square().sum().backward()
    assert ours.bias_ih_l0.grad is not None
    assert ours.weight_hh_l0.grad is None


@INTERPRETER
@pytest.mark.parametrize("cell", sorted(PAIRS))
@pytest.mark.parametrize("use", [use_one_result, use_views, use_what_is_not_finite, use_no_gradients])
def test_it_is_used_as_any_other(interpreted: Interpreted, cell: str, use: Callable[[str], None]) -> None:
    interpreted(use, cell)


def refusal(cell: str, hidden: int) -> str:
    """What it says to a layer of this size."""
    with kernels.using("persistent"), pytest.raises(KernelUnavailable) as caught:
        twins(cell, 1, hidden, batch_first=True)[0](torch.zeros(1, 1, 1))
    return str(caught.value)


@INTERPRETER
@pytest.mark.parametrize(("cell", "hidden"), [("lstm", 65), ("gru", 129), ("tanh", 129), ("relu", 129)])
def test_weights_that_do_not_fit_on_chip_are_refused(
    interpreted: Interpreted, cell: str, hidden: int
) -> None:
    assert shared_bytes(cell, hidden - 1) <= MOST_SHARED < shared_bytes(cell, hidden)
    text = interpreted(refusal, cell, hidden)
    assert f"{cell} of hidden size {hidden} on cpu: needs {shared_bytes(cell, hidden) // 1024} KiB" in text
    assert "a block has 227. Remedy: a smaller hidden size" in text


@TRITON
def test_a_cpu_whose_triton_compiles_is_refused() -> None:
    assert "Remedy: move module and input there, or" in refusal("lstm", 5)


def test_without_triton_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistent, "find_spec", lambda name: None)
    assert "no Triton 3.5 or newer. Remedy: pip install triton" in refusal("gru", 5)


@TRITON
def test_a_triton_that_is_too_old_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert persistent.is_installed()
    monkeypatch.setattr("triton.__version__", "3.4.1")
    assert "no Triton 3.5 or newer" in refusal("gru", 5)


@TRITON
def test_float32_alone_is_taken() -> None:
    x, module = torch.zeros(1, 1, 1), kernels.LSTM(1, 5)
    with kernels.using("persistent"):
        with pytest.raises(KernelUnavailable, match="float64"):
            module.double()(x.double())
        with pytest.raises(KernelUnavailable, match="autocast"), torch.autocast("cpu"):
            module.float()(x)


def test_it_is_not_for_the_environment_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTCAST_KERNEL", "persistent")
    with pytest.raises(SettingsError, match="unknown kernel"):
        kernels.LSTM(3, 5)(torch.zeros(1, 1, 3))


def test_auto_takes_it_on_a_chip_where_it_was_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = kernels.LSTM(3, 50, batch_first=True)
    with FakeTensorMode():
        large, small, short, long = (
            torch.empty(batch, steps, 3, device="cuda")
            for batch, steps in ((256, 168), (255, 168), (256, 24), (64, 1_000))
        )
    monkeypatch.setattr(persistent, "is_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A chip")
    faster = {("LSTM", 64, 1, True): ((64, 1_000), (256, 168)), ("GRU", 64, 1, False): ((256, 168),)}
    monkeypatch.setattr(measured, "FASTER_THAN_CUDNN", faster)
    assert dispatch.choose(module, large) is None
    monkeypatch.setattr(measured, "CHIPS", ("A chip",))
    assert dispatch.choose(module, large) is dispatch.choose(module, long) is persistent.layer
    assert dispatch.choose(module, small) is None
    assert dispatch.choose(module, short) is None
    other = kernels.GRU(3, 50, batch_first=True)
    assert dispatch.choose(other, large) is None
    for options in ({"hidden_size": 16}, {"num_layers": 2}, {"bidirectional": True}):
        shape = {"hidden_size": 50, **options}
        assert dispatch.choose(kernels.LSTM(3, **shape, batch_first=True), large) is None
    with torch.no_grad():
        assert dispatch.choose(module, large) is None
        assert dispatch.choose(other, large) is persistent.layer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        assert dispatch.choose(module, large) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTCAST_KERNEL", "torch")
        assert dispatch.choose(module, large) is None
    monkeypatch.setattr(persistent, "is_installed", lambda: False)
    assert dispatch.choose(module, large) is None


@TRITON
@pytest.mark.slow
@pytest.mark.parametrize(("cell", "hidden"), [("lstm", 1), ("lstm", 64), ("gru", 128), ("relu", 128)])
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_a_compiler_for_an_h100_needs_the_shared_memory_reckoned_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cell: str, hidden: int, way: str
) -> None:
    """It needs no GPU. A stack or local memory would lie off the chip."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lstm.kernels import persistent_kernels

    kernel = getattr(persistent_kernels, f"{'rnn' if cell == 'relu' else cell}_{way}")
    flags = {"SEQUENCE": True, "SAVE": True, "RELU": True, "ROWS": ROWS, "UNITS": units(hidden)}
    constants = {name: flags[name] for name in kernel.arg_names if name in flags}
    if hidden == 1:  # Triton makes every 1 a constant
        constants |= {"batch": 1, "steps": 1, "hidden": 1}
    sizes = dict.fromkeys(("batch", "steps", "hidden"), "i32")
    signature = {
        name: "constexpr" if name in constants else sizes.get(name, "*fp32") for name in kernel.arg_names
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, constants),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": warps(hidden), "num_stages": 1},
    )
    reckoned = shared_bytes(cell, hidden)
    tiles = (GATES[cell] - 1) * ROWS * units(hidden) * 4
    assert compiled.metadata.shared == reckoned - (tiles if way == "forward" else 0)
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    assert (found["STACK"], found["LOCAL"]) == (0, 0)
    assert found["REG"] * 32 * warps(hidden) <= 65_536
