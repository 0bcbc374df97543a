"""Python without its imports' five seconds: a process that has the project in memory forks for each test that
asks.

A fork is a process as real as any: of a session of its own, with the environment, folder and files that the
test gives it. Signals reach it and its interpreter ends as any other's does.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT

LATE = (
    "alembic.config",
    "nursery",
    "plotly.graph_objects",
    "prefect.flow_engine",
    "prefect.server.api.server",
    "prefect.task_engine",
    "scipy.stats",
    "sklearn.metrics",
    "torch._dynamo",
    "uvicorn",
)
"""What modules import where they use it."""

FILES = 4
"""Descriptors that come with a request: its three standard files, and where the answers go."""

ALONE = {
    "OMP_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "_RJEM_MALLOC_CONF": "background_thread:false",
}
"""With these no library starts threads while it is imported: a fork takes none along."""

MISSED = ("polars-ooc-clea",)
"""Threads that nobody misses: this one removes what queries larger than the memory left on the disk."""


class Running:
    """A process that was forked elsewhere, with what `subprocess.Popen` offers of it.

    Attributes:
        pid: of the process.
        returncode: its exit status, or minus the signal that killed it; None until its end was seen.
    """

    def __init__(self, answers):
        """`answers` is a socket that tells the process's id, then how it has ended."""
        self.returncode = None
        self._answers = answers
        self.pid = self._answer()

    def poll(self):
        """Its exit status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)

    def wait(self, timeout=None):
        """Its exit status, once it has ended."""
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            self.returncode = self._answer()
            self._answers.close()
        return self.returncode

    def send_signal(self, number):
        """A signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def _answer(self):
        text = self._answers.recv(64)
        assert text, "the process that forks has ended"
        return int(text)


class Fork(Running):
    """A process that runs Python code.

    Args:
        code: what `python -c` would be given.
        arguments: its `sys.argv[1:]`, as texts.
        stdin, stdout, stderr: files; `PIPE` is one that this process holds the other end of, for text, and
            `STDOUT` the same as `stdout`.
        environment: all of it.
        folder: where it works; unset is where this process does.

    Attributes:
        stdin, stdout: the other ends of pipes.
    """

    def __init__(self, code, *arguments, stdin=None, stdout=None, stderr=None, environment=None, folder=None):
        self.stdin = self.stdout = None
        request = {"code": code, "arguments": list(map(str, arguments)), "folder": str(folder or Path.cwd())}
        request["environment"] = {**os.environ} if environment is None else environment
        answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = [stdin, stdout or sys.__stdout__, stderr or sys.__stderr__]
        with Path(os.devnull).open("rb") as null, contextlib.ExitStack() as passed, theirs:
            if stdin is PIPE:
                given[0], self.stdin = map(os.fdopen, os.pipe(), ("rb", "w"))
                passed.push(given[0])
            if stdout is PIPE:
                self.stdout, given[1] = map(os.fdopen, os.pipe(), ("r", "wb"))
                passed.push(given[1])
            if stderr is STDOUT:
                given[2] = given[1]
            files = [given[0] or null, *given[1:], theirs]
            socket.send_fds(_server(), [json.dumps(request).encode()], [file.fileno() for file in files])
        super().__init__(answers)

    def communicate(self, text=""):
        """Write, read until its end, and wait; what it wrote. Once more: nothing."""
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError), contextlib.closing(self.stdin):
                if text:
                    self.stdin.write(text)
        with contextlib.closing(self.stdout):
            said = "" if self.stdout.closed else self.stdout.read()
        self.wait()
        return said, None


@functools.cache
def _server():
    """Where requests go. Started once, where a test first asks; it ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            env={**os.environ, **ALONE, "MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONUNBUFFERED": "1"},
        )

    @atexit.register
    def end():
        ours.close()
        process.wait()

    return ours


def _preload():
    """Import every module of the project, and what these import late."""
    import data
    import flows
    import lstm
    from flows.imports import importing

    with importing():
        for room in (data, lstm, flows):
            for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
                if not module.name.endswith(("._native", ".persistent_kernels")):  # C, for ctypes; Triton
                    importlib.import_module(module.name)
        for name in LATE:
            importlib.import_module(name)
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    missing = [name for name in threads if name not in MISSED]
    assert len(missing) == 1, f"threads would not be there after a fork: {missing}"
    gc.freeze()


def _serve(requests):
    """Forks for every request. Returns in each fork, with its request and its files."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, 1 << 20, FILES)
        if not message:
            sys.exit()
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
        _reap()
    requests.close()
    *standard, answers = files
    with socket.socket(fileno=answers) as answering:
        pid = os.fork()
        if pid:
            # Nobody but its parent is told how a process ended.
            for file in standard:
                os.close(file)
            answering.send(str(pid).encode())
            _, status = os.waitpid(pid, 0)
            answering.send(str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
    return json.loads(message), standard


def _reap():
    """Forget the processes that have told of a fork's end."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def settle(request):
    """This process in a session of its own, in the folder and with the environment that were asked for."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])


def _become(request, standard):
    """This process as a shell would have started it."""
    settle(request)
    for number, file in enumerate(standard):
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["-c", *request["arguments"]]
    return request["code"]


if __name__ == "__main__":
    _preload()
    exec(_become(*_serve(socket.socket(fileno=int(sys.argv[1])))), {"__name__": "__main__"})
