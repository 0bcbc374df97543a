"""Child processes on a leash: they end when their parent does, however it ends.

The parent holds the other end of a child's standard input and never writes: the end of the file says that
it is gone. A child has a session of its own, so a Ctrl-C reaches the parent alone, which then ends its
children in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def start(
    module: str,
    *arguments: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Run a module of ours as a child; it must call `obey`. Its output goes to `log`.

    Args:
        environment: added to this process's own.
        pass_fds: descriptors that the child inherits.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
            env={**os.environ, **(environment or {})},
        )


def release(children: Sequence[subprocess.Popen[bytes]], patience: float) -> None:
    """Ask every child to end, wait so many seconds for all of them, and kill what stays."""
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
    deadline = time.monotonic() + patience
    for child in children:
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def obey() -> None:
    """Send this process SIGTERM when its parent lets go of it. Call it first."""
    threading.Thread(target=_wait_for_the_end, name="leash", daemon=True).start()


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a child's output, under the file's name."""
    text = log.read_text(errors="replace").strip().splitlines()
    return "\n".join([f"{log}:", *text[-lines:]])


def _wait_for_the_end() -> None:
    # Unbuffered: a thread inside a buffered read cannot be left behind when the interpreter ends.
    while os.read(sys.stdin.fileno(), 1024):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
