"""Which kernel runs a layer: the native one, torch's own, or the reference."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

Kernel = Literal["auto", "native", "torch", "reference"]


class _Forced(threading.local):
    kernel: Kernel | None = None


_forced = _Forced()


@contextmanager
def using(kernel: Kernel) -> Iterator[None]:
    """Force a kernel for this thread inside the block.

    Raises:
        ValueError: an unknown name.
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel {kernel!r}: not one of {', '.join(get_args(Kernel))}")
    before, _forced.kernel = _forced.kernel, kernel
    try:
        yield
    finally:
        _forced.kernel = before


def wanted() -> Kernel:
    """The kernel that this thread asks for."""
    return _forced.kernel or "auto"
