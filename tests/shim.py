"""`nightcast` on a shell's path, forked: for tests that run commands as a page or another program has them.

The program that the shell finds hands its words, environment, folder and files to this process and waits for
the exit status. It is not there to be sent signals. The installed program's own way is that of `Executable`
and of `make demo`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from forked import Fork
from nights import NIGHTCAST

PROGRAM = """#!{python} -IS
import json, os, socket, sys

with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
    asking.connect({address!r})
    words = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(asking, [words], [0, 1, 2])
    status = int(asking.recv(64))
sys.exit(status if status >= 0 else 128 - status)
"""


@contextlib.contextmanager
def nightcast_first(folder: Path):
    """A path to look programs up by, on which `nightcast` is first. `folder` is fresh; its name is short."""
    folder.mkdir()
    address, program = str(folder / "asked"), folder / "nightcast"
    program.write_text(PROGRAM.format(python=sys.executable, address=address))
    program.chmod(0o755)
    commands: list[Fork] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        answering = threading.Thread(target=_answer, args=(listener, commands))
        answering.start()
        try:
            yield f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            # One that nobody waits for any more; the thread sees its end.
            for command in commands:
                if command.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(command.pid, signal.SIGKILL)
            answering.join()


def _answer(listener, commands):
    """One command after the other, until the listener is shut. Whoever asks after a failure is refused."""
    with listener:
        while True:
            try:
                asked, _ = listener.accept()
            except OSError:
                return
            with asked:
                commands.append(_start(asked))
                asked.send(str(commands[-1].wait()).encode())


def _start(asked):
    message, files, _, _ = socket.recv_fds(asked, 1 << 20, 3)
    arguments, environment, where = json.loads(message)
    with contextlib.ExitStack() as given:
        opened = zip(files, ("rb", "wb", "wb"), strict=True)
        stdin, stdout, stderr = (given.enter_context(os.fdopen(file, mode)) for file, mode in opened)
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        return Fork(NIGHTCAST, *arguments, **streams, environment=environment, folder=where)
