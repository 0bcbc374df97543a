"""The persistent Triton kernel for GPUs.

Each program takes a few rows of the batch, loads the recurrent weights into shared memory once, and walks all
steps with its states on chip. What does not depend on the step before is a large matrix product outside: the
inputs' part of the sums, and the weights' gradients. `lstm.kernels.measured` says where it beats cuDNN;
`lstm.kernels.using("persistent")` runs it wherever it can. Triton's interpreter (``TRITON_INTERPRET=1``)
checks its numbers on a CPU.

Axes: B batch, T time steps, I inputs, G gates, H hidden size.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from data.errors import NightcastError
from lstm.kernels.reference import Weights

GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}
# Of the batch, for a program. With so few, registers and shared memory hold all that a step needs.
ROWS = 4
# Of one block on an H100, which the interpreter stands in for.
_SHARED_BYTES = 227 * 1024
_FLOAT = 4
# Triton 3.4 multiplies 16 rows or more.
_LEAST_TRITON = (3, 5)


class KernelUnavailable(NightcastError, RuntimeError):
    """The kernel that was asked for cannot run this layer; says why, and the remedy."""


def units(hidden: int) -> int:
    """The hidden size padded: a power of two, and at least the 16 that a product needs."""
    return max(16, 1 << (hidden - 1).bit_length())


def warps(hidden: int) -> int:
    """Of 32 threads each; as many as keep a step's numbers in registers."""
    return 8 if units(hidden) <= 64 else 16


def shared_bytes(cell: str, hidden: int) -> int:
    """Shared memory of a program: the recurrent weights of P padded units, and a tile a gate in backward.

    GPP + GRP floats for R rows: 68 KiB for an LSTM of 33 to 64 units, 264 KiB from 65 on. An H100 has 227 KiB
    for a block, so it takes LSTMs of up to 64 units, and GRUs and RNNs of up to 128.
    """
    padded = units(hidden)
    return GATES[cell] * padded * (padded + ROWS) * _FLOAT


def is_installed() -> bool:
    """Whether there is a Triton that can be used."""
    if find_spec("triton") is None:
        return False
    import triton

    return tuple(map(int, triton.__version__.split(".")[:2])) >= _LEAST_TRITON


def check(cell: str, x_BTI: Tensor, hidden: int) -> None:
    """That the kernel can run a layer on this input.

    Raises:
        KernelUnavailable: no Triton, not float32, no CUDA device, or weights that do not fit on chip.
    """
    what = f"persistent kernel: {cell} of hidden size {hidden} on {x_BTI.device}"
    if not is_installed():
        least = ".".join(map(str, _LEAST_TRITON))
        raise KernelUnavailable(f"{what}: no Triton {least} or newer. Remedy: pip install triton, on Linux")
    if x_BTI.dtype is not torch.float32 or torch.is_autocast_enabled(x_BTI.device.type):
        raise KernelUnavailable(
            f"{what}: float32 only, not {x_BTI.dtype} or autocast. Remedy: float32, or another kernel"
        )
    if not (x_BTI.is_cuda or (x_BTI.device.type == "cpu" and _is_interpreted())):
        raise KernelUnavailable(
            f"{what}: it runs on CUDA devices. Remedy: move module and input there, or, to check its numbers "
            "on the CPU, set TRITON_INTERPRET=1 before the process starts"
        )
    needed, most = shared_bytes(cell, hidden), _shared_bytes_of(x_BTI.device)
    if needed > most:
        raise KernelUnavailable(
            f"{what}: needs {needed / 1024:.0f} KiB of shared memory for its weights, a block has "
            f"{most / 1024:.0f}. Remedy: a smaller hidden size, or another kernel"
        )


def layer(
    cell: str, x_BTI: Tensor, h_BH: Tensor, c_BH: Tensor | None, weights: Weights, sequence: bool
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """As `lstm.kernels.reference.layer`, for float32 on CUDA devices.

    Raises:
        KernelUnavailable: as of `check`.
    """
    hidden = h_BH.shape[1]
    check(cell, x_BTI, hidden)
    arguments = (x_BTI, h_BH, c_BH, *weights)
    save = torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in arguments)
    outer, inner = _biases(cell, weights, hidden)
    inputs_BTF = torch.nn.functional.linear(x_BTI, weights.ih, outer)
    y_BTH, h_n_BH, c_n_BH = _Recurrence.apply(  # type: ignore[no-untyped-call]
        cell, inputs_BTF, weights.hh, inner, h_BH, c_BH, sequence, save
    )
    return y_BTH if sequence else None, h_n_BH, None if c_BH is None else c_n_BH


def _biases(cell: str, weights: Weights, hidden: int) -> tuple[Tensor | None, Tensor | None]:
    """What is added to the inputs' part of the sums; and, in a GRU, to W_hn h, which a gate multiplies."""
    if weights.bias_ih is None or weights.bias_hh is None:
        return None, None
    if cell != "gru":
        return weights.bias_ih + weights.bias_hh, None
    gates, inner = weights.bias_hh[: 2 * hidden], weights.bias_hh[2 * hidden :]
    return weights.bias_ih + torch.nn.functional.pad(gates, (0, hidden)), inner


