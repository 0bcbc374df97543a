"""The native code under sanitizers, and built for another processor: right numbers, no bad access or race."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lstm.kernels import library, native, using
from lstm.models.dropout import _FIRST as FIRST
from lstm.models.dropout import Dropout, Place, set_key
from lstm.models.heads import CalendarHead, rising
from lstm.models.normalise import Normaliser
from lstm.training.loss import forecast_loss

CPU = Path(native.__file__).with_name("cpu")
HARNESS = Path(__file__).with_name("kernel_harness.c")
FLAGS = ["-std=gnu11", "-pthread", "-Wall", "-Wextra", "-Werror"]
SANITIZED = ["-g", "-DINLINE=static inline TARGET", "-DCHECKED", "-DSTREAMED=100000"]
"""Every line is compiled once, not once for each size that it is inlined with: a tenth of the time. What is
moved by instructions that a sanitizer does not see is seen beside them. Some of the cases keep so much that
it goes past the caches."""
CELLS = ("lstm", "gru", "tanh", "relu")
EMULATED_AMX = Path(__file__).with_name("emulated_amx.h")

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A layer's sizes, or with a negative cell those of a calendar head of so many outputs.

    Lanes, vectors and threads are as native.h has them.
    """

    cell: int
    batch: int
    steps: int
    inputs: int
    hidden: int
    lanes: int
    vectors: int
    threads: int


def drawn(seed: int, cells: range, most: tuple[int, ...], lanes: tuple[int, ...], count: int) -> list[Case]:
    """Random cells and sizes; `most` has those of batch, steps, inputs and hidden."""
    random = np.random.default_rng(seed)
    return [
        Case(
            int(random.integers(cells.start, cells.stop)),
            *(int(random.integers(1, largest)) for largest in most),
            int(random.choice(lanes)),
            int(random.integers(1, 3)),
            int(random.integers(1, 4)),
        )
        for _ in range(count)
    ]


def cases(lanes: tuple[int, ...], count: int) -> list[Case]:
    """Random sizes, the smallest and odd ones among them, more steps than one chunk has."""
    smallest = [Case(cell, 1, 1, 1, 1, width, 1, 2) for cell in range(4) for width in lanes]
    return smallest + drawn(0, range(4), (70, 70, 14, 60), lanes, count)


def heads(lanes: tuple[int, ...], count: int) -> list[Case]:
    """Likewise of calendar heads, with more steps than one chunk of theirs has."""
    smallest = [Case(-1, 1, 1, 1, 1, width, 1, 2) for width in lanes]
    return smallest + drawn(1, range(-7, 0), (70, 20, 14, 40), lanes, count)


