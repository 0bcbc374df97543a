"""What a forked command starts on a leash, forked as well: its search workers, contenders and Prefect server.

A command that has threads cannot fork. Before it has any, it puts a process beside itself that forks when the
command asks, so that what is started is the command's descendant, as it would be. It has a session and files
of its own, the environment of that moment, and its standard input for a leash; it ends and is killed as any
other process. Only its imports are there already.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import socket
import sys
from pathlib import Path

from forked import FILES, PIPE, STDOUT, Fork, Running, become
from prefect.context import refresh_global_settings_context
from prefect.logging.configuration import setup_logging

from data.errors import SettingsError

POLL_SECONDS = 0.05
ON_A_LEASH = "import nursery; nursery.leashed()"


class Nursery:
    """The process beside a command, seen from the command."""

    def __init__(self, requests):
        self._requests = requests

    def start(self, module, *arguments, log, environment=None, pass_fds=()):
        """As `flows.leash.start`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        request = {
            "arguments": [module, *arguments],
            "environment": {**os.environ, **(environment or {})},
            "folder": str(Path.cwd()),
            "numbers": [0, 1, 2, *pass_fds],
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        leash, stdin = os.pipe()
        with log.open("ab") as output, theirs:
            files = [leash, output.fileno(), output.fileno(), *pass_fds, theirs.fileno()]
            socket.send_fds(self._requests, [json.dumps(request).encode()], files)
        os.close(leash)
        child = Running(ours)
        child.stdin = os.fdopen(stdin, "wb")
        return child


def start(module, *arguments, log, environment=None, pass_fds=()):
    """As `flows.leash.start`, for a test that has threads: the child is not a descendant of it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    full = {**os.environ, **(environment or {})}
    with log.open("ab") as output:
        files = {"stdin": PIPE, "stdout": output, "stderr": STDOUT, "pass_fds": pass_fds}
        return Fork(ON_A_LEASH, module, *arguments, environment=full, **files)


def leashed():
    """What a child that a test has started runs."""
    from flows import leash

    _be_on_a_leash()
    leash.main()


def begin():
    """Put a nursery beside this process, which has one thread. Returns what it runs: the command line.

    It returns once more in each process that the command starts, with what that one runs.
    """
    from flows import leash
    from flows.cli import main, output

    if not _beside():
        return leash.main
    before = dict(os.environ)
    with contextlib.suppress(SettingsError):  # which the command will tell
        output.prepare()
        let_prefect_read_the_environment()
    # The command prepares it for itself, maybe with a variable of its own first.
    os.environ.clear()
    os.environ.update(before)
    sys.argv[0] = "nightcast"
    return main


def begin_accuracy():
    """The same for `python -m benchmarks.accuracy`."""
    from benchmarks.accuracy import main
    from flows import leash

    return functools.partial(main, *sys.argv[1:]) if _beside() else leash.main


def _beside():
    """Put a nursery beside this process: true. False in each process that it forks later."""
    from flows import leash

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _become(*_nurse(theirs))
        return False
    theirs.close()
    leash.start = Nursery(ours).start
    return True


def _nurse(requests):
    """Fork for every request, and tell how each child has ended. Returns in each child."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    waiting = {}
    while True:
        if select.select([requests], [], [], POLL_SECONDS)[0]:
            message, files, _, _ = socket.recv_fds(requests, 1 << 20, FILES)
            if not message:
                os._exit(0)
            *own, answers = files
            if (pid := os.fork()) == 0:
                break
            waiting[pid] = socket.socket(fileno=answers)
            with contextlib.suppress(BrokenPipeError):
                waiting[pid].send(str(pid).encode())
            for file in own:
                os.close(file)
        while waiting and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with waiting.pop(ended[0]) as answers, contextlib.suppress(BrokenPipeError):
                answers.send(str(os.waitstatus_to_exitcode(ended[1])).encode())
    requests.close()
    os.close(answers)
    for other in waiting.values():
        other.close()
    return json.loads(message), own


def _become(request, files):
    """This process as `flows.leash.start` would have started it."""
    become(request, files)
    sys.argv[:] = ["leash", *request["arguments"]]
    _be_on_a_leash()


def _be_on_a_leash():
    # As much of it as there is room for: what tells processes apart.
    Path("/proc/self/comm").write_text(sys.argv[1])
    if sys.argv[1] == "flows.embedded":
        let_prefect_read_the_environment()


def prefect():
    """What the installed program does; its exit status."""
    from prefect.cli import app

    let_prefect_read_the_environment()
    sys.argv[0] = "prefect"
    return app()


def let_prefect_read_the_environment():
    """As it does while it is imported."""
    refresh_global_settings_context()
    setup_logging()
