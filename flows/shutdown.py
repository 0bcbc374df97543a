"""Ending the processes of a stack: in order, whole trees, and what outlived its parent."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil

STOP_SECONDS = 40.0
MARK = "_NIGHTCAST_STACK"
"""The environment variable that every process of a stack carries; its value is the stack's own process."""
WORKER = "worker-"
"""What the names of Prefect workers begin with."""
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore the signals that ask to end. For the main thread, the only one that gets any."""
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in ASKING}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def end_all(children: Mapping[str, int], mark: str) -> None:
    """End a stack's processes: flow runs, workers, servers, and what is left.

    A Prefect worker that is asked to end kills its flow runs. They are asked before it, so that a night
    closes its runs while the servers are up.
    """
    workers = [pid for name, pid in children.items() if name.startswith(WORKER)]
    _end([flow_run for pid in workers for flow_run in _children(pid)])
    # The servers were started first.
    for pid in reversed(list(children.values())):
        _end_tree(pid)
    _end_marked(mark)


def _end_tree(pid: int) -> None:
    """End a process and all that it started."""
    try:
        root = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    started = _children(pid, recursive=True)
    _end([root])
    _end(started)


def _end(processes: list[psutil.Process]) -> None:
    """End processes: asked first, killed after a while."""
    _signal(processes, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=STOP_SECONDS)
    _signal(alive, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def _children(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _end_marked(mark: str) -> None:
    """End every process that carries a stack's mark, whoever its parent is by now."""
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get(MARK) == mark
        except psutil.Error:
            continue
        if is_ours:
            _end_tree(process.pid)


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
