"""Who is running: a process named so that another one can tell later whether it is dead."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Process:
    """A process on a host. Its start time tells it from a later one with the same id.

    Args:
        host: the host's name.
        pid: the process id.
        started: seconds from the host's boot to its start, which no step of the clock changes; from the epoch
            where `boot` is empty.
        boot: which boot of the host; empty where the system has no name for it.
    """

    host: str
    pid: int
    started: float
    boot: str = ""

    def __str__(self) -> str:
        boot = f"{self.boot}-" if self.boot else ""
        return f"{self.host}:{self.pid}:{boot}{self.started:.2f}"

    @classmethod
    def parse(cls, text: str) -> Process:
        """The inverse of ``str``.

        Raises:
            ValueError: not a process as `str` writes it.
        """
        host, pid, start = text.rsplit(":", 2)
        boot, _, started = start.rpartition("-")
        return cls(host, int(pid), float(started), boot)


def this_process() -> Process:
    """The process that asks."""
    return Process(_host(), os.getpid(), _own_start(os.getpid()), _boot())


def process_of(pid: int) -> Process:
    """A process of this host.

    Raises:
        psutil.NoSuchProcess: there is none with that id.
    """
    return Process(_host(), pid, _start(pid), _boot())


def is_dead(process: Process) -> bool:
    """True only where it is certain: same host, and no live process with that id and start time."""
    if process.host != _host() or process == this_process():
        return False
    if process.boot not in ("", _boot()):
        return True
    try:
        if process.boot:
            state, started = _stat(process.pid)
            return state == "Z" or started != process.started
        other = psutil.Process(process.pid)
        return other.status() == psutil.STATUS_ZOMBIE or abs(other.create_time() - process.started) > 1
    except psutil.NoSuchProcess:
        return True


def _start(pid: int) -> float:
    """`Process.started` of a living process."""
    return _stat(pid)[1] if _boot() else round(psutil.Process(pid).create_time(), 2)


# It takes reading files, and lanes ask about their own all the time.
_own_start = cache(_start)


def _stat(pid: int) -> tuple[str, float]:
    """State (a letter) and start (seconds from boot) of a process, as Linux tells them.

    psutil adds the time of the boot to the start, and that moves with the clock.

    Raises:
        psutil.NoSuchProcess: there is none with that id.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(pid) from error
    fields = text.rpartition(b")")[2].split()  # the name before it may hold brackets and blanks
    return fields[0].decode(), round(int(fields[19]) / os.sysconf("SC_CLK_TCK"), 2)


@cache
def _host() -> str:
    """As it was first asked: a laptop takes another name with another network, and is the same host."""
    return socket.gethostname()


@cache
def _boot() -> str:
    """Eight digits that tell this boot of the host from others; empty where the system has none."""
    return _BOOT.read_text()[:8] if _BOOT.exists() else ""
