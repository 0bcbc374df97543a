"""Processes: named so that another one can tell later, for certain, that one is dead."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.processes import Process, is_dead, this_process


@given(
    host=st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1),
    pid=st.integers(0, 2**31),
    hundredths=st.integers(0, 10**12),
)
def test_parse_is_the_inverse_of_str(host: str, pid: int, hundredths: int) -> None:
    """Hosts may hold colons, as IPv6 addresses do."""
    process = Process(host, pid, hundredths / 100)
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


def test_a_killed_process_is_dead_before_and_after_its_parent_takes_note() -> None:
    program = "from data.processes import this_process; print(this_process(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        process = Process.parse(child.stdout.readline().strip())
        assert process.pid == child.pid
        assert not is_dead(process)
        child.kill()
        deadline = time.monotonic() + 10
        while not is_dead(process):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.wait()
        assert is_dead(process)
