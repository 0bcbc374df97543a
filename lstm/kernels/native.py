"""The native kernel: the code in `cpu/`, as a function of autograd's, and as an operator for graphs.

Axes: B batch, T time steps, I inputs, H hidden size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lstm.kernels import library
from lstm.kernels.calls import Call, Fields, fields
from lstm.kernels.reference import Weights

_CELLS = {"lstm": 0, "gru": 1, "tanh": 2, "relu": 3}
# Below so many operations a second thread costs more than it brings (about a tenth of a millisecond's work).
_WORTH_A_THREAD = 10_000_000
# The time of two vectors of rows that walk together, in that of one: LSTM(50), 1,000 steps, AVX-512.
_TWO_VECTORS = 1.87

_threads: int | None = None

_FIELDS: Fields = [
    (ctypes.c_int64, "cell batch steps inputs hidden lanes vectors threads"),
    (ctypes.c_void_p, "x"),
    (ctypes.c_int64, "x_batch x_step x_input"),
    (ctypes.c_void_p, "h0 c0 w_ih w_hh b_ih b_hh y"),
    (ctypes.c_int64, "y_batch y_step"),
    (ctypes.c_void_p, "h_n c_n saved work dy"),
    (ctypes.c_int64, "dy_batch dy_step dy_hidden"),
    (ctypes.c_void_p, "dh_n dc_n dx dh0 dc0 dw_ih dw_hh db_ih db_hh"),
]


class _Layer(ctypes.Structure):
    """`layer` of cpu/native.h."""

    _fields_ = fields(_FIELDS)


def set_threads(count: int | None) -> None:
    """The native kernel's threads in this process; None, as at the start, is as many as torch has.

    They scale where torch's own layers do not. `shares_threads` says whether they are torch's threads; others
    would have to share their cores with torch's, which spin for a while after each operation.

    Raises:
        ValueError: fewer than one.
    """
    if count is not None and count < 1:
        raise ValueError(f"{count} threads. Remedy: one or more, or None for as many as torch has")
    global _threads
    _threads = count


def has_own_threads() -> bool:
    """Whether `set_threads` has set them."""
    return _threads is not None


def threads() -> int:
    """The most threads that the native kernel takes in this process."""
    return torch.get_num_threads() if _threads is None else _threads


def plan(batch: int, threads: int) -> tuple[int, int]:
    """Floats in a vector, and vectors of batch rows that walk through time together.

    The widest that still gives every thread a share: rows are shared out in whole vectors. Then in twos,
    unless the largest share would take longer so.
    """
    widths = library.widths()
    lanes = next((n for n in widths if batch > n * (threads - 1) and batch > n // 2), widths[-1])
    vectors = -(-batch // lanes)
    return lanes, 2 if _longest(vectors, 2, threads) < _longest(vectors, 1, threads) else 1


def _longest(vectors: int, together: int, threads: int) -> float:
    """The largest share of a thread, in times of one vector alone, as cpu/team.c shares out blocks: the
    last one may be an odd vector."""
    blocks = -(-vectors // together)
    threads = min(threads, blocks)
    shares = [blocks * (i + 1) // threads - blocks * i // threads for i in range(threads)]
    times = [share * (_TWO_VECTORS if together == 2 else 1) for share in shares]
    times[-1] -= (_TWO_VECTORS - 1) * (vectors % together)
    return max(times)


def threads_for(operations: int) -> int:
    """One where there is little to do, else as many as are set."""
    return threads() if operations > _WORTH_A_THREAD else 1


def threads_of(batch: int, steps: int, inputs: int, hidden: int) -> int:
    """As `threads_for`, of a layer."""
    return threads_for(8 * hidden * (hidden + inputs) * batch * steps)


def _saved_floats(cell: str, batch: int, steps: int, hidden: int, mixed: bool) -> int:
    """What forward keeps for backward, whatever the vector's width: whole vectors of the widest; a number.
    In mixed precision two of them share a float."""
    widest = library.MIXED_COLUMNS if mixed else max(library.CODES)
    kept = -(-batch // widest) * widest * steps * (5 if cell in ("lstm", "gru") else 1) * hidden
    return (kept // 2 if mixed else kept) + 1


def layer(
    cell: str,
    x_BTI: Tensor,
    h_BH: Tensor,
    c_BH: Tensor | None,
    weights: Weights,
    sequence: bool,
    *,
    mixed: bool = False,
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """As `lstm.kernels.reference.layer`, for float32 on the CPU.

    Args:
        mixed: in mixed precision: products of bfloat16, sums and states in float32.

    Raises:
        MemoryError: too little of it; names the shapes.
        RuntimeError: mixed precision of relu, or where the processor has no code for it.
    """
    arguments = (x_BTI, h_BH, c_BH, *weights)
    given = [argument for argument in arguments if argument is not None]
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    run = _Eager.apply if library.is_plain(*given) else torch.ops.nightcast.recurrent
    y_BTH, h_BH, c_next_BH, _ = run(cell, *arguments, sequence, save, mixed)  # type: ignore[no-untyped-call]
    return y_BTH if sequence else None, h_BH, None if c_BH is None else c_next_BH


mixed_layer = partial(layer, mixed=True)
"""`layer` in mixed precision."""


def _forward(
    cell: str,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    sequence: bool,
    save: bool,
    mixed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One layer: every hidden state, the last hidden and cell state, and what the backward pass needs.

    What is not wanted comes back empty.
    """
    batch, steps, inputs = x.shape
    hidden = h0.shape[1]
    threads = threads_of(batch, steps, inputs, hidden)
    call = _call(cell, x, h0, c0, w_ih, w_hh, b_ih, b_hh, threads, mixed)
    y = call.taken(batch if sequence else 0, steps, hidden)
    h_n = torch.empty_like(h0, memory_format=torch.contiguous_format)
    c_n = torch.empty_like(h_n) if c0 is not None else h0.new_empty(0)
    saved = call.taken(_saved_floats(cell, batch, steps, hidden, mixed) if save else 0)
    if save:
        # How the rest is laid out follows from it: the backward pass must take as many, whatever is set then.
        saved[-1] = threads
    call.set(h_n=h_n, c_n=c_n, saved=saved if save else None)
    if sequence:
        call.set(y=y)
        call.task.y_batch, call.task.y_step = steps * hidden, hidden
    call.run("forward")
    return y, h_n, c_n, saved


