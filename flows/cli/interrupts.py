"""Being asked to end: Ctrl-C and SIGTERM become exceptions that unwind the command, whenever they come."""

from __future__ import annotations

import os
import signal
import sys
import threading
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
    sys.unraisablehook = _insist


def _end(_: int, __: object) -> None:
    raise Asked


def _insist(lost: UnraisableHookArgs) -> None:
    """Send a signal again whose exception was raised where Python drops it.

    A handler runs wherever the main thread is: also inside finalisers and the callbacks of weak references,
    of which a database session has many. In a loop that asks a study how it is doing, one in twenty did.
    """
    for kind, number in ((KeyboardInterrupt, signal.SIGINT), (Asked, signal.SIGTERM)):
        if issubclass(lost.exc_type, kind):
            threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()
            return
    sys.__unraisablehook__(lost)
