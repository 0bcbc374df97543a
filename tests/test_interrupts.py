"""Signals that ask to end: none is lost, wherever the interpreter is when it comes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, time, weakref
from flows.interrupts import obey

class Anything:
    pass

def callback(_):
    os.kill(os.getpid(), signal.{name})
    for _ in range(1000):  # the handler runs in here, where exceptions are dropped
        pass

obey()
{then}
thing = Anything()
reference = weakref.ref(thing, callback)
try:
    del thing
    print("lost", flush=True)
    time.sleep(60)
except BaseException as error:
    print(type(error).__name__, flush=True)
    raise
"""


IN_A_FLOW = "from prefect.flow_engine import capture_sigterm; inside = capture_sigterm(); inside.__enter__()"


@pytest.mark.parametrize(
    ("name", "then", "told", "status"),
    [
        ("SIGINT", "", "KeyboardInterrupt", -signal.SIGINT),
        ("SIGTERM", "", "Asked", 128 + signal.SIGTERM),
        ("SIGTERM", IN_A_FLOW, "TerminationSignal", 1),
    ],
)
def test_a_signal_inside_a_finaliser_still_ends_the_command(
    name: str, then: str, told: str, status: int
) -> None:
    """Python only prints what is raised there."""
    program = PROGRAM.format(name=name, then=then)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["lost", told]
    assert done.returncode == status


def test_other_exceptions_inside_a_finaliser_are_still_printed() -> None:
    program = """
from flows.interrupts import obey
class Broken:
    def __del__(self):
        raise ValueError("told")
obey()
Broken()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert "ValueError: told" in done.stderr
