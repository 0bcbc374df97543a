"""Importing what takes seconds: a fifth faster, and the process ends a second sooner."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import inside the block. What modules make stays, so that nobody looks for garbage among it.

    Neither now nor later; the interpreter's end too would look through all of it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
