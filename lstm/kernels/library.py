"""The compiled code of `cpu/`: whether it is there, and what it can do on this processor.

`pip install` compiles it where it finds a C compiler. It is plain C over pointers, called through ctypes,
which releases the GIL, so it depends neither on torch's ABI nor on Python's.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor

CODES = {16: "AVX-512", 8: "AVX2", 4: "NEON"}
"""The codes by the floats in a vector."""
AMX, BF16 = 32, 33
MIXED = {AMX: "AMX", BF16: "AVX-512"}
"""The codes in mixed precision, the fastest first, by what stands for a vector's width."""
MIXED_COLUMNS = 32
"""The rows of a batch that they walk with at a time."""

# As cpu/native.c has it: counted up with every change of what it is handed.
_LAYOUT = 5

_PLAIN = {Tensor, torch.nn.Parameter}
_is_cpu = attrgetter("is_cpu")

_widths: tuple[int, ...] | None = None
_mixed_codes: tuple[int, ...] | None = None
_intel: bool | None = None
_shares: bool | None = None


@cache
def load() -> ctypes.CDLL | None:
    """The compiled code; None where it was not built or cannot be loaded."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_native{suffix}")
        if path.exists():
            try:
                loaded = ctypes.CDLL(str(path))
            except OSError:
                # Built for another machine: a checkout or a model's code that was carried here.
                return None
            if not hasattr(loaded, "nightcast_layout") or loaded.nightcast_layout() != _LAYOUT:
                # Built from other sources, which read other structures.
                return None
            for name in ("work", "head_work", "head_saved"):
                getattr(loaded, f"nightcast_{name}_floats").restype = ctypes.c_int64
            if (team := _team()) is not None:
                loaded.nightcast_borrow(team)
            return loaded
    return None


@cache
def _team() -> ctypes.c_void_p | None:
    """GNU OpenMP's entry point in the runtime that torch brought along; None where it has another.

    Threads of one runtime wait for each other in one place; those of two spin on each other's cores.
    """
    for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*")):
        try:
            runtime = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:
            continue
        return ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p)
    return None


def shares_threads() -> bool:
    """Whether the native kernel runs on torch's own threads."""
    global _shares
    if _shares is None:
        _shares = load() is not None and _team() is not None
    return _shares


def _leave_team() -> None:
    """In a process that was forked: OpenMP's threads stayed behind, and it would wait for them for ever."""
    global _shares
    if shares_threads():
        compiled().nightcast_borrow(None)
    _shares = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_team)


def widths() -> tuple[int, ...]:
    """Floats in a vector, for every code that this processor runs, the widest first."""
    global _widths
    if _widths is None:
        _widths = _supported(CODES)
    return _widths


def mixed_codes() -> tuple[int, ...]:
    """Those of `MIXED` that this processor runs, and the system allows.

    It is asked for AMX, once and for good: 8 KB more to save of each thread that then uses it.
    """
    global _mixed_codes
    if _mixed_codes is None:
        _mixed_codes = _supported(MIXED)
    return _mixed_codes


def _supported(codes: Iterable[int]) -> tuple[int, ...]:
    loaded = load()
    return tuple(code for code in codes if loaded and loaded.nightcast_supports(ctypes.c_int64(code)))


def is_plain(*tensors: Tensor) -> bool:
    """Whether native code may read these as they are: memory of this process, which nobody else looks at.

    Graphs, `torch.func`'s transforms and modes such as a counter of operations see torch's operators only.
    """
    is_watched = (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )
    # One question to all of them at a time: an optimizer's step has dozens.
    return (
        not is_watched
        and _PLAIN.issuperset(map(type, tensors))
        and all(map(_is_cpu, tensors))
        # Not what stands for a batch of gradients, nor a negative that is not computed yet.
        and all(map(torch._C._has_storage, tensors))
        and not any(map(Tensor.is_neg, tensors))
    )


def is_intel() -> bool:
    """Whether the processor is Intel's."""
    global _intel
    if _intel is None:
        loaded = load()
        _intel = bool(loaded and loaded.nightcast_is_intel())
    return _intel


def describe() -> str:
    """What there is, in words."""
    if load() is None:
        return "not built: no C compiler at the install, or built for another machine or from older sources"
    if not widths():
        return "built, but not for this processor"
    return " and ".join(CODES[lanes] for lanes in widths())


def compiled() -> ctypes.CDLL:
    """The compiled code, where there is some."""
    loaded = load()
    assert loaded is not None
    return loaded
