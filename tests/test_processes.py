"""Processes: named so that another one can tell later, for certain, that one is dead."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import processes
from data.processes import Process, is_dead, process_of, this_process

on_linux = pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="boots have no id")


@contextmanager
def living(preparation: str = "pass") -> Iterator[Process]:
    """A child that has named itself and waits."""
    program = (
        f"from data.processes import this_process; {preparation}; print(this_process(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        process = Process.parse(child.stdout.readline().strip())
        assert process.pid == child.pid
        try:
            yield process
        finally:
            child.kill()


@given(
    host=st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1),
    pid=st.integers(0, 2**31),
    hundredths=st.integers(0, 10**12),
    boot=st.just("") | st.from_regex("[0-9a-f]{8}", fullmatch=True),
)
def test_parse_is_the_inverse_of_str(host: str, pid: int, hundredths: int, boot: str) -> None:
    """Hosts may hold colons, as IPv6 addresses do."""
    process = Process(host, pid, hundredths / 100, boot)
    assert Process.parse(str(process)) == process


@pytest.mark.parametrize("text", ["", "host", "host:1", "host:one:2.0", "host:1:then"])
def test_what_is_no_process_does_not_parse(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Process.parse(text)


def test_the_process_that_asks_is_alive() -> None:
    me = this_process()
    assert (me.host, me.pid) == (socket.gethostname(), os.getpid())
    assert me == this_process() == Process.parse(str(me))
    assert not is_dead(me)


@given(st.floats(1.5, 1e9))
def test_a_later_process_with_the_same_id_is_another_one(seconds: float) -> None:
    assert is_dead(replace(this_process(), started=this_process().started - seconds))


def test_another_hosts_process_is_never_certainly_dead() -> None:
    assert not is_dead(Process("elsewhere.example", 2**22 + 1, 0.0))
    assert is_dead(Process(socket.gethostname(), 2**22 + 1, 0.0))


def test_a_host_that_takes_another_name_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a laptop does on another network, in the middle of a night."""
    me = this_process()
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert this_process() == me
    assert not is_dead(me)
    assert is_dead(replace(me, pid=2**22 + 1, started=0.0))


@on_linux
def test_a_process_of_another_boot_is_dead() -> None:
    assert is_dead(replace(this_process(), boot="another"))


@on_linux
@pytest.mark.parametrize("seconds", [-3600, 3, 3600])
def test_no_step_of_the_clock_makes_a_living_process_dead(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """What the system tells of a start by the wall clock moves with it."""
    told = psutil.Process.create_time
    with living() as process:
        monkeypatch.setattr(psutil.Process, "create_time", lambda own: told(own) + seconds)
        assert not is_dead(process)
        assert process_of(process.pid) == process


@on_linux
def test_a_process_may_call_itself_anything() -> None:
    preparation = "open('/proc/self/comm', 'wb').write(b') Z 1 (\\xff 2')"
    with living(preparation) as process:
        assert Path(f"/proc/{process.pid}/comm").read_bytes() == b") Z 1 (\xff 2\n"
        assert process_of(process.pid) == process
        assert not is_dead(process)


def by_the_clock(process: Process) -> Process:
    return Process(process.host, process.pid, round(psutil.Process(process.pid).create_time(), 2))


def test_a_process_that_is_known_by_the_clock_is_found_all_the_same() -> None:
    """So older versions wrote it, and so systems without a name for a boot write it."""
    assert re.fullmatch(r".+:\d+:\d+\.\d\d", str(by_the_clock(this_process())))
    assert not is_dead(by_the_clock(this_process()))
    with living() as process:
        assert not is_dead(by_the_clock(process))
        assert is_dead(replace(by_the_clock(process), started=by_the_clock(process).started - 2))


def test_where_a_boot_has_no_name_the_clock_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    with living() as process:
        monkeypatch.setattr(processes, "_boot", lambda: "")
        assert process_of(process.pid) == by_the_clock(process)


def test_no_process_is_no_process() -> None:
    with pytest.raises(psutil.NoSuchProcess):
        process_of(2**22 + 1)


def test_a_killed_process_is_dead_before_and_after_its_parent_takes_note() -> None:
    with living() as process:
        assert not is_dead(process)
        os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not is_dead(process):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert is_dead(process)
