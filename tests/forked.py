"""Python without its imports' five seconds: a process that has the project in memory forks for each test that
asks.

A fork is a process as real as any: of a session of its own, with the environment, folder and files that the
test gives it. Signals reach it, and it ends as any other does: threads are waited for, exit functions called.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
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
import threading
from pathlib import Path
from subprocess import PIPE, STDOUT

LATE = (
    "PIL.PngImagePlugin",
    "alembic.config",
    "anyio._backends._asyncio",
    "git",
    "graphviz",
    "mlflow.cli",
    "mlflow.projects.backend.local",
    "mlflow.store.artifact.local_artifact_repo",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "nursery",
    "optuna.storages._rdb.storage",
    "pandera.backends.polars.register",
    "pandera.strategies.base_strategies",
    "plotly.graph_objects",
    "prefect.cli.deploy",
    "prefect.cli.deployment",
    "prefect.flow_engine",
    "prefect.server.api.server",
    "prefect.task_engine",
    "scipy.stats",
    "sklearn.metrics",
    "torch._dynamo",
    "torch.profiler",
    "uvicorn",
)
"""What modules import where they use it."""

FILES = 16
"""The most descriptors that come with a request: its files, and where the answers go."""

ROOM = 200
"""Descriptors above this are nobody's: a child's own are parked there until each has its number."""

QUEUE = 8
"""Test processes that may wait until the one that forks has its imports."""

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
        pass_fds: descriptors that it inherits, under the same numbers.

    Attributes:
        stdin, stdout: the other ends of pipes.
    """

    def __init__(
        self,
        code,
        *arguments,
        stdin=None,
        stdout=None,
        stderr=None,
        environment=None,
        folder=None,
        pass_fds=(),
    ):
        self.stdin = self.stdout = None
        request = {"code": code, "arguments": list(map(str, arguments)), "folder": str(folder or Path.cwd())}
        request["environment"] = {**os.environ} if environment is None else environment
        request["numbers"] = [0, 1, 2, *pass_fds]
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
            standard = [file.fileno() for file in (given[0] or null, *given[1:])]
            files = [*standard, *pass_fds, theirs.fileno()]
            socket.send_fds(_server(), [json.dumps(request).encode()], files)
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
    """Where requests go: one process for all test processes of a run, started by the first that asks.

    It ends with the last of them.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    address = f"\0nightcast-tests-{run}"
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        with contextlib.suppress(OSError):  # another test process was first
            listener.bind(address)
            listener.listen(QUEUE)
            _start(listener)
        asking.connect(address)
    # What was registered last is called first.
    atexit.register(asking.close)
    return asking


def _start(listener):
    process = subprocess.Popen(
        [sys.executable, __file__, str(listener.fileno())],
        stdin=subprocess.DEVNULL,
        pass_fds=(listener.fileno(),),
        start_new_session=True,
        env={**os.environ, **ALONE, "MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONUNBUFFERED": "1"},
    )
    atexit.register(process.wait)


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
        _look_up_once()
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    missing = [name for name in threads if name not in MISSED]
    assert len(missing) == 1, f"threads would not be there after a fork: {missing}"
    gc.set_threshold(20_000, 20, 20)


def _look_up_once():
    """What libraries find out at their first use, and keep: mappings, fonts, the modules of packages."""
    from mlflow.utils import requirements_utils
    from sqlalchemy.orm import configure_mappers

    from lstm.tracking import drawing

    configure_mappers()
    requirements_utils._init_packages_to_modules_map()
    figure, _ = drawing.rows(1)
    drawing.title(figure, "A title", "a line below it")
    drawing.png(figure)


def _serve(listener):
    """Forks for every request, while anybody may ask. Returns in each fork, with its request and files."""
    asking = []
    message = None
    while message is None:
        for one in select.select([listener, *asking], [], [])[0]:
            if one is listener:
                asking.append(listener.accept()[0])
                continue
            asked, files, _, _ = socket.recv_fds(one, 1 << 20, FILES)
            if not asked:
                asking.remove(one)
                one.close()
                if not asking:
                    sys.exit()
                continue
            if os.fork() == 0:
                message = asked
                break
            for file in files:
                os.close(file)
            _reap()
    for one in (listener, *asking):
        one.close()
    *own, answers = files
    with socket.socket(fileno=answers) as answering:
        pid = os.fork()
        if pid:
            # Nobody but its parent is told how a process ended.
            for file in own:
                os.close(file)
            answering.send(str(pid).encode())
            _, status = os.waitpid(pid, 0)
            answering.send(str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
    return json.loads(message), own


def _reap():
    """Forget the processes that have told of a fork's end."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def become(request, files):
    """This process in a session of its own, with the folder, environment and files that were asked for."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    parked = [fcntl.fcntl(file, fcntl.F_DUPFD, ROOM) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(parked, request["numbers"], strict=True):
        os.dup2(file, number)
        os.close(file)


def _run(request, files):
    """The code, as a shell would have started it, to its end."""
    become(request, files)
    sys.argv = ["-c", *request["arguments"]]
    sys.path.insert(0, "")
    try:
        exec(request["code"], {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code
        if status is not None and not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException as error:  # noqa: BLE001 - told, as every interpreter does at its end
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
        if isinstance(error, KeyboardInterrupt):
            atexit.register(_interrupt)
    _end(status or 0)


def _interrupt():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _end(status):
    """As an interpreter ends; but what it has in memory is not taken apart first, for half a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    _preload()
    _run(*_serve(socket.socket(fileno=int(sys.argv[1]))))
