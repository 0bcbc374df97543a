"""Being asked to end: Ctrl-C and SIGTERM become exceptions that unwind the work, whenever they come."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

AGAIN_SECONDS = 0.01
"""After which a signal whose exception was lost is sent again: most likely when the finaliser is over."""


class Asked(SystemExit):
    """SIGTERM came. What was begun is ended, and child processes are stopped, on the way out."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def obey() -> None:
    """Let Ctrl-C and SIGTERM end this process in order. Call it in the main thread, before anything else."""
    # A shell starts background commands with Ctrl-C ignored; a night must still end in order when asked.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)
    insist()


def insist() -> None:
    """Let no signal of this process be lost, whoever handles it: in a flow run Prefect does."""
    if not isinstance(sys.unraisablehook, _Insistent):
        sys.unraisablehook = _Insistent(sys.unraisablehook)


def _end(_: int, __: object) -> None:
    raise Asked


class _Insistent:
    """Sends a signal again whose exception was raised where Python drops it.

    A handler runs wherever the main thread is: also inside finalisers and the callbacks of weak references,
    of which a database session has many. In a loop that asks a study how it is doing, one in twenty did.
    """

    def __init__(self, others: Callable[[UnraisableHookArgs], object]) -> None:
        self._others = others

    def __call__(self, lost: UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, Exception | GeneratorExit):
            self._others(lost)
            return
        # Prefect's exception names its signal.
        asked = signal.SIGINT if issubclass(lost.exc_type, KeyboardInterrupt) else signal.SIGTERM
        number = getattr(lost.exc_value, "signal", asked)
        threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()