class _Recurrence(torch.autograd.Function):
    """All steps of a layer, of the inputs' part of the sums (B, T, GH)."""

    @staticmethod
    def forward(
        ctx: Any, cell: str, inputs_BTF: Tensor, w_FH: Tensor, bias_H: Tensor | None, h_BH: Tensor,
        c_BH: Tensor | None, sequence: bool, save: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        inputs_BTF, w_FH, h_BH = inputs_BTF.contiguous(), w_FH.contiguous(), h_BH.contiguous()
        c_BH = h_BH if c_BH is None else c_BH.contiguous()
        bias_H = h_BH.new_zeros(h_BH.shape[1]) if bias_H is None else bias_H.contiguous()
        (batch, steps, _), hidden = inputs_BTF.shape, h_BH.shape[1]
        is_written = sequence or save
        y_BTH = h_BH.new_empty(batch, steps if is_written else 0, hidden)
        gates_BTF = inputs_BTF.new_empty(inputs_BTF.shape if save and GATES[cell] > 1 else 0)
        kept_BTH = y_BTH.new_empty(y_BTH.shape if save and GATES[cell] > 1 else 0)
        h_n_BH, c_n_BH = torch.empty_like(h_BH), torch.empty_like(c_BH)
        # Each gate's turned round, as forward multiplies by them.
        w_GHH = w_FH.view(-1, hidden, hidden).mT.contiguous()
        tensors = (inputs_BTF, w_GHH, bias_H, h_BH, c_BH, y_BTH, gates_BTF, kept_BTH, h_n_BH, c_n_BH)
        _launch(cell, "forward", tensors, (batch, steps, hidden), SEQUENCE=is_written, SAVE=save)
        if save:
            ctx.cell = cell
            ctx.save_for_backward(w_FH, h_BH, c_BH, y_BTH, gates_BTF, kept_BTH)
        return y_BTH, h_n_BH, c_n_BH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BTH: Tensor, dh_n_BH: Tensor, dc_n_BH: Tensor) -> tuple[Tensor | None, ...]:
        w_FH, h_BH, c_BH, y_BTH, gates_BTF, kept_BTH = ctx.saved_tensors
        batch, steps, hidden = y_BTH.shape
        dy_BTH, dh_n_BH, dc_n_BH = dy_BTH.contiguous(), dh_n_BH.contiguous(), dc_n_BH.contiguous()
        dinputs_BTF = y_BTH.new_empty(batch, steps, w_FH.shape[0])
        dkept_BTH = torch.empty_like(kept_BTH)
        dh_BH, dc_BH = torch.empty_like(h_BH), torch.empty_like(c_BH)
        found = (dinputs_BTF, dkept_BTH, dh_BH, dc_BH)
        tensors = (gates_BTF, w_FH, h_BH, c_BH, y_BTH, kept_BTH, dy_BTH, dh_n_BH, dc_n_BH, *found)
        _launch(ctx.cell, "backward", tensors, (batch, steps, hidden))
        dsums_BTF, dbias_H = dinputs_BTF, None
        if ctx.cell == "gru":
            dsums_BTF = torch.cat([dinputs_BTF[..., : 2 * hidden], dkept_BTH], dim=2)
            dbias_H = dkept_BTH.sum((0, 1)) if ctx.needs_input_grad[3] else None
        before_BTH = torch.cat([h_BH[:, None], y_BTH[:, :-1]], dim=1)
        dw_FH = dsums_BTF.flatten(0, 1).T @ before_BTH.flatten(0, 1) if ctx.needs_input_grad[2] else None
        return None, dinputs_BTF, dw_FH, dbias_H, dh_BH, dc_BH if ctx.cell == "lstm" else None, None, None


def _launch(
    cell: str, way: str, tensors: tuple[Tensor, ...], sizes: tuple[int, int, int], **options: bool
) -> None:
    batch, _, hidden = sizes
    kernels = _kernels()
    if GATES[cell] == 1:
        options["RELU"] = cell == "relu"
    kernel = getattr(kernels, f"{cell if GATES[cell] > 1 else 'rnn'}_{way}")
    with torch.cuda.device_of(tensors[0]):  # type: ignore[no-untyped-call]
        kernel[(-(-batch // ROWS),)](
            *tensors,
            *sizes,
            **options,
            ROWS=ROWS,
            UNITS=units(hidden),
            num_warps=warps(hidden),
            num_stages=1,
        )


@cache
def _kernels() -> ModuleType:
    """Triton takes a second to import, and is not everywhere."""
    from lstm.kernels import persistent_kernels

    return persistent_kernels


def _is_interpreted() -> bool:
    """Triton reads TRITON_INTERPRET where it compiles a function, so what was compiled is asked."""
    from triton import JITFunction

    return not isinstance(_kernels().lstm_forward, JITFunction)


def _shared_bytes_of(device: torch.device) -> int:
    if device.type != "cuda":
        return _SHARED_BYTES
    from triton.compiler.compiler import max_shared_mem

    most: int = max_shared_mem(device.index)
    return most
