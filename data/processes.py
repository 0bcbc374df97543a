"""Who is running: a process named so that another one can tell later whether it is dead."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache

import psutil


@dataclass(frozen=True)
class Process:
    """A process on a host. Its start time tells it from a later one with the same id."""

    host: str
    pid: int
    started: float

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.started:.2f}"

    @classmethod
    def parse(cls, text: str) -> Process:
        """The inverse of ``str``.

        Raises:
            ValueError: not a process as `str` writes it.
        """
        host, pid, started = text.rsplit(":", 2)
        return cls(host, int(pid), float(started))


def this_process() -> Process:
    """The process that asks."""
    return Process(socket.gethostname(), os.getpid(), _started(os.getpid()))


def is_dead(process: Process) -> bool:
    """True only where it is certain: same host, and no live process with that id and start time."""
    if process.host != socket.gethostname():
        return False
    if process.pid == os.getpid():
        return abs(_started(process.pid) - process.started) > 1
    try:
        other = psutil.Process(process.pid)
        return other.status() == psutil.STATUS_ZOMBIE or abs(other.create_time() - process.started) > 1
    except psutil.NoSuchProcess:
        return True


@cache
def _started(pid: int) -> float:
    """When a living process began. It takes reading files, and lanes ask about their own all the time."""
    return round(psutil.Process(pid).create_time(), 2)