def all_cases(count: int) -> list[Case]:
    """Of all codes that this processor runs."""
    whole = cases(library.widths(), count) + heads(library.widths(), count // 3)
    return whole + mixed_cases(library.mixed_codes(), count // 3)


def mixed_cases(codes: tuple[int, ...], count: int) -> list[Case]:
    """Of these codes in mixed precision, which has none for relu."""
    return [case for case in cases(codes, count) if CELLS[case.cell] != "relu"] if codes else []


def arrays(case: Case) -> tuple[nn.Module, list[Tensor]]:
    """A torch module of these sizes, and what the harness reads of it."""
    torch.manual_seed(case.batch)
    if case.cell < 0:
        head = CalendarHead(case.hidden, case.steps, case.inputs, 0.5 * (case.batch % 2), -case.cell)
        memory, future = (
            torch.randn(case.batch, case.hidden),
            torch.randn(case.batch, case.steps, case.inputs),
        )
        dout = torch.randn(case.batch, case.steps, -case.cell)
        return head, [memory, future, *(weight.detach() for weight in head.weights), dout]
    kind = {"lstm": nn.LSTM, "gru": nn.GRU}.get(CELLS[case.cell], nn.RNN)
    extra = {"nonlinearity": CELLS[case.cell]} if kind is nn.RNN else {}
    module = kind(case.inputs, case.hidden, batch_first=True, **extra)
    state = [torch.randn(case.batch, case.hidden) for _ in range(4)]
    x = torch.randn(case.batch, case.steps, case.inputs)
    dy = torch.randn(case.batch, case.steps, case.hidden)
    return module, [x, *state[:2], *(p.detach() for p in module.parameters()), dy, *state[2:]]


def expected(case: Case, module: nn.Module, given: list[Tensor]) -> list[Tensor]:
    """What torch makes of it, in the harness's order."""
    if isinstance(module, CalendarHead):
        module.drop_memory = nn.Identity()
        set_key(module, torch.tensor(-case.batch) - Place.UNITS * FIRST)
        memory, future = (tensor.clone().requires_grad_() for tensor in given[:2])
        with using("torch"):
            out = module(memory, future)
        by = [memory, future, *module.weights] if case.inputs % 2 else [memory, *module.weights]
        return [out, out, *torch.autograd.grad((out * given[-1]).sum(), by)]
    x, h0, c0, *_, dy, dh_n, dc_n = (tensor.clone().requires_grad_() for tensor in given)
    is_lstm = case.cell == 0
    y, state = module(x, (h0[None], c0[None]) if is_lstm else h0[None])
    h_n, c_n = (state[0][0], state[1][0]) if is_lstm else (state[0], torch.zeros_like(c0))
    loss = (y * dy).sum() + (h_n * dh_n).sum() + (c_n * dc_n).sum() + 0 * c0.sum()
    dx, dh0, dc0, *by_weights = torch.autograd.grad(loss, [x, h0, c0, *module.parameters()])
    return [y, h_n, c_n, dx, dh0, dc0, *by_weights, *around(given[0])]


def around(x_BTI: Tensor) -> list[Tensor]:
    """The input with units dropped, normalised, and taken for raw outputs, as torch has it."""
    drop = Dropout(0.5, 0).train()
    set_key(drop, torch.tensor(-len(x_BTI)))
    with using("torch"):
        normalised = Normaliser("instance")(x_BTI, x_BTI > 0, None, x_BTI.shape[-1])
        stepped_, forecast_ = stepped(x_BTI), forecast(x_BTI, *normalised)
        return [drop(x_BTI), *normalised, *stepped_, *forecast_, clock(*x_BTI.shape)]


def clock(count: int, ahead: int, features: int) -> Tensor:
    """(count, ahead, features) the harness's calendar, by its tables' numbers."""
    place = (1 + count % 2) * (torch.arange(count)[:, None] + 1 + torch.arange(ahead))
    now = place + torch.tensor([0, 3, 1])[torch.searchsorted(torch.tensor([4, 8]), place, right=True)]
    of_day, of_time = (features * row[..., None] + torch.arange(features) for row in (now // 5, now % 5))
    return of_day + of_time / 2


def stepped(x_BTI: Tensor) -> list[Tensor]:
    """What AdamW makes of weights, moments and average, by the input, which they all are as well."""
    weights = nn.Parameter(x_BTI.clone())
    optimizer = torch.optim.AdamW([weights], lr=0.01, weight_decay=0.1)
    state = {"exp_avg": x_BTI.clone(), "exp_avg_sq": x_BTI.square(), "step": torch.tensor(3.0)}
    optimizer.state[weights] = state
    weights.grad = x_BTI.clone()
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    average = torch.lerp(x_BTI, weights.detach(), 0.2)
    return [weights, state["exp_avg"], state["exp_avg_sq"], average, state["step"].view(1)]


def forecast(x_BTI: Tensor, read_BTD: Tensor, location_B1I: Tensor, spread_B1I: Tensor) -> list[Tensor]:
    """Quantiles of the input as raw outputs and their loss, each with gradients."""
    batch, steps, outputs = x_BTI.shape
    raw_BTI, base_BT = x_BTI.clone().requires_grad_(), x_BTI.reshape(-1)[: batch * steps].view(batch, steps)
    target_BT, base_BT = base_BT.clone(), base_BT.clone().requires_grad_()
    observed_BT = (x_BTI > 0).reshape(-1)[: batch * steps].view(batch, steps)
    location, scale = (tensor.reshape(-1)[:batch].view(-1, 1, 1) for tensor in (location_B1I, spread_B1I))
    y_BTI = (rising(raw_BTI, outputs // 2) + base_BT[..., None]) * scale + location
    by_y = read_BTD.reshape(-1)[: x_BTI.numel()].view(x_BTI.shape)
    gradients = torch.autograd.grad((y_BTI * by_y).sum(), [raw_BTI, base_BT])
    y_BTI = y_BTI.detach().requires_grad_()
    levels_I = (torch.arange(outputs) + 1) / (outputs + 1)
    loss = forecast_loss("pinball", y_BTI, target_BT, observed_BT, levels_I)
    return [y_BTI, *gradients, loss.view(1), *torch.autograd.grad(loss, y_BTI)]


def run(program: list[str], chosen: list[Case], environment: dict[str, str] | None = None) -> None:
    """All cases through one process; every number as torch has it."""
    made = [arrays(case) for case in chosen]
    text = b""
    for case, (_, given) in zip(chosen, made, strict=True):
        sizes = (case.cell, case.batch, case.steps, case.inputs, case.hidden)
        text += np.array([*sizes, case.lanes, case.vectors, case.threads], dtype=np.int64).tobytes()
        text += b"".join(tensor.contiguous().numpy().tobytes() for tensor in given)
    done = subprocess.run(
        program, input=text, capture_output=True, env={**os.environ, **(environment or {})}, timeout=200
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert not done.stderr, done.stderr.decode()[-3000:]
    numbers, at = np.frombuffer(done.stdout, dtype=np.float32), 0
    for case, (module, given) in zip(chosen, made, strict=True):
        for number, tensor in enumerate(expected(case, module, given)):
            seen = torch.from_numpy(numbers[at : at + tensor.numel()].copy()).view(tensor.shape)
            at += tensor.numel()
            if case.lanes in library.MIXED and number < len(given):
                # tests/test_mixed_precision.py looks more closely.
                assert (seen - tensor).norm() <= 0.05 * tensor.norm() + 0.05, case
                continue
            atol = 1e-5 * max(1.0, float(tensor.detach().abs().max()))
            assert torch.allclose(seen, tensor.detach(), rtol=1e-5, atol=atol), case
    assert at == len(numbers)


def build(compiler: str, folder: Path, *flags: str) -> str:
    """The harness with the kernel's sources."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    program = folder / "harness"
    command = [
        compiler,
        *FLAGS,
        *flags,
        f"-I{CPU}",
        "-o",
        str(program),
        str(HARNESS),
        *map(str, sorted(CPU.glob("*.c"))),
        "-lm",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return str(program)


@pytest.mark.skipif(not library.widths(), reason="no native code for this processor")
def test_no_bad_access_and_no_undefined_behaviour(tmp_path: Path) -> None:
    program = build("gcc", tmp_path, *SANITIZED, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    run([program], all_cases(60))


@pytest.mark.skipif(not library.widths(), reason="no native code for this processor")
def test_no_data_race(tmp_path: Path) -> None:
    program = build("gcc", tmp_path, *SANITIZED, "-fsanitize=thread")
    # Some kernels place memory where ThreadSanitizer does not expect it.
    without_layout = ["setarch", "-R"] if shutil.which("setarch") else []
    run([*without_layout, program], all_cases(30), {"TSAN_OPTIONS": "exitcode=66"})


@pytest.mark.skipif(not library.mixed_codes(), reason="no products of bfloat16 here")
def test_amx_where_its_tiles_are_emulated(tmp_path: Path) -> None:
    """So that it is checked on processors without it; and sanitizers see its tiles whole."""
    sanitizers = "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    program = build("gcc", tmp_path, *SANITIZED, *sanitizers, "-O1", f"-include{EMULATED_AMX}")
    run([program], mixed_cases((library.AMX,), 20))


def test_neon_under_emulation(tmp_path: Path) -> None:
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("no qemu-aarch64 here")
    run(
        [emulator, build("aarch64-linux-gnu-gcc", tmp_path, *SANITIZED, "-O1", "-static")],
        cases((4,), 40) + heads((4,), 15),
    )