_recurrent = torch.library.custom_op("nightcast::recurrent", _forward, mutates_args=(), device_types="cpu")


@_recurrent.register_fake
def _(
    cell: str, x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any,
    sequence: bool, save: bool, mixed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    batch, steps, _ = x.shape
    hidden = h0.shape[1]
    return (
        x.new_empty(batch if sequence else 0, steps, hidden),
        h0.new_empty(batch, hidden),
        h0.new_empty((batch, hidden) if c0 is not None else (0,)),
        x.new_empty(_saved_floats(cell, batch, steps, hidden, mixed) if save else 0),
    )


def _backward(
    cell: str,
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    has_bias: bool,
    saved: Tensor,
    want_x: bool,
    mixed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by x, h0, c0, w_ih, w_hh, b_ih, b_hh; empty where there is none or it is not wanted."""
    call = _call(cell, x, h0, c0, w_ih, w_hh, None, None, int(saved[-1]), mixed)
    dx = call.taken(*(x.shape if want_x else (0,)))
    dh0 = torch.empty_like(h0, memory_format=torch.contiguous_format)
    dc0 = torch.empty_like(dh0) if c0 is not None else h0.new_empty(0)
    dw_ih, dw_hh = w_ih.new_empty(w_ih.shape), w_hh.new_empty(w_hh.shape)
    biases = [h0.new_empty(w_ih.shape[0] if has_bias else 0) for _ in range(2)]
    if dy is not None:
        call.task.dy_batch, call.task.dy_step, call.task.dy_hidden = dy.stride()
        call.set(dy=dy)
    call.set(
        dh_n=None if dh_n is None else dh_n.contiguous(),
        dc_n=None if dc_n is None or c0 is None else dc_n.contiguous(),
        saved=saved,
        dx=dx if want_x else None,
        dh0=dh0,
        dc0=dc0,
        dw_ih=dw_ih,
        dw_hh=dw_hh,
        db_ih=biases[0] if has_bias else None,
        db_hh=biases[1] if has_bias else None,
    )
    call.run("backward")
    return dx, dh0, dc0, dw_ih, dw_hh, biases[0], biases[1]


_recurrent_backward = torch.library.custom_op(
    "nightcast::recurrent_backward", _backward, mutates_args=(), device_types="cpu"
)


@_recurrent_backward.register_fake
def _(
    cell: str, dy: Any, dh_n: Any, dc_n: Any, x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor,
    w_hh: Tensor, has_bias: bool, saved: Tensor, want_x: bool, mixed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    nothing = h0.new_empty(0)
    bias = [h0.new_empty(w_ih.shape[0] if has_bias else 0) for _ in range(2)]
    return (
        x.new_empty(x.shape) if want_x else nothing,
        h0.new_empty(h0.shape),
        h0.new_empty(h0.shape) if c0 is not None else nothing.clone(),
        w_ih.new_empty(w_ih.shape),
        w_hh.new_empty(w_hh.shape),
        bias[0],
        bias[1],
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    cell, x, h0, c0, w_ih, w_hh, b_ih, *_, mixed = inputs
    ctx.cell, ctx.has_bias, ctx.mixed = cell, b_ih is not None, mixed
    ctx.save_for_backward(x, h0, c0, w_ih, w_hh, output[3])
    ctx.mark_non_differentiable(output[3])
    ctx.set_materialize_grads(False)


def _gradients(
    backward: Callable[..., tuple[Tensor, ...]],
    ctx: Any,
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    _: Tensor | None,
) -> tuple[Tensor | None, ...]:
    x, h0, c0, w_ih, w_hh, saved = ctx.saved_tensors
    want_x = ctx.needs_input_grad[1]
    arguments = (x, h0, c0, w_ih, w_hh, ctx.has_bias, saved, want_x, ctx.mixed)
    dx, dh0, dc0, *by_weights, db_ih, db_hh = backward(ctx.cell, dy, dh_n, dc_n, *arguments)
    biases = (db_ih, db_hh) if ctx.has_bias else (None, None)
    by_states = (dx if want_x else None, dh0, None if c0 is None else dc0)
    return None, *by_states, *by_weights, *biases, None, None, None


_recurrent.register_autograd(
    partial(_gradients, torch.ops.nightcast.recurrent_backward), setup_context=_remember
)


class _Eager(torch.autograd.Function):
    """The operator without what makes it fit for graphs, which takes a quarter of a millisecond a step.

    Its gradient has none of its own.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        output = _forward(*inputs)
        _remember(ctx, inputs, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_output: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [by for by in by_output if by is not None]
        backward = _backward if library.is_plain(*given) else torch.ops.nightcast.recurrent_backward
        return _gradients(backward, ctx, *by_output)


def _call(
    cell: str, x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None,
    b_hh: Tensor | None, threads: int, mixed: bool,
) -> Call:  # fmt: skip
    """A layer's call, with what both passes read."""
    if mixed and (cell == "relu" or not library.mixed_codes()):
        raise RuntimeError(f"mixed precision: not for {cell} here. Remedy: `lstm.kernels.native.layer`")
    batch, steps, inputs = x.shape
    lanes, vectors = (library.mixed_codes()[0], 1) if mixed else plan(batch, threads)
    sizes = (_CELLS[cell], batch, steps, inputs, h0.shape[1], lanes, vectors, threads)
    shapes = f"batch {batch}, {steps} steps, {inputs} inputs, hidden size {h0.shape[1]}"
    call = Call(_Layer(*sizes), f"recurrent layer of {shapes}", "nightcast")
    call.task.x_batch, call.task.x_step, call.task.x_input = x.stride()
    given = {"h0": h0, "c0": c0, "w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh}
    call.set(x=x, **{name: None if tensor is None else tensor.contiguous() for name, tensor in given.items()})
    return call
