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
from importlib import import_module
from pathlib import Path

from flows.imports import importing

ASKED_TO_END = 128 + signal.SIGTERM
"""Exit status of a child that was asked to end before its work was done."""

GRACE_SECONDS = 8.0
"""Seconds that a child that was asked gives its epoch to end."""


def start(
    module: str,
    *arguments: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Run the `main` of a module as a child. Its output is added to `log`.

    Args:
        environment: added to this process's own.
        pass_fds: descriptors that the child inherits.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", __name__, module, *arguments],
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


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a child's output, under the file's name."""
    text = log.read_text(errors="replace").strip().splitlines()
    return "\n".join([f"{log}:", *text[-lines:]])


def asked_to_end() -> threading.Event:
    """Set when this process is asked to end; where its epoch is long it then ends soon, whatever it does.

    An exception out of a signal handler could interrupt a transaction and keep the database locked. What a
    sudden end leaves running is cleaned up by the night, or by the next one.
    """
    asked = threading.Event()

    def end(number: int, _: object) -> None:
        if not asked.is_set():
            asked.set()
            sudden = threading.Timer(GRACE_SECONDS, os._exit, (128 + number,))
            sudden.daemon = True
            sudden.start()

    signal.signal(signal.SIGTERM, end)
    return asked


def _obey() -> None:
    """Send this process SIGTERM when its parent lets go of it."""
    # Unbuffered: a thread inside a buffered read cannot be left behind when the interpreter ends.
    while os.read(sys.stdin.fileno(), 1024):
        continue
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """The child's process: on the leash before the module that it runs imports what takes long."""
    threading.Thread(target=_obey, name="leash", daemon=True).start()
    with importing():
        module = import_module(sys.argv[1])
    module.main(*sys.argv[2:])


if __name__ == "__main__":
    main()
